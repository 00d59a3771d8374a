//! The request target, authorities, and percent-decoding (RFC 9112 §3.2, RFC 3986 §3).
//!
//! Place in the walk of a request: the middle of [`parse_head`](super::parse_head);
//! percent-decoding is called later, when the path is written into the request record.
//!
//! Forms: `origin-form = absolute-path [ "?" query ]`, `absolute-form` with http or https, `*` with
//! OPTIONS only. `authority-form` belongs to CONNECT, which is for proxies and not served.
//!
//! Paths are neither normalised nor decoded here: dot segments, `//` and `%2F` reach the
//! application as PEP 3333 applications expect them. Bytes from 0x80 are let through where they
//! form UTF-8 (the tokenizer's rule): clients do send them, and WSGI carries them as latin-1.

use memchr::{memchr, memchr2};

use crate::http::Rejection;
use crate::http::syntax::{decimal, is_reg_name_byte};

/// A request target taken apart; all borrowed from the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'b> {
    pub path: &'b [u8],
    pub query: &'b [u8],
    /// From an absolute-form target.
    pub authority: Option<&'b [u8]>,
}

/// Takes `target` apart; `method` decides which forms are allowed.
pub(super) fn split_target<'b>(method: &[u8], target: &'b [u8]) -> Result<Target<'b>, Rejection> {
    if method == b"CONNECT" {
        return Err(Rejection::new(501, "CONNECT is for proxies (RFC 9110 §9.3.6)"));
    }
    if memchr(b'#', target).is_some() {
        return Err(Rejection::bad_request("a fragment in the target (RFC 9112 §3.2)"));
    }
    if target.first() == Some(&b'/') {
        let (path, query) = split_query(target);
        return Ok(Target { path, query, authority: None });
    }
    if target == b"*" {
        if method != b"OPTIONS" {
            return Err(Rejection::bad_request("* is a target of OPTIONS only (RFC 9112 §3.2.4)"));
        }
        return Ok(Target { path: target, query: b"", authority: None });
    }
    split_absolute(method, target)
}

fn split_absolute<'b>(method: &[u8], target: &'b [u8]) -> Result<Target<'b>, Rejection> {
    let after_scheme = strip_scheme(target, b"http://")
        .or_else(|| strip_scheme(target, b"https://"))
        .ok_or(Rejection::bad_request("the target has no form HTTP knows (RFC 9112 §3.2)"))?;
    let authority_bytes = memchr2(b'/', b'?', after_scheme).unwrap_or(after_scheme.len());
    let (authority, rest) = after_scheme.split_at(authority_bytes);
    check_authority(authority)?;
    let (path, query) = split_query(rest);
    let path = match path {
        // RFC 9112 §3.2.4: `OPTIONS http://host` asks about the server as a whole.
        b"" if method == b"OPTIONS" && rest.is_empty() => b"*",
        b"" => b"/",
        path => path,
    };
    Ok(Target { path, query, authority: Some(authority) })
}

/// What follows `scheme`, which is given in lower case and matched in any.
fn strip_scheme<'b>(target: &'b [u8], scheme: &[u8]) -> Option<&'b [u8]> {
    let (head, rest) = target.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Path and query; the query is empty when there is no `?`.
fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

/// Checks `host [ ":" port ]` as Host and absolute-form carry it (RFC 9110 §7.2, RFC 3986 §3.2): a
/// registered name or IPv4 address, or an IPv6 literal in brackets; a port of digits up to 65535,
/// which may be empty. Refused although the generic grammar has them: user information (RFC 9110
/// §4.2.4), an empty host (§4.2.1), IPvFuture and zone identifiers.
pub(super) fn check_authority(authority: &[u8]) -> Result<(), Rejection> {
    const MALFORMED: Rejection = Rejection::bad_request("the host is malformed (RFC 3986 §3.2)");
    let (is_host, port) = if let Some(literal) = authority.strip_prefix(b"[") {
        let end = memchr(b']', literal).ok_or(MALFORMED)?;
        (is_ipv6(&literal[..end]), &literal[end + 1..])
    } else {
        let end = memchr(b':', authority).unwrap_or(authority.len());
        (is_reg_name(&authority[..end]), &authority[end..])
    };
    let is_port = match port {
        b"" | b":" => true,
        [b':', digits @ ..] => decimal(digits).is_some_and(|number| number <= u16::MAX.into()),
        _ => false,
    };
    if is_host && is_port { Ok(()) } else { Err(MALFORMED) }
}

fn is_ipv6(literal: &[u8]) -> bool {
    std::str::from_utf8(literal).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// A registered name that is not empty: unreserved, sub-delims and `%XX`.
fn is_reg_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [byte, after @ ..] = rest {
        rest = match (byte, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (&byte, after) if is_reg_name_byte(byte) => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// Decodes `%XX` of `path` into `out`, and returns what was written, at most `path.len()` bytes.
///
/// `%2F` becomes `/` as in every WSGI server (PEP 3333 leaves applications no other way to see
/// it). A `%` without two hex digits is answered with 400 (RFC 3986 §2.1), and so is `%00`, which
/// an application's file name would end at. When `out` is too short the answer is 414.
pub fn percent_decode<'o>(path: &[u8], out: &'o mut [u8]) -> Result<&'o [u8], Rejection> {
    let mut written = 0;
    let mut rest = path;
    while !rest.is_empty() {
        let plain_bytes = memchr(b'%', rest).unwrap_or(rest.len());
        let (plain, escaped) = rest.split_at(plain_bytes);
        append(out, &mut written, plain)?;
        rest = match escaped {
            [] => break,
            [b'%', high, low, after @ ..] => {
                let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) else {
                    return Err(BAD_ESCAPE);
                };
                let byte = high << 4 | low;
                if byte == 0 {
                    return Err(Rejection::bad_request("NUL in the path"));
                }
                append(out, &mut written, &[byte])?;
                after
            }
            _ => return Err(BAD_ESCAPE),
        };
    }
    Ok(&out[..written])
}

const BAD_ESCAPE: Rejection =
    Rejection::bad_request("% without two hex digits in the path (RFC 3986 §2.1)");

fn append(out: &mut [u8], written: &mut usize, bytes: &[u8]) -> Result<(), Rejection> {
    let room = out
        .get_mut(*written..*written + bytes.len())
        .ok_or(Rejection::new(414, "the path is longer than the room for it"))?;
    room.copy_from_slice(bytes);
    *written += bytes.len();
    Ok(())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
