//! The request record (signatures).
use crate::keys::KeyId;
use std::marker::PhantomData;
/// What the client speaks: decides the response's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// uwsgi (and later SCGI): never chunked, ends by closing.
    Uwsgi,
}
/// The request's method, as far as it is a common one. `REQUEST_METHOD` is always a variable too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MethodId {
    Other,
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}
impl MethodId {
    /// The id of a method token (exact bytes).
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
    /// The whole body was gathered before the request was queued (it may still be larger than the ring).
    pub body_gathered: bool,
    /// The client wants, and the protocol allows, the connection to stay open after the response.
    pub keep_alive: bool,
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
}
/// The record does not fit the request ring, or a value is longer than 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTooLarge;
/// Writes one request's record into its slot. Dropping it without `finish` leaves the slot reserved.
#[derive(Debug)]
pub struct RecordWriter<'a> {
    _slot: PhantomData<&'a mut ()>,
}
#[allow(clippy::unimplemented, missing_docs)]
impl RecordWriter<'_> {
    pub fn begin(&mut self, _start: RecordStart) {
        unimplemented!()
    }
    pub fn known(&mut self, _key: KeyId, _value: &[u8]) {
        unimplemented!()
    }
    pub fn named(&mut self, _name: &[u8], _value: &[u8]) {
        unimplemented!()
    }
    /// Repeated fields as one value, `separator` between them.
    pub fn known_joined<'p>(
        &mut self,
        _key: KeyId,
        _parts: impl Iterator<Item = &'p [u8]>,
        _separator: &[u8],
    ) {
        unimplemented!()
    }
    pub fn named_joined<'p>(
        &mut self,
        _name: &[u8],
        _parts: impl Iterator<Item = &'p [u8]>,
        _separator: &[u8],
    ) {
        unimplemented!()
    }
    /// # Errors
    /// [`RecordTooLarge`]: the slot stays reserved; answer 431 and cancel the reservation.
    pub fn finish(self) -> Result<(), RecordTooLarge> {
        unimplemented!()
    }
}
/// The name of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A known name.
    Known(KeyId),
    /// Any other, in CGI form.
    Named(&'a [u8]),
}
/// One environ variable. Bytes are as received (latin-1 for WSGI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its name.
    pub key: Key<'a>,
    /// Its value.
    pub value: &'a [u8],
    /// Whether every byte of the value is below 128.
    pub ascii: bool,
}
/// Iterator over a record's variables.
#[derive(Clone, Debug)]
pub struct Variables<'a> {
    _bytes: PhantomData<&'a [u8]>,
}
#[allow(clippy::unimplemented)]
impl<'a> Iterator for Variables<'a> {
    type Item = Variable<'a>;
    fn next(&mut self) -> Option<Variable<'a>> {
        unimplemented!()
    }
}
