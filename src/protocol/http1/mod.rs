//! HTTP/1.1 and HTTP/1.0, as a server reads them: request heads and chunked bodies (RFC 9112).
//!
//! Place in the walk of a request: step 2. `connection/` calls [`parse_head`] until it yields a
//! head, then reads the body by its framing, with [`ChunkDecoder`] when that is chunked.
//!
//! Split by what is read: [`scan`] finds the end of the head and keeps the size limits, [`fields`]
//! reads the field lines that decide framing, [`target`] the request target and authorities, and
//! [`head`] puts them in order. `httparse` is the tokenizer beneath; it takes a bare LF for a line
//! end and knows nothing of Content-Length, Transfer-Encoding, Host, Connection or Expect, so all
//! of that is checked here.
//!
//! Strict on purpose: where two readers of the same bytes could disagree on where a request ends,
//! the request is refused and the connection closed.

pub mod chunked;
pub mod fields;
pub mod head;
pub mod scan;
pub mod target;

pub use chunked::{ChunkDecoder, ChunkStep};
pub use fields::{FIELDS_MAX, FieldTable, Fields};
pub use head::{HeadLimits, RequestHead, parse_head};
pub use scan::HeadScan;
pub use target::percent_decode;

#[cfg(test)]
mod tests;
