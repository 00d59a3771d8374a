//! What the server itself reads from a packet, and what it lets through to the application.
//!
//! Place in the walk of a request: the second half of the uwsgi codec; then
//! `event_loop/dispatch.rs` writes the variables into the request record.
//!
//! The peer is a trusted frontend (`--uwsgi-allow-from`, or the mode of a Unix socket):
//! REMOTE_USER, HTTPS and REMOTE_ADDR are believed. Not believed is what would change the framing
//! already done or the server's own part of environ.
//!
//! Repeated keys: fields of the client (`HTTP_*`) are joined, since nginx before 1.23 sends
//! repeated ones so. For all others the last one counts, as with uWSGI: `include uwsgi_params;`
//! followed by an own `uwsgi_param PATH_INFO …` sends the key twice and means the second.
//! CONTENT_LENGTH, which frames the body, may be repeated only with the same value.

use memchr::memchr;

use super::packet::Packet;
use crate::http::Rejection;
use crate::http::syntax::{METHOD_BYTES_MAX, decimal, is_token};

/// What the server needs to know of a uwsgi request. Values are raw and, unless said otherwise,
/// `None` when the packet has no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'b> {
    /// REQUEST_METHOD: a token of at most 32 bytes.
    pub method: &'b [u8],
    /// CONTENT_LENGTH in bytes, at most [`crate::http::syntax::LENGTH_MAX`]; `None` when absent or
    /// empty: no body follows.
    pub content_length: Option<u64>,
    /// REQUEST_URI: target as the client sent it.
    pub request_uri: Option<&'b [u8]>,
    /// SERVER_PROTOCOL, such as `HTTP/1.1`.
    pub protocol: Option<&'b [u8]>,
    /// SCRIPT_NAME.
    pub script_name: Option<&'b [u8]>,
    /// PATH_INFO, already percent-decoded by the frontend, without NUL. Under modifier1 30
    /// SCRIPT_NAME is cut from it here.
    pub path_info: Option<&'b [u8]>,
    /// QUERY_STRING, still percent-encoded.
    pub query: Option<&'b [u8]>,
    /// REMOTE_ADDR: the client's address, for the access log.
    pub remote_addr: Option<&'b [u8]>,
    /// HTTP_HOST.
    pub host: Option<&'b [u8]>,
    /// HTTP_X_REQUEST_ID.
    pub request_id: Option<&'b [u8]>,
    /// Whether the client's connection was TLS: REQUEST_SCHEME is `https`, or HTTPS is `on` or `1`.
    pub is_https: bool,
}

impl RequestHead<'_> {
    /// Whether the answer must have no body.
    pub fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }
}

/// Reads the request in `packet`, which is not a ping. All rejections are 400, but 501 for a method
/// of more than 32 bytes.
pub fn request_head<'b>(packet: &Packet<'b>) -> Result<RequestHead<'b>, Rejection> {
    let mut head = RequestHead {
        method: b"",
        content_length: None,
        request_uri: None,
        protocol: None,
        script_name: None,
        path_info: None,
        query: None,
        remote_addr: None,
        host: None,
        request_id: None,
        is_https: false,
    };
    let mut has_authorization = false;
    for (key, value) in packet.variables() {
        match key {
            b"REQUEST_METHOD" => head.method = value,
            b"CONTENT_LENGTH" => note_length(&mut head.content_length, value)?,
            b"REQUEST_URI" => head.request_uri = Some(value),
            b"SERVER_PROTOCOL" => head.protocol = Some(value),
            b"SCRIPT_NAME" => head.script_name = Some(value),
            b"PATH_INFO" => head.path_info = Some(value),
            b"QUERY_STRING" => head.query = Some(value),
            b"REMOTE_ADDR" => head.remote_addr = Some(value),
            b"HTTPS" | b"REQUEST_SCHEME" => head.is_https |= is_https(value),
            b"HTTP_HOST" if head.host.is_some() => return Err(REPEATED),
            b"HTTP_HOST" => head.host = Some(value),
            b"HTTP_X_REQUEST_ID" => head.request_id = Some(value),
            b"HTTP_AUTHORIZATION" if has_authorization => return Err(REPEATED),
            b"HTTP_AUTHORIZATION" => has_authorization = true,
            _ => {}
        }
    }
    check_method(head.method)?;
    if let Some(path) = head.path_info {
        if memchr(0, path).is_some() {
            return Err(Rejection::bad_request("NUL in PATH_INFO"));
        }
        if packet.modifier1 == super::MODIFIER_MANAGE_PATH_INFO {
            head.path_info = Some(path_after_script_name(head.script_name.unwrap_or(b""), path));
        }
    }
    Ok(head)
}

