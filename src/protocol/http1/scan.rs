//! Finds the end of a request head, line by line, and keeps the size limits on the way.
//!
//! Place in the walk of a request: the first half of [`parse_head`](super::parse_head).
//!
//! Wire format (RFC 9112 §2.1): `*CRLF request-line CRLF *( field-line CRLF ) CRLF`.
//!
//! Invariants:
//! * each byte is searched once however slowly a head drips in: [`HeadScan`] remembers how far the
//!   search came, so a head of n bytes in n pieces costs O(n), not O(n²);
//! * a verdict depends on the bytes alone, never on how they were cut;
//! * a line ends in CRLF; LF alone is refused the moment it is seen (RFC 9112 §2.2 lets a recipient
//!   accept it, and peers that do and peers that do not then disagree on where a request ends). A
//!   CR alone is refused later, by the tokenizer.

use memchr::memchr;

use super::HeadLimits;
use crate::http::Rejection;
use crate::http::syntax::{METHOD_BYTES_MAX, is_token_byte};

/// Empty lines before the request line that are skipped (RFC 9112 §2.2 asks for at least one). More
/// are refused, so that a peer cannot keep a connection busy with nothing. Chosen by taste.
pub const EMPTY_LINES_MAX: usize = 8;

/// Where the search for the end of the head goes on when more bytes arrive. Belongs to one head: it
/// starts as `default()` and is set back by [`parse_head`](super::parse_head) with each head or
/// rejection. The bytes before it must stay the same between two calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// Offset of the line that has no end yet.
    line_start: u32,
    /// Bytes already searched for LF.
    seen: u32,
}

// One lies in every connection, also an idle one.
const _: () = assert!(size_of::<HeadScan>() == 8);

/// Where a complete head lies in the bytes, in bytes from their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadSpan {
    /// The first byte of the request line, after any empty lines.
    pub start: usize,
    /// One past the LF of the empty line that ends the head.
    pub end: usize,
}

impl HeadScan {
    /// Searches on. `None`: no end yet. The caller sets `self` back after a head or an error.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<HeadSpan>, Rejection> {
        // Nothing past the limit is looked at, so offsets fit 32 bits and the verdict is the same
        // whether the bytes beyond have arrived or not.
        let head_bytes = limits.head_bytes.min(u32::MAX as usize - 1);
        let window = &bytes[..bytes.len().min(head_bytes + 1)];
        let start = skip_empty_lines(window)?;
        let mut line_start = start.max(self.line_start as usize);
        let mut seen = start.max(self.seen as usize);
        while let Some(found) = memchr(b'\n', &window[seen.min(window.len())..]) {
            let line_feed = seen + found;
            if line_feed >= head_bytes {
                break;
            }
            let line = &window[line_start..line_feed];
            let content = line.strip_suffix(b"\r").unwrap_or(line);
            check_line(content, line_start == start, limits)?;
            if content.len() == line.len() {
                return Err(Rejection::bad_request("a line ends in LF alone (RFC 9112 §2.2)"));
            }
            if content.is_empty() {
                return Ok(Some(HeadSpan { start, end: line_feed + 1 }));
            }
            line_start = line_feed + 1;
            seen = line_start;
        }
        let open = &window[line_start.min(window.len())..];
        let open = open.strip_suffix(b"\r").unwrap_or(open);
        check_line(open, line_start == start, limits)?;
        if window.len() > head_bytes {
            return Err(Rejection::new(431, "the head is longer than limit-request-head"));
        }
        self.line_start = line_start as u32;
        self.seen = window.len() as u32;
        Ok(None)
    }
}

/// The offset of the first byte that is not part of an empty line.
fn skip_empty_lines(bytes: &[u8]) -> Result<usize, Rejection> {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
        if at > 2 * EMPTY_LINES_MAX {
            return Err(Rejection::bad_request("too many empty lines before the request line"));
        }
    }
    Ok(at)
}

/// The limits of one line, complete or not: `content` is what of it has arrived, without its CRLF.
fn check_line(content: &[u8], is_request_line: bool, limits: &HeadLimits) -> Result<(), Rejection> {
    if !is_request_line {
        if content.len() > limits.field_bytes {
            return Err(Rejection::new(431, "a field is longer than limit-request-field-size"));
        }
        return Ok(());
    }
    // Not a byte past the limit: with the line cut there the answer is already 414.
    let within = &content[..content.len().min(limits.request_line_bytes.saturating_add(1))];
    check_method(within)?;
    if content.len() > limits.request_line_bytes {
        return Err(Rejection::new(414, "the request line is longer than limit-request-line"));
    }
    Ok(())
}

/// Refuses what cannot become a method before its line ends: a TLS hello on a plain port gets its
/// answer at once instead of waiting for a timeout (RFC 9112 §3.1).
fn check_method(line: &[u8]) -> Result<(), Rejection> {
    for (at, &byte) in line.iter().take(METHOD_BYTES_MAX + 1).enumerate() {
        if byte == b' ' && at > 0 {
            return Ok(());
        }
        if !is_token_byte(byte) {
            return Err(Rejection::bad_request("the method is not a token (RFC 9112 §3.1)"));
        }
    }
    if line.len() > METHOD_BYTES_MAX {
        return Err(Rejection::new(501, "the method is longer than any known one"));
    }
    Ok(())
}
