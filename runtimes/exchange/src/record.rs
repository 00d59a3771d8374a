//! The request record: what a worker is told about a request.
//!
//! Where it stands in the walk of a request: `event_loop/dispatch.rs` writes it with a
//! [`RecordWriter`] into a reserved slot; the runtime reads it with [`RecordHead`] and
//! [`Variables`] while it holds the claim. The loop does not touch a record between the swap to
//! QUEUED and the slot's next use, so the reader may borrow its bytes.
//!
//! Format, at the start of the request ring, all numbers little-endian:
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 4 | length of the record, this head included |
//! | 4 | 2 | number of variables |
//! | 6 | 1 | protocol |
//! | 7 | 1 | method |
//! | 8 | 4 | flags, one bit each |
//! | 12 | 4 | zero |
//! | 16 | 8 | content length; all ones = unknown |
//! | 24 | 8 | zero |
//! | 32 | | variables, packed |
//!
//! A variable is {key 1, flags 1, value length 2}, for key 255 also {name length 2} and the name,
//! then the value. The body ring begins at the next multiple of 64 after the record and takes the
//! rest of the request ring.

use crate::geometry::{KNOWN_VARIABLE_BYTES, NAMED_VARIABLE_BYTES, PAGE_BYTES, RECORD_HEAD_BYTES};
use crate::keys::{self, KeyId};
use crate::ring::{LinearWriter, RingBytes};

/// What the client speaks: decides the response's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10 = 0,
    /// HTTP/1.1.
    Http11 = 1,
    /// uwsgi (and later SCGI): never chunked, ends by closing.
    Uwsgi = 2,
}

/// The request's method, as far as it is a common one: a hint for runtimes that keep the names
/// interned. `REQUEST_METHOD` is always among the variables too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum MethodId {
    Other = 0,
    Get = 1,
    Head = 2,
    Post = 3,
    Put = 4,
    Delete = 5,
    Connect = 6,
    Options = 7,
    Trace = 8,
    Patch = 9,
}

impl MethodId {
    const ALL: [MethodId; 10] = [
        MethodId::Other,
        MethodId::Get,
        MethodId::Head,
        MethodId::Post,
        MethodId::Put,
        MethodId::Delete,
        MethodId::Connect,
        MethodId::Options,
        MethodId::Trace,
        MethodId::Patch,
    ];

    /// The id of a method token (exact bytes; methods are case-sensitive, RFC 9110 §9.1).
    #[inline]
    pub fn of(method: &[u8]) -> MethodId {
        match method {
            b"GET" => MethodId::Get,
            b"HEAD" => MethodId::Head,
            b"POST" => MethodId::Post,
            b"PUT" => MethodId::Put,
            b"DELETE" => MethodId::Delete,
            b"CONNECT" => MethodId::Connect,
            b"OPTIONS" => MethodId::Options,
            b"TRACE" => MethodId::Trace,
            b"PATCH" => MethodId::Patch,
            _ => MethodId::Other,
        }
    }
}

/// Facts about the request that are one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RecordFlags {
    /// The client's side is TLS: `wsgi.url_scheme` is `https`.
    pub https: bool,
    /// The method is HEAD: no body follows the response's head.
    pub head_method: bool,
    /// The whole body was received before the request was queued (it may still be larger than the
    /// ring).
    pub body_gathered: bool,
    /// The client wants, and the protocol allows, the connection to stay open after the response.
    pub keep_alive: bool,
}

impl RecordFlags {
    fn pack(self) -> u32 {
        u32::from(self.https)
            | u32::from(self.head_method) << 1
            | u32::from(self.body_gathered) << 2
            | u32::from(self.keep_alive) << 3
    }

    fn unpack(word: u32) -> RecordFlags {
        RecordFlags {
            https: word & 1 != 0,
            head_method: word & 2 != 0,
            body_gathered: word & 4 != 0,
            keep_alive: word & 8 != 0,
        }
    }
}

/// What a record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordStart {
    /// What the client speaks.
    pub protocol: Protocol,
    /// The method.
    pub method: MethodId,
    /// Bits.
    pub flags: RecordFlags,
    /// Length of the request's body in bytes, if known.
    pub content_length: Option<u64>,
}

