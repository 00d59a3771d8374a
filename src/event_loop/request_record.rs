//! A request head as environ variables: what is written into the slot's record.
//!
//! Where it stands in the walk of a request: inside `dispatch.rs`. Names are CGI names already
//! (RFC 3875 §4.1; PEP 3333 "environ Variables"), values the bytes as received.
//!
//! Invariants:
//! - Each variable is written once: repeated fields are joined by ", ", cookies by "; " (RFC 9110
//!   §5.3, RFC 6265 §5.4), other repeated uwsgi keys count by their last value.
//! - CONTENT_LENGTH is what the server counts, not what a field said; Transfer-Encoding is gone:
//!   the server undid it.
//! - Nothing a client sends becomes `wsgi.*` or `ringhorn.*`.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use ringhorn_exchange::{KeyId, RecordWriter};

use super::dispatch::Head;
use crate::config::ListenerFacts;
use crate::http::{Field, Rejection, Version};
use crate::protocol::http1::{FIELDS_MAX, RequestHead, percent_decode};
use crate::protocol::uwsgi;

/// Longest request id taken from a trusted peer.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What a record needs beside the head.
#[derive(Debug)]
pub struct RecordFacts<'a> {
    /// Where the connection came in.
    pub listener: &'a ListenerFacts,
    /// The peer; `None` for Unix sockets.
    pub peer: Option<SocketAddr>,
    /// The body's length, where known.
    pub content_length: Option<u64>,
    /// The request's id.
    pub request_id: &'a [u8],
}

/// The request's id, if a trusted peer says one.
pub fn request_id<'a>(head: &Head<'a>, trusted: bool) -> Option<&'a [u8]> {
    let given = match head {
        Head::Http(head) if trusted => head.fields.value_of("x-request-id"),
        Head::Uwsgi(_, head) => head.request_id,
        Head::Http(_) => None,
    };
    given.filter(|id| is_request_id(id))
}

/// `wsgi.url_scheme` is https.
pub fn is_https(head: &Head<'_>, trusted: bool) -> bool {
    match head {
        Head::Http(head) if trusted => head
            .fields
            .value_of("x-forwarded-proto")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"https")),
        Head::Http(_) => false,
        Head::Uwsgi(_, head) => head.is_https,
    }
}

/// Writes an HTTP request's variables.
///
/// # Errors
/// The path's escapes are malformed: 400.
pub fn write_http(
    record: &mut RecordWriter<'_>,
    head: &RequestHead<'_, '_>,
    facts: &RecordFacts<'_>,
    scratch: &mut Vec<u8>,
) -> Result<(), Rejection> {
    record.known(KeyId::REQUEST_METHOD, head.method);
    record.known(KeyId::SCRIPT_NAME, b"");
    write_path(record, head.path, scratch)?;
    record.known(KeyId::QUERY_STRING, head.query);
    record.known(KeyId::REQUEST_URI, head.target);
    record.known(KeyId::RAW_URI, head.target);
    record.known(KeyId::SERVER_PROTOCOL, version_text(head.version));
    record.known(KeyId::SERVER_NAME, facts.listener.server_name.as_bytes());
    record.known(KeyId::SERVER_PORT, facts.listener.server_port.as_bytes());
    write_peer(record, facts, scratch);
    write_content_length(record, facts.content_length);
    write_fields(record, head, scratch);
    record.known(KeyId::REQUEST_ID, facts.request_id);
    Ok(())
}

/// `HTTP/1.1` or `HTTP/1.0`.
pub fn version_text(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
    }
}

fn write_path(
    record: &mut RecordWriter<'_>,
    path: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<(), Rejection> {
    record.known(KeyId::PATH_INFO, path_info(path, scratch)?);
    Ok(())
}

/// The path of an HTTP target as PATH_INFO: decoded.
///
/// # Errors
/// Its escapes are malformed: 400.
pub fn path_info<'a>(path: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Rejection> {
    // `OPTIONS *` asks about no path: PATH_INFO is empty or begins with a slash (PEP 3333).
    let path = if path == b"*" { b"" } else { path };
    if memchr::memchr(b'%', path).is_none() {
        return Ok(path);
    }
    scratch.resize(path.len(), 0);
    percent_decode(path, scratch)
}