const REPEATED: Rejection =
    Rejection::bad_request("HTTP_HOST or HTTP_AUTHORIZATION twice in a uwsgi packet");

fn check_method(method: &[u8]) -> Result<(), Rejection> {
    if !is_token(method) {
        return Err(Rejection::bad_request("REQUEST_METHOD is missing or not a token"));
    }
    if method.len() > METHOD_BYTES_MAX {
        return Err(Rejection::new(501, "the method is longer than any known one"));
    }
    Ok(())
}

fn note_length(length: &mut Option<u64>, value: &[u8]) -> Result<(), Rejection> {
    if value.is_empty() {
        return Ok(());
    }
    let number = decimal(value)
        .ok_or(Rejection::bad_request("CONTENT_LENGTH is not one number below 2^63"))?;
    if length.is_some_and(|earlier| earlier != number) {
        return Err(Rejection::bad_request("two different CONTENT_LENGTH in a uwsgi packet"));
    }
    *length = Some(number);
    Ok(())
}

fn is_https(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"https") || value.eq_ignore_ascii_case(b"on") || value == b"1"
}

/// Whether a variable called `key` reaches the application.
///
/// Stopped are:
/// * what the frontend has already dealt with: nginx un-chunks a body but still passes
///   HTTP_TRANSFER_ENCODING, and HTTP_CONTENT_LENGTH and HTTP_CONTENT_TYPE beside the real ones;
/// * HTTP_PROXY, which programs take for a proxy setting ("httpoxy");
/// * what only the server says: `wsgi.*`, `uwsgi.*` and `ringhorn.*`;
/// * `UWSGI_*`: directions to a uWSGI server to load code, change folders or paths.
///
/// An empty CONTENT_LENGTH or CONTENT_TYPE is left out as well, see [`is_variable_passed_on`].
pub fn is_passed_on(key: &[u8]) -> bool {
    match key.first() {
        Some(b'H') => !matches!(
            key,
            b"HTTP_TRANSFER_ENCODING"
                | b"HTTP_CONTENT_LENGTH"
                | b"HTTP_CONTENT_TYPE"
                | b"HTTP_PROXY"
        ),
        Some(b'U') => !key.starts_with(b"UWSGI_"),
        Some(b'w') => !key.starts_with(b"wsgi."),
        Some(b'u') => !key.starts_with(b"uwsgi."),
        Some(b'r') => !key.starts_with(b"ringhorn."),
        _ => true,
    }
}

/// Whether a variable reaches the application: its key does ([`is_passed_on`]), and it is no empty
/// CONTENT_LENGTH or CONTENT_TYPE, which nginx sends for requests that have none.
pub fn is_variable_passed_on(key: &[u8], value: &[u8]) -> bool {
    is_passed_on(key) && !(value.is_empty() && matches!(key, b"CONTENT_LENGTH" | b"CONTENT_TYPE"))
}

/// What becomes of a key that comes more than once in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The values are joined by `", "` (RFC 9110 §5.3).
    JoinByComma,
    /// The values are joined by `"; "` (RFC 6265 §5.4): HTTP_COOKIE.
    JoinBySemicolon,
    /// The last value counts.
    LastCounts,
}

/// How the values of a repeated `key` become one.
pub fn repeat_rule(key: &[u8]) -> Repeat {
    match key {
        b"HTTP_COOKIE" => Repeat::JoinBySemicolon,
        key if key.starts_with(b"HTTP_") => Repeat::JoinByComma,
        _ => Repeat::LastCounts,
    }
}

/// PATH_INFO without the SCRIPT_NAME it begins with, cut only where a path segment ends; otherwise
/// PATH_INFO as it is. `/app` is cut from `/app` and `/app/x`, never from `/apple`; a SCRIPT_NAME
/// that ends in `/` names no mount point (PEP 3333) and cuts nothing.
pub fn path_after_script_name<'b>(script_name: &[u8], path_info: &'b [u8]) -> &'b [u8] {
    match path_info.strip_prefix(script_name) {
        Some(rest) if script_name.last() != Some(&b'/') && matches!(rest, [] | [b'/', ..]) => rest,
        _ => path_info,
    }
}