/// What a record begins with, as the worker reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// What the client speaks.
    pub protocol: Protocol,
    /// The method.
    pub method: MethodId,
    /// Bits.
    pub flags: RecordFlags,
    /// Length of the request's body in bytes, if known.
    pub content_length: Option<u64>,
    /// How many variables follow.
    pub variables: u16,
    /// Length of the record in bytes.
    pub(crate) record_bytes: u32,
}

impl RecordHead {
    pub(crate) fn pack(self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.record_bytes.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.variables.to_le_bytes());
        bytes[6] = self.protocol as u8;
        bytes[7] = self.method as u8;
        bytes[8..12].copy_from_slice(&self.flags.pack().to_le_bytes());
        let length = self.content_length.unwrap_or(u64::MAX);
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Reads a head. `None`: no head that this build writes.
    #[inline]
    pub(crate) fn unpack(bytes: &[u8; RECORD_HEAD_BYTES], ring_bytes: usize) -> Option<RecordHead> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let record_bytes = word(0);
        if (record_bytes as usize) < RECORD_HEAD_BYTES || body_at(record_bytes) >= ring_bytes {
            return None;
        }
        let length = u64::from(word(16)) | u64::from(word(20)) << 32;
        Some(RecordHead {
            protocol: match bytes[6] {
                0 => Protocol::Http10,
                1 => Protocol::Http11,
                2 => Protocol::Uwsgi,
                _ => return None,
            },
            method: *MethodId::ALL.get(usize::from(bytes[7]))?,
            flags: RecordFlags::unpack(word(8)),
            content_length: (length != u64::MAX).then_some(length),
            variables: u16::from_le_bytes([bytes[4], bytes[5]]),
            record_bytes,
        })
    }
}

/// Offset of the body ring in the request ring.
#[inline]
pub(crate) fn body_at(record_bytes: u32) -> usize {
    (record_bytes as usize).next_multiple_of(64)
}

/// Least bytes that a record leaves to the body.
pub(crate) const BODY_RING_BYTES_MIN: usize = PAGE_BYTES;

/// The record does not fit the request ring, a name or value is longer than 65,535 bytes, or there
/// are more than 65,535 variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTooLarge;

impl std::fmt::Display for RecordTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the request's head exceeds the request ring")
    }
}

impl std::error::Error for RecordTooLarge {}

/// Writes one request's record into its slot. Dropping it without [`finish`](Self::finish) leaves
/// the slot reserved and without a record.
#[derive(Debug)]
pub struct RecordWriter<'a> {
    memory: LinearWriter,
    start: Option<RecordStart>,
    variables: usize,
    too_large: bool,
    /// Where the loop's books keep the record's length; 0 = none.
    record_bytes: &'a mut u32,
}

/// Flag bit of a variable whose value is ASCII.
const ASCII: u8 = 1;

impl<'a> RecordWriter<'a> {
    pub(crate) fn new(ring: RingBytes, record_bytes: &'a mut u32) -> RecordWriter<'a> {
        *record_bytes = 0;
        RecordWriter {
            memory: LinearWriter::new(ring, RECORD_HEAD_BYTES),
            start: None,
            variables: 0,
            too_large: false,
            record_bytes,
        }
    }

    /// States what the record begins with. Once, at any time before `finish`.
    #[inline]
    pub fn begin(&mut self, start: RecordStart) {
        self.start = Some(start);
    }

    /// Adds a variable with a known name.
    #[inline]
    pub fn known(&mut self, key: KeyId, value: &[u8]) {
        let Ok(length) = u16::try_from(value.len()) else {
            self.too_large = true;
            return;
        };
        let [low, high] = length.to_le_bytes();
        self.memory.push_behind([key.byte(), ascii_flag(value), low, high], value);
        self.variables += 1;
    }

    /// Adds a variable with any name, already in CGI form (`HTTP_X_SHOP`). A known name travels as
    /// its number.
    #[inline]
    pub fn named(&mut self, name: &[u8], value: &[u8]) {
        self.named_joined(name, std::iter::once(value), b"");
    }

    /// Adds repeated fields as one value, `separator` between them.
    pub fn known_joined<'p>(
        &mut self,
        key: KeyId,
        parts: impl Iterator<Item = &'p [u8]>,
        separator: &[u8],
    ) {
        let at = self.memory.at();
        self.memory.push(&[key.byte(), 0, 0, 0]);
        self.joined(at, parts, separator);
    }