fn write_peer(record: &mut RecordWriter<'_>, facts: &RecordFacts<'_>, scratch: &mut Vec<u8>) {
    // A Unix peer has no address: the variables are left out (PEP 3333: absent, not invented).
    let Some(peer) = facts.peer else { return };
    scratch.clear();
    match peer.ip().to_canonical() {
        // Without the formatting machinery, which costs more than the rest of a short record.
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            scratch.extend_from_slice(Decimal::of(first.into()).digits());
            for octet in rest {
                scratch.push(b'.');
                scratch.extend_from_slice(Decimal::of(octet.into()).digits());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(address) => drop(write!(scratch, "{address}")),
    }
    record.known(KeyId::REMOTE_ADDR, scratch);
    record.known(KeyId::REMOTE_PORT, Decimal::of(peer.port().into()).digits());
}

/// Writes CONTENT_LENGTH, where there is one.
pub fn write_content_length(record: &mut RecordWriter<'_>, content_length: Option<u64>) {
    if let Some(bytes) = content_length {
        record.known(KeyId::CONTENT_LENGTH, Decimal::of(bytes).digits());
    }
}

/// A number in decimal digits.
struct Decimal {
    bytes: [u8; 20],
    start: usize,
}

impl Decimal {
    fn of(mut number: u64) -> Decimal {
        let mut decimal = Decimal { bytes: [0; 20], start: 20 };
        loop {
            decimal.start -= 1;
            decimal.bytes[decimal.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    fn digits(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Marks a field without a known key.
const UNKNOWN: u8 = u8::MAX;
const _: () = assert!(KeyId::COUNT <= 128);

fn write_fields(record: &mut RecordWriter<'_>, head: &RequestHead<'_, '_>, scratch: &mut Vec<u8>) {
    let mut keys = [UNKNOWN; FIELDS_MAX];
    let (mut seen, mut repeated, mut unknown) = (0u128, 0u128, 0u32);
    for (place, field) in head.fields.iter().enumerate() {
        let Some(key) = KeyId::of_field(field.name) else {
            unknown += 1;
            continue;
        };
        keys[place] = key.index() as u8;
        let bit = 1u128 << key.index();
        repeated |= seen & bit;
        seen |= bit;
    }
    let mut written =
        (1u128 << KeyId::CONTENT_LENGTH.index()) | (1u128 << KeyId::HTTP_TRANSFER_ENCODING.index());
    for (place, field) in head.fields.iter().enumerate() {
        let Some(key) = KeyId::of_index(keys[place]).filter(|_| keys[place] != UNKNOWN) else {
            write_unknown(record, head, place, &field, unknown > 1, scratch);
            continue;
        };
        let bit = 1u128 << key.index();
        if written & bit != 0 {
            continue;
        }
        written |= bit;
        if repeated & bit == 0 {
            record.known(key, field.value);
        } else {
            let same = head.fields.iter().enumerate().filter(|(at, _)| keys[*at] == keys[place]);
            record.known_joined(key, same.map(|(_, field)| field.value), separator(key));
        }
    }
}

fn separator(key: KeyId) -> &'static [u8] {
    if key == KeyId::HTTP_COOKIE { b"; " } else { b", " }
}

/// A field whose name is in no table: written once, with the values of all fields of that name.
fn write_unknown(
    record: &mut RecordWriter<'_>,
    head: &RequestHead<'_, '_>,
    place: usize,
    field: &Field<'_>,
    may_repeat: bool,
    scratch: &mut Vec<u8>,
) {
    let is_same = |other: &Field<'_>| other.name.eq_ignore_ascii_case(field.name);
    if may_repeat && head.fields.iter().take(place).any(|other| is_same(&other)) {
        return;
    }
    environ_name(field.name, scratch);
    if may_repeat && head.fields.iter().skip(place + 1).any(|other| is_same(&other)) {
        let same = head.fields.iter().filter(|other| is_same(other));
        record.named_joined(scratch, same.map(|field| field.value), b", ");
    } else {
        record.named(scratch, field.value);
    }
}

/// `X-Thing` as `HTTP_X_THING` (RFC 3875 §4.1.18).
pub fn environ_name(field_name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"HTTP_");
    out.extend(field_name.iter().map(|byte| match byte {
        b'-' => b'_',
        byte => byte.to_ascii_uppercase(),
    }));
}

/// The value of a packet's variable: of repeated ones the last counts.
pub fn value_of<'b>(packet: &uwsgi::Packet<'b>, name: &[u8]) -> Option<&'b [u8]> {
    packet.variables().filter(|(key, _)| *key == name).last().map(|(_, value)| value)
}

/// What may stand in a log line and an environ value unescaped, and is not absurdly long.
fn is_request_id(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::Decimal;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 1, 9, 10, 99, 100, 255, 65_535, u64::MAX - 1, u64::MAX] {
            assert_eq!(Decimal::of(number).digits(), number.to_string().as_bytes());
        }
    }
}
