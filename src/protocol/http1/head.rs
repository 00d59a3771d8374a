//! The request head: request line and fields, checked until one reading of it is left.
//!
//! Place in the walk of a request: step 2; `connection/` calls [`parse_head`] on the unread bytes
//! each time some arrive, then hands the [`RequestHead`] to admission and dispatch.
//!
//! Wire format (RFC 9112 §2.1, §3): `method SP request-target SP HTTP-version CRLF`, then fields.
//!
//! Invariants:
//! * every strict prefix of a legal head is `Partial`; however bytes are cut, the verdict is the
//!   same;
//! * a head that is returned has exactly one framing, at most one Host, and one meaning;
//! * nothing is copied: all slices borrow from the bytes given, the field table lies on the stack.
//!
//! Differences from what one might expect: a method may be any token up to 32 bytes (longer: 501)
//! and keeps its case; minor versions other than 0 and 1 are answered 505 like other major ones,
//! for no client sends them; an empty Host is refused (RFC 9110 §4.2.1).

use super::fields::{FIELDS_MAX, FieldTable, Fields, read_fields};
use super::scan::HeadScan;
use super::target::split_target;
use crate::http::{BodyFraming, Rejection, Version};
use crate::protocol::Parsed;

/// Bounds on a head. All count bytes or lines as received, so they also bound the work done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Request line without its CRLF, in bytes; beyond it 414.
    pub request_line_bytes: usize,
    /// Field lines, dropped ones included, at most [`FIELDS_MAX`]; beyond it 431.
    pub fields: usize,
    /// One field line, name to value, without its CRLF, in bytes; beyond it 431.
    pub field_bytes: usize,
    /// The whole head, empty lines before it and the final CRLF included, in bytes; beyond it 431.
    pub head_bytes: usize,
}

impl HeadLimits {
    /// The documented defaults of the `limit-request-*` options.
    pub const DEFAULT: HeadLimits = HeadLimits {
        request_line_bytes: 8190,
        fields: 100,
        field_bytes: 16_384,
        head_bytes: 65_536,
    };
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits::DEFAULT
    }
}

/// A legal request head. `'b`: the receive buffer; `'f`: the field table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'b, 'f> {
    /// A token of at most 32 bytes, in the client's case; never CONNECT.
    pub method: &'b [u8],
    /// The target as it stands on the request line; becomes REQUEST_URI.
    pub target: &'b [u8],
    /// Starts with `/`, or is `*` (OPTIONS only). Still percent-encoded: see
    /// [`percent_decode`](super::percent_decode).
    pub path: &'b [u8],
    /// What follows the first `?`; empty when there is none.
    pub query: &'b [u8],
    /// `host[:port]`, checked in full: from an absolute-form target, else from Host. `None` only
    /// with HTTP/1.0.
    pub host: Option<&'b [u8]>,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// What is handed on to the application: names with `_` and `Proxy` are gone, hop-by-hop fields
    /// are not. If there is a Host among them, its value is `host`.
    pub fields: Fields<'b, 'f>,
    /// Where the body ends.
    pub framing: BodyFraming,
    /// Whether the client lets the connection live on after this request.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends a body that is not empty.
    pub expect_continue: bool,
    /// Bytes of the buffer this head took, empty lines before it and the final CRLF included.
    pub head_bytes: usize,
}

/// Reads a request head from the start of `bytes`.
///
/// `scan` carries the search from call to call and is set back when a head or a rejection is
/// returned; `bytes` must start at the same byte until then. `fields` is used only when the head is
/// complete. A rejection's status is one of 400, 414, 417, 431, 501 and 505.
pub fn parse_head<'b, 'f>(
    bytes: &'b [u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
    fields: &'f mut FieldTable<'b>,
) -> Parsed<RequestHead<'b, 'f>> {
    let span = match scan.advance(bytes, limits) {
        Ok(Some(span)) => span,
        Ok(None) => return Parsed::Partial,
        Err(rejection) => {
            *scan = HeadScan::default();
            return Parsed::Reject(rejection);
        }
    };
    *scan = HeadScan::default();
    match read_head(&bytes[span.start..span.end], limits, fields) {
        Ok(head) => Parsed::Head(RequestHead { head_bytes: span.end, ..head }),
        Err(rejection) => Parsed::Reject(rejection),
    }
}

/// Reads `head`, which begins with the request line and ends with its only empty line.
fn read_head<'b, 'f>(
    head: &'b [u8],
    limits: &HeadLimits,
    fields: &'f mut FieldTable<'b>,
) -> Result<RequestHead<'b, 'f>, Rejection> {
    const UNREADABLE: Rejection = Rejection::bad_request("the request line is malformed");
    let table = &mut fields.entries[..limits.fields.min(FIELDS_MAX)];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, table) {
        // The tokenizer must end where the scan did: two ends would be two requests.
        Ok(httparse::Status::Complete(end)) if end == head.len() => {}
        Ok(_) => return Err(Rejection::bad_request("the head ends early")),
        Err(error) => return Err(refusal(error, head)),
    }
    let method = request.method.ok_or(UNREADABLE)?.as_bytes();
    let target = request.path.ok_or(UNREADABLE)?.as_bytes();
    let version = match request.version {
        Some(0) => Version::Http10,
        Some(1) => Version::Http11,
        _ => return Err(UNREADABLE),
    };
    let parts = split_target(method, target)?;
    let facts = read_fields(request.headers, version, parts.authority)?;
    Ok(RequestHead {
        method,
        target,
        path: parts.path,
        query: parts.query,
        host: facts.host,
        version,
        fields: facts.fields,
        framing: facts.framing,
        keep_alive: facts.keep_alive,
        expect_continue: facts.expect_continue,
        head_bytes: head.len(),
    })
}

/// The answer to a head that the tokenizer does not take.
fn refusal(error: httparse::Error, head: &[u8]) -> Rejection {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => {
            Rejection::new(431, "more fields than limit-request-fields allows")
        }
        Error::Version if has_other_version(head) => {
            Rejection::new(505, "a version other than HTTP/1.0 and HTTP/1.1")
        }
        Error::Version => Rejection::bad_request("the version is malformed (RFC 9112 §2.3)"),
        Error::HeaderName => Rejection::bad_request(
            "a field name is malformed, or a line is folded (RFC 9112 §5.1, §5.2)",
        ),
        Error::HeaderValue => Rejection::bad_request(
            "a field value holds a control character or a CR alone (RFC 9110 §5.5)",
        ),
        Error::NewLine => Rejection::bad_request("a line does not end in CRLF (RFC 9112 §2.2)"),
        Error::Token | Error::Status => {
            Rejection::bad_request("the request line is malformed (RFC 9112 §3)")
        }
    }
}

/// Whether the request line ends in a well-formed version (`HTTP/` DIGIT `.` DIGIT). Anything else
/// in its place is a malformed line, not a version (RFC 9112 §2.3).
fn has_other_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or(head);
    let version = line.splitn(3, |&byte| byte == b' ').nth(2);
    matches!(
        version,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit()
    )
}
