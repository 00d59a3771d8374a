//! Field lines: the table the tokenizer fills, and the facts the server itself needs from them.
//!
//! Place in the walk of a request: the last part of [`parse_head`](super::parse_head).
//!
//! Wire format (RFC 9112 §5): `token ":" OWS field-value OWS CRLF`.
//!
//! Invariants:
//! * after `read_fields` no field is left whose name holds `_` (it would take the environ key of
//!   its `-` twin, CVE-2015-0219) or is `Proxy` (it would become HTTP_PROXY, "httpoxy"); such
//!   fields count against the limits and are otherwise as if never sent;
//! * a field that can stand once only stands at most once, so no later reader has to choose.
//!
//! Hop-by-hop fields and those named in Connection stay: an application may look at them, and what
//! frames the message was decided here.

use std::mem::MaybeUninit;

use memchr::memchr;

use super::target::check_authority;
use crate::http::syntax::{decimal, is_token, list_elements};
use crate::http::{BodyFraming, Field, Rejection, Version};

/// The most fields a request can have, whatever limit is configured.
pub const FIELDS_MAX: usize = 256;

/// Room for the fields of one head, on the caller's stack. It borrows from the receive buffer, so
/// it lives for one head only; making one costs nothing, it is filled only as far as needed.
pub struct FieldTable<'b> {
    pub(super) entries: [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX],
}

impl FieldTable<'_> {
    /// An empty table.
    #[inline]
    pub const fn new() -> Self {
        FieldTable { entries: [const { MaybeUninit::uninit() }; FIELDS_MAX] }
    }
}

impl Default for FieldTable<'_> {
    fn default() -> Self {
        FieldTable::new()
    }
}

/// The fields of a request that are handed on, in the order they arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields<'b, 'f> {
    entries: &'f [httparse::Header<'b>],
}

impl<'b, 'f> Fields<'b, 'f> {
    /// From first to last.
    pub fn iter(&self) -> FieldsIter<'b, 'f> {
        FieldsIter { entries: self.entries.iter() }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of the first field called `name`, in any case.
    pub fn value_of(&self, name: &str) -> Option<&'b [u8]> {
        self.entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)).map(|e| e.value)
    }
}

impl std::fmt::Debug for Fields<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries).finish()
    }
}

impl<'b, 'f> IntoIterator for Fields<'b, 'f> {
    type Item = Field<'b>;
    type IntoIter = FieldsIter<'b, 'f>;

    fn into_iter(self) -> FieldsIter<'b, 'f> {
        self.iter()
    }
}

impl<'b, 'f> IntoIterator for &Fields<'b, 'f> {
    type Item = Field<'b>;
    type IntoIter = FieldsIter<'b, 'f>;

    fn into_iter(self) -> FieldsIter<'b, 'f> {
        self.iter()
    }
}

/// Iterator over [`Fields`].
#[derive(Clone)]
pub struct FieldsIter<'b, 'f> {
    entries: std::slice::Iter<'f, httparse::Header<'b>>,
}

impl<'b> Iterator for FieldsIter<'b, '_> {
    type Item = Field<'b>;

    #[inline]
    fn next(&mut self) -> Option<Field<'b>> {
        self.entries.next().map(|e| Field { name: e.name.as_bytes(), value: e.value })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl ExactSizeIterator for FieldsIter<'_, '_> {}

/// What the fields say about the message and the connection.
#[derive(Debug)]
pub(super) struct FieldFacts<'b, 'f> {
    pub fields: Fields<'b, 'f>,
    pub framing: BodyFraming,
    pub host: Option<&'b [u8]>,
    pub keep_alive: bool,
    pub expect_continue: bool,
}

/// Reads every field once, drops those that are not handed on, and settles framing and persistence.
/// `authority`, from an absolute-form target, replaces the value of Host (RFC 9112 §3.2.2).
pub(super) fn read_fields<'b, 'f>(
    entries: &'f mut [httparse::Header<'b>],
    version: Version,
    authority: Option<&'b [u8]>,
) -> Result<FieldFacts<'b, 'f>, Rejection> {
    let mut notes = Notes::default();
    let mut kept = 0;
    for at in 0..entries.len() {
        let mut entry = entries[at];
        if memchr(b'_', entry.name.as_bytes()).is_some() {
            continue;
        }
        match recognise(entry.name.as_bytes()) {
            Known::Other => {}
            Known::Proxy => continue,
            known => {
                notes.note(known, entry.value, version)?;
                if known == Known::Host {
                    entry.value = authority.unwrap_or(entry.value);
                }
            }
        }
        entries[kept] = entry;
        kept += 1;
    }
    if version == Version::Http11 && notes.host.is_none() {
        return Err(Rejection::bad_request("HTTP/1.1 without Host (RFC 9112 §3.2)"));
    }
    let framing = notes.framing(version)?;
    let keep_alive = !notes.close && (version == Version::Http11 || notes.keep_alive);
    Ok(FieldFacts {
        fields: Fields { entries: &entries[..kept] },
        framing,
        host: authority.or(notes.host),
        keep_alive,
        expect_continue: notes.expect_continue
            && !matches!(framing, BodyFraming::Empty | BodyFraming::Length(0)),
    })
}

/// Fields with a meaning to the server, or that can stand only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Proxy,
    /// Stands at most once; the number is its bit in `Notes::seen`.
    Single(u8),
    Other,
}

