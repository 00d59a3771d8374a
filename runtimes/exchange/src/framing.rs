//! Decides how a response is framed, and builds its head. Pure: no shared memory, no clock.
//!
//! Where it stands in the walk of a request: inside the `ResponseWriter`, for every runtime alike.
//!
//! The rules (RFC 9112 §6, RFC 9110 §6.4.1 and §8.6, PEP 3333):
//!
//! | case | body on the wire | fields added |
//! |---|---|---|
//! | HEAD, 304 | none | none: the application's Content-Length stays |
//! | 1xx, 204 | none | none: the application's Content-Length is dropped |
//! | length known | that many bytes | Content-Length, if the application gave none |
//! | HTTP/1.1 | chunks | Transfer-Encoding: chunked |
//! | HTTP/1.0, uwsgi | until close | none |
//!
//! `Date` and `Server` are added where the application gave none. HTTP/1.1 says `Connection: close`
//! when the connection will not stay; HTTP/1.0 says `Connection: keep-alive` when it will; uwsgi
//! says neither.

use crate::record::Protocol;
use crate::statement::{StatedBody, Statement};

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Not three digits from 100, a space and a reason without control characters.
    Status,
    /// The name is not a token (RFC 9110 §5.1).
    Name,
    /// The value holds a control character (RFC 9110 §5.5, PEP 3333).
    Value,
    /// A hop-by-hop field (PEP 3333: a fatal error).
    HopByHop,
    /// Content-Length is not a number, or given twice.
    ContentLength,
    /// The head is larger than the response ring allows.
    TooLarge,
    /// The head was committed already.
    Committed,
    /// `header` without `begin_head`.
    NoHead,
    /// In a forked child.
    Forked,
}

impl std::fmt::Display for HeadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HeadError::Status => "status must be three digits, a space and a reason",
            HeadError::Name => "header name is not a token",
            HeadError::Value => "header value holds a control character",
            HeadError::HopByHop => "hop-by-hop headers are the server's to set",
            HeadError::ContentLength => "Content-Length must be given once, as a number",
            HeadError::TooLarge => "the response's headers are too large",
            HeadError::Committed => "headers were already sent",
            HeadError::NoHead => "no status was given",
            HeadError::Forked => "the request belongs to the parent process",
        })
    }
}

impl std::error::Error for HeadError {}

/// Bytes that framing may add to a head: Date 37, Server 18, Content-Length 38, Transfer-Encoding
/// 28, Connection 24, the final line end 2.
pub(crate) const ADDED_BYTES_MAX: usize = 160;

/// Bytes of the ring that a head leaves to the first piece of the body.
const FIRST_BODY_BYTES_MIN: usize = 1024;

/// Bytes a chunk takes beyond its data: eight hexadecimal digits and two line ends.
pub(crate) const CHUNK_BYTES_MAX: usize = 12;

/// The last chunk and the end of an empty trailer section (RFC 9112 §7.1).
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What decides about the connection, read when the head is committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub protocol: Protocol,
    pub head_method: bool,
    /// The client wants it to stay open.
    pub keep_alive: bool,
    /// The loop wants it closed.
    pub closing: bool,
}

/// Why the body is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// It is sent as stated.
    Sent,
    /// HEAD, 1xx, 204, 304: swallowed.
    Swallowed,
}

/// A head as far as the application has given it. The bytes are reused between requests.
#[derive(Debug, Default)]
pub(crate) struct StagedHead {
    bytes: Vec<u8>,
    /// 0 = none begun.
    status: u16,
    content_length: Option<u64>,
    /// Where the Content-Length field stands in `bytes`: start and end, line end included.
    content_length_at: (usize, usize),
    has_date: bool,
    has_server: bool,
}