    /// Adds repeated fields of any name as one value, `separator` between them.
    pub fn named_joined<'p>(
        &mut self,
        name: &[u8],
        parts: impl Iterator<Item = &'p [u8]>,
        separator: &[u8],
    ) {
        if let Some(key) = KeyId::of_environ(name) {
            return self.known_joined(key, parts, separator);
        }
        let Ok(length) = u16::try_from(name.len()) else {
            self.too_large = true;
            return;
        };
        let at = self.memory.at();
        let [low, high] = length.to_le_bytes();
        self.memory.push(&[keys::NAMED, 0, 0, 0, low, high]);
        self.memory.push(name);
        self.joined(at, parts, separator);
    }

    /// Writes the value of the variable that starts at `at` and completes its fixed part.
    fn joined<'p>(&mut self, at: usize, parts: impl Iterator<Item = &'p [u8]>, separator: &[u8]) {
        let value_at = self.memory.at();
        let mut ascii = separator.is_ascii();
        for (number, part) in parts.enumerate() {
            if number > 0 {
                self.memory.push(separator);
            }
            ascii &= part.is_ascii();
            self.memory.push(part);
        }
        if self.memory.has_overflowed() {
            return;
        }
        let Ok(length) = u16::try_from(self.memory.at() - value_at) else {
            self.too_large = true;
            return;
        };
        let [low, high] = length.to_le_bytes();
        self.memory.patch(at + 1, &[if ascii { ASCII } else { 0 }, low, high]);
        self.variables += 1;
    }

    /// Completes the record.
    ///
    /// # Errors
    /// [`RecordTooLarge`]: the slot stays reserved; answer 431 and cancel the reservation.
    ///
    /// # Panics
    /// Without [`begin`](Self::begin).
    pub fn finish(mut self) -> Result<(), RecordTooLarge> {
        assert!(self.start.is_some(), "a record without a beginning");
        let Some(start) = self.start else { return Err(RecordTooLarge) };
        let record_bytes = self.memory.at() as u32;
        let fits = body_at(record_bytes) + BODY_RING_BYTES_MIN <= self.memory.ring_bytes();
        let Ok(variables) = u16::try_from(self.variables) else { return Err(RecordTooLarge) };
        if self.too_large || self.memory.has_overflowed() || !fits {
            return Err(RecordTooLarge);
        }
        let head = RecordHead {
            protocol: start.protocol,
            method: start.method,
            flags: start.flags,
            content_length: start.content_length,
            variables,
            record_bytes,
        };
        self.memory.patch(0, &head.pack());
        *self.record_bytes = record_bytes;
        Ok(())
    }
}

#[inline]
fn ascii_flag(value: &[u8]) -> u8 {
    if value.is_ascii() { ASCII } else { 0 }
}

/// The name of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A known name.
    Known(KeyId),
    /// Any other, in CGI form.
    Named(&'a [u8]),
}

impl<'a> Key<'a> {
    /// The name's bytes.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Key::Known(key) => key.name().as_bytes(),
            Key::Named(name) => name,
        }
    }
}

/// One environ variable. Bytes are as received (latin-1 for WSGI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its name.
    pub key: Key<'a>,
    /// Its value, at most 65,535 bytes.
    pub value: &'a [u8],
    /// Whether every byte of the value is below 128.
    pub ascii: bool,
}

/// Iterator over a record's variables, in the order in which they were written.
#[derive(Clone, Debug)]
pub struct Variables<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Variables<'a> {
    /// `bytes` follow the record's head.
    pub(crate) fn new(bytes: &'a [u8], count: u16) -> Variables<'a> {
        Variables { rest: bytes, left: count }
    }

    #[inline]
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Variables<'a> {
    type Item = Variable<'a>;

    #[inline]
    fn next(&mut self) -> Option<Variable<'a>> {
        self.left = self.left.checked_sub(1)?;
        let fixed = self.take(KNOWN_VARIABLE_BYTES)?;
        let length = usize::from(u16::from_le_bytes([fixed[2], fixed[3]]));
        let key = if fixed[0] == keys::NAMED {
            let more = self.take(NAMED_VARIABLE_BYTES - KNOWN_VARIABLE_BYTES)?;
            Key::Named(self.take(usize::from(u16::from_le_bytes([more[0], more[1]])))?)
        } else {
            Key::Known(KeyId::of_index(fixed[0])?)
        };
        Some(Variable { key, value: self.take(length)?, ascii: fixed[1] & ASCII != 0 })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.left)))
    }
}

#[cfg(test)]
mod tests;