/// Names are told apart by length and first letter before they are compared: most fields of a real
/// request match no arm and cost one jump.
#[inline]
fn recognise(name: &[u8]) -> Known {
    let (expected, known) = match (name.len(), name[0] | 0x20) {
        (4, b'h') => ("host", Known::Host),
        (14, b'c') => ("content-length", Known::ContentLength),
        (17, b't') => ("transfer-encoding", Known::TransferEncoding),
        (10, b'c') => ("connection", Known::Connection),
        (6, b'e') => ("expect", Known::Expect),
        (5, b'p') => ("proxy", Known::Proxy),
        (12, b'c') => ("content-type", Known::Single(0)),
        (13, b'a') => ("authorization", Known::Single(1)),
        (19, b'p') => ("proxy-authorization", Known::Single(2)),
        (13, b'c') => ("content-range", Known::Single(3)),
        (5, b'r') => ("range", Known::Single(4)),
        (8, b'i') => ("if-range", Known::Single(5)),
        (17, b'i') => ("if-modified-since", Known::Single(6)),
        (19, b'i') => ("if-unmodified-since", Known::Single(7)),
        (12, b'm') => ("max-forwards", Known::Single(8)),
        (10, b'u') => ("user-agent", Known::Single(9)),
        (7, b'r') => ("referer", Known::Single(10)),
        (4, b'f') => ("from", Known::Single(11)),
        (4, b'd') => ("date", Known::Single(12)),
        _ => return Known::Other,
    };
    if name.eq_ignore_ascii_case(expected.as_bytes()) { known } else { Known::Other }
}

/// What was read so far of one head.
#[derive(Default)]
struct Notes<'b> {
    host: Option<&'b [u8]>,
    content_length: Option<u64>,
    transfer: Option<TransferCoding>,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
    seen: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TransferCoding {
    Chunked,
    Unknown,
}

impl<'b> Notes<'b> {
    fn note(&mut self, known: Known, value: &'b [u8], version: Version) -> Result<(), Rejection> {
        match known {
            Known::Host => {
                if self.host.is_some() {
                    return Err(Rejection::bad_request("more than one Host (RFC 9112 §3.2)"));
                }
                check_authority(value)?;
                self.host = Some(value);
            }
            Known::ContentLength => {
                if self.content_length.is_some() {
                    return Err(Rejection::bad_request("more than one Content-Length"));
                }
                let length = decimal(value).ok_or(Rejection::bad_request(
                    "Content-Length is not one number below 2^63 (RFC 9112 §6.3)",
                ))?;
                self.content_length = Some(length);
            }
            Known::TransferEncoding => {
                if self.transfer.is_some() {
                    return Err(Rejection::bad_request("more than one Transfer-Encoding"));
                }
                self.transfer = Some(transfer_coding(value)?);
            }
            Known::Connection => {
                for option in list_elements(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            // RFC 9110 §10.1.1: a server ignores it in an HTTP/1.0 request.
            Known::Expect if version == Version::Http10 => {}
            Known::Expect => {
                for expectation in list_elements(value).filter(|element| !element.is_empty()) {
                    if !expectation.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Rejection::new(417, "Expect is not 100-continue"));
                    }
                    self.expect_continue = true;
                }
            }
            Known::Single(bit) => {
                if self.seen & (1 << bit) != 0 {
                    return Err(Rejection::bad_request(
                        "a field that stands once is repeated (RFC 9110 §5.3)",
                    ));
                }
                self.seen |= 1 << bit;
            }
            Known::Proxy | Known::Other => {}
        }
        Ok(())
    }

    /// RFC 9112 §6.1 and §6.3, with every choice they leave taken on the side of refusing.
    fn framing(&self, version: Version) -> Result<BodyFraming, Rejection> {
        match (self.transfer, self.content_length) {
            (Some(_), Some(_)) => Err(Rejection::bad_request(
                "Content-Length and Transfer-Encoding together (RFC 9112 §6.1)",
            )),
            (Some(_), None) if version == Version::Http10 => Err(Rejection::bad_request(
                "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 §6.1)",
            )),
            (Some(TransferCoding::Unknown), None) => {
                Err(Rejection::new(501, "a transfer coding other than chunked (RFC 9112 §6.1)"))
            }
            (Some(TransferCoding::Chunked), None) => Ok(BodyFraming::Chunked),
            (None, Some(length)) => Ok(BodyFraming::Length(length)),
            (None, None) => Ok(BodyFraming::Empty),
        }
    }
}

/// `chunked`, a well-formed list with codings we do not have, or an error: not a list of plain
/// tokens (chunked takes no parameter), or chunked repeated or not last (RFC 9112 §6.1, §7.1).
fn transfer_coding(value: &[u8]) -> Result<TransferCoding, Rejection> {
    let mut unknown = false;
    let mut chunked = false;
    for coding in list_elements(value) {
        if !is_token(coding) {
            return Err(Rejection::bad_request("Transfer-Encoding is not a list of codings"));
        }
        if chunked {
            return Err(Rejection::bad_request("chunked is repeated or not last (RFC 9112 §6.1)"));
        }
        chunked = coding.eq_ignore_ascii_case(b"chunked");
        unknown |= !chunked;
    }
    Ok(if unknown { TransferCoding::Unknown } else { TransferCoding::Chunked })
}
