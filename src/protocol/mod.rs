//! Codecs: bytes of a peer in, a request head (or a refusal) out.
//!
//! Place in the walk of a request: step 2, called by `connection/` each time bytes have arrived.
//! A codec is a pure function over a byte slice. It has no socket, clock, log or allocation, never
//! panics on any input, and what it returns borrows from the slice.
//!
//! The three answers mean the same in every codec:
//! * [`Parsed::Partial`]: more bytes are needed and these are not yet wrong. It is returned for
//!   every strict prefix of a legal head, so a peer may cut its bytes anywhere;
//! * [`Parsed::Reject`]: no further byte can make this legal. The same rejection comes out however
//!   the bytes were cut;
//! * [`Parsed::Head`]: a whole head, with the number of bytes it took.

pub mod http1;
pub mod uwsgi;

use crate::http::Rejection;

/// What a codec says of the bytes received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<H> {
    /// The head is complete.
    Head(H),
    /// Legal so far, not complete.
    Partial,
    /// Refused; answer as the rejection says, then close.
    Reject(Rejection),
}

#[cfg(test)]
#[path = "../../tests/data/golden.rs"]
mod golden;