impl StagedHead {
    /// Forgets everything, keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.status = 0;
        self.content_length = None;
        self.content_length_at = (0, 0);
        self.has_date = false;
        self.has_server = false;
    }

    #[inline]
    pub fn has_status(&self) -> bool {
        self.status != 0
    }

    /// Whether the status forbids a body (RFC 9110 §6.4.1).
    #[inline]
    pub fn is_without_body(&self) -> bool {
        self.status < 200 || self.status == 204 || self.status == 304
    }

    /// Content-Length as the application gave it.
    #[inline]
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Begins a head; forgets an earlier one.
    pub fn begin(&mut self, status: &[u8]) -> Result<(), HeadError> {
        self.clear();
        let [hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', units @ b'0'..=b'9', reason @ ..] = status
        else {
            return Err(HeadError::Status);
        };
        if !(reason.is_empty() || reason[0] == b' ') || !is_field_value(reason) {
            return Err(HeadError::Status);
        }
        let digit = |byte: &u8| u16::from(byte - b'0');
        self.status = digit(hundreds) * 100 + digit(tens) * 10 + digit(units);
        self.bytes.extend_from_slice(b"HTTP/1.1 ");
        self.bytes.extend_from_slice(status);
        if reason.is_empty() {
            // The space is required even without a reason (RFC 9112 §4).
            self.bytes.push(b' ');
        }
        self.bytes.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Adds a field. `ring_bytes` bounds the head.
    #[inline]
    pub fn field(&mut self, name: &[u8], value: &[u8], ring_bytes: usize) -> Result<(), HeadError> {
        if !self.has_status() {
            return Err(HeadError::NoHead);
        }
        if name.is_empty() || !name.iter().all(|&byte| IS_TOKEN[byte as usize]) {
            return Err(HeadError::Name);
        }
        if !is_field_value(value) {
            return Err(HeadError::Value);
        }
        let before = self.bytes.len();
        if before + name.len() + value.len() + 4
            > ring_bytes.saturating_sub(ADDED_BYTES_MAX + FIRST_BODY_BYTES_MIN)
        {
            return Err(HeadError::TooLarge);
        }
        let special = Special::of(name);
        match special {
            Special::HopByHop => return Err(HeadError::HopByHop),
            Special::ContentLength => {
                if self.content_length.is_some() {
                    return Err(HeadError::ContentLength);
                }
                self.content_length = Some(parse_length(value).ok_or(HeadError::ContentLength)?);
            }
            Special::Date => self.has_date = true,
            Special::Server => self.has_server = true,
            Special::None => {}
        }
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
        if special == Special::ContentLength {
            self.content_length_at = (before, self.bytes.len());
        }
        Ok(())
    }

    /// Decides the framing and completes the head. `stated` is the body's length where the runtime
    /// knows it; `date` is the value of the Date field.
    pub fn complete(
        &mut self,
        circumstances: Circumstances,
        stated: Option<u64>,
        date: &[u8; DATE_BYTES],
    ) -> (Statement, Body) {
        let informational = self.status < 200;
        let never_has_length = informational || self.status == 204;
        let swallowed = self.is_without_body() || circumstances.head_method;
        if never_has_length {
            let (from, to) = self.content_length_at;
            self.bytes.drain(from..to);
        }
        let length = self.content_length.or(stated);
        let body = match length {
            _ if swallowed => StatedBody::Length(0),
            Some(length) => StatedBody::Length(length),
            None if circumstances.protocol == Protocol::Http11 => StatedBody::Chunked,
            None => StatedBody::UntilClose,
        };
        let keep_alive = circumstances.keep_alive
            && !circumstances.closing
            && circumstances.protocol != Protocol::Uwsgi
            && body != StatedBody::UntilClose
            && !informational;
        match body {
            StatedBody::Length(length) if !swallowed && self.content_length.is_none() => {
                self.bytes.extend_from_slice(b"Content-Length: ");
                push_decimal(&mut self.bytes, length);
                self.bytes.extend_from_slice(b"\r\n");
            }
            StatedBody::Chunked => {
                self.bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            _ => {}
        }
        match (circumstances.protocol, keep_alive) {
            (Protocol::Http11, false) => self.bytes.extend_from_slice(b"Connection: close\r\n"),
            (Protocol::Http10, true) => self.bytes.extend_from_slice(b"Connection: keep-alive\r\n"),
            _ => {}
        }
        if !self.has_server {
            self.bytes.extend_from_slice(b"Server: ringhorn\r\n");
        }
        if !self.has_date {
            self.bytes.extend_from_slice(b"Date: ");
            self.bytes.extend_from_slice(date);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.bytes.extend_from_slice(b"\r\n");
        let statement = Statement {
            status: self.status,
            head_bytes: self.bytes.len() as u32,
            body,
            keep_alive,
        };
        (statement, if swallowed { Body::Swallowed } else { Body::Sent })
    }

    /// The bytes so far.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Fields that mean something to the framing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    None,
    ContentLength,
    Date,
    Server,
    HopByHop,
}

impl Special {
    #[inline]
    fn of(name: &[u8]) -> Special {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // By length first: most names end here after one comparison or none.
        match name.len() {
            2 if is(b"te") => Special::HopByHop,
            4 if is(b"date") => Special::Date,
            6 if is(b"server") => Special::Server,
            7 if is(b"trailer") || is(b"upgrade") => Special::HopByHop,
            8 if is(b"trailers") => Special::HopByHop,
            10 if is(b"connection") || is(b"keep-alive") => Special::HopByHop,
            14 if is(b"content-length") => Special::ContentLength,
            16 if is(b"proxy-connection") => Special::HopByHop,
            17 if is(b"transfer-encoding") => Special::HopByHop,
            18 if is(b"proxy-authenticate") => Special::HopByHop,
            19 if is(b"proxy-authorization") => Special::HopByHop,
            _ => Special::None,
        }
    }
}

/// Bytes of a token (RFC 9110 §5.6.2).
static IS_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
        byte += 1;
    }
    table
};

/// No control character except the tab, which RFC 9110 §5.5 allows inside a value.
#[inline]
fn is_field_value(value: &[u8]) -> bool {
    // No early exit, so that the compiler can do many bytes at once.
    !value.iter().fold(false, |bad, &byte| bad | ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f))
}

/// Digits only, at most 19 (RFC 9110 §8.6); white space around them is not part of the value.
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    // Leaves room for any head in the count of bytes on the wire.
    (length <= u64::MAX / 4).then_some(length)
}

fn push_decimal(bytes: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    bytes.extend_from_slice(&digits[at..]);
}

/// Writes a chunk's size line into `line` and gives its length.
#[inline]
pub(crate) fn chunk_line(size: usize, line: &mut [u8; CHUNK_BYTES_MAX]) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).clamp(1, 8) as usize;
    for (at, digit) in line[..digits].iter_mut().enumerate() {
        *digit = DIGITS[size >> (4 * (digits - 1 - at)) & 15];
    }
    line[digits] = b'\r';
    line[digits + 1] = b'\n';
    digits + 2
}

/// Bytes of a Date field's value.
pub const DATE_BYTES: usize = 29;

/// Formats seconds since 1970 as an IMF-fixdate (RFC 9110 §5.6.7), for example
/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn format_date(seconds: u64) -> [u8; DATE_BYTES] {
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    date[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    two_digits(&mut date[5..7], day);
    date[8..11].copy_from_slice(&MONTHS[month as usize * 3..month as usize * 3 + 3]);
    two_digits(&mut date[12..14], year / 100);
    two_digits(&mut date[14..16], year % 100);
    two_digits(&mut date[17..19], second / 3600);
    two_digits(&mut date[20..22], second / 60 % 60);
    two_digits(&mut date[23..25], second % 60);
    date
}

fn two_digits(into: &mut [u8], value: u64) {
    into[0] = b'0' + (value / 10 % 10) as u8;
    into[1] = b'0' + (value % 10) as u8;
}

/// Year, month from 0 and day from 1 of a day since 1970: counts in 400-year cycles of 146,097 days
/// that start on 1 March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = cycle * 400 + year_of_cycle + u64::from(month < 2);
    (year, month, day)
}

#[cfg(test)]
mod tests;
