//! The packet: header, bounds of every length, and the walk over its variables.
//!
//! Place in the walk of a request: the first half of the uwsgi codec; see the module above for the
//! wire format.
//!
//! Invariants: offsets come only from lengths that were compared with what is there; a packet is
//! looked at once, when it is complete, so a slow peer costs no repeated work.

use crate::http::Rejection;
use crate::protocol::Parsed;

/// modifier1 of a WSGI request.
pub const MODIFIER_WSGI: u8 = 0;
/// modifier1 of a WSGI request whose PATH_INFO still begins with SCRIPT_NAME.
pub const MODIFIER_MANAGE_PATH_INFO: u8 = 30;
/// modifier1 of a ping; modifier2 is 0 in a ping and 1 in its answer.
pub const MODIFIER_PING: u8 = 100;
/// The answer to a ping: an empty packet with modifier1 100, modifier2 1.
pub const PONG: [u8; 4] = [MODIFIER_PING, 0, 0, 1];

const HEADER_BYTES: usize = 4;
/// The longest packet the 16-bit size allows, header included, in bytes.
pub const PACKET_BYTES_MAX: usize = HEADER_BYTES + u16::MAX as usize;

/// A complete, checked packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'b> {
    /// One of the three `MODIFIER_*`.
    pub modifier1: u8,
    /// As sent; without meaning in a WSGI request.
    pub modifier2: u8,
    /// Bytes of the buffer the packet took, header included. The body begins there.
    pub consumed: usize,
    variables: &'b [u8],
}

impl<'b> Packet<'b> {
    /// Whether this is a ping, to be answered by [`PONG`].
    pub fn is_ping(&self) -> bool {
        self.modifier1 == MODIFIER_PING
    }

    /// The variables as sent, in order: repeated keys come repeatedly, keys that are not passed on
    /// come too.
    pub fn variables(&self) -> Variables<'b> {
        Variables { rest: self.variables }
    }

    /// The variables an application may see: without the keys that [`super::is_passed_on`] stops,
    /// and without an empty CONTENT_LENGTH or CONTENT_TYPE, which nginx sends for requests that
    /// have none and PEP 3333 wants absent or meaningful.
    pub fn passed_on(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + use<'b> {
        self.variables().filter(|(key, value)| super::is_variable_passed_on(key, value))
    }
}

/// Reads a packet from the start of `bytes`.
///
/// `Partial` until its last byte is there. Rejections: without an answer
/// ([`Rejection::CLOSE`]) for a modifier that is not served, as soon as it is seen; 400 for a
/// packet whose variables do not fill it exactly, or with a key that is empty or no environ name.
pub fn parse_packet(bytes: &[u8]) -> Parsed<Packet<'_>> {
    let Some(&modifier1) = bytes.first() else {
        return Parsed::Partial;
    };
    if !matches!(modifier1, MODIFIER_WSGI | MODIFIER_MANAGE_PATH_INFO | MODIFIER_PING) {
        return close("a uwsgi modifier1 other than 0, 30 and 100");
    }
    let Some((&[_, low, high, modifier2], after_header)) = bytes.split_first_chunk() else {
        return Parsed::Partial;
    };
    let variable_bytes = usize::from(u16::from_le_bytes([low, high]));
    if modifier1 == MODIFIER_PING && (modifier2 != 0 || variable_bytes != 0) {
        return close("a uwsgi ping with contents, or an answer to one");
    }
    let Some(variables) = after_header.get(..variable_bytes) else {
        return Parsed::Partial;
    };
    match check_variables(variables) {
        Ok(()) => Parsed::Head(Packet {
            modifier1,
            modifier2,
            consumed: HEADER_BYTES + variable_bytes,
            variables,
        }),
        Err(rejection) => Parsed::Reject(rejection),
    }
}

fn close<H>(reason: &'static str) -> Parsed<H> {
    Parsed::Reject(Rejection::new(Rejection::CLOSE, reason))
}

fn check_variables(mut rest: &[u8]) -> Result<(), Rejection> {
    while !rest.is_empty() {
        let Some((key, _, after)) = split_variable(rest) else {
            return Err(Rejection::bad_request("a uwsgi variable runs past its packet"));
        };
        if !is_environ_name(key) {
            return Err(Rejection::bad_request("a uwsgi key that is empty or no environ name"));
        }
        rest = after;
    }
    Ok(())
}

/// Key, value and what follows them; `None` when a length points past the end.
#[inline]
fn split_variable(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key, after_key) = split_prefixed(bytes)?;
    let (value, rest) = split_prefixed(after_key)?;
    Some((key, value, rest))
}

/// A string with its 16-bit length before it, and what follows it.
#[inline]
fn split_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

/// Visible ASCII without `=`: what any environ, a process's own too, can hold as a name. Frontends
/// send nothing else, and a key with a line end or NUL would lie to logs and to applications.
fn is_environ_name(key: &[u8]) -> bool {
    // Without an early exit, so that the bytes of a key are tested side by side.
    let wrong = key.iter().filter(|byte| !byte.is_ascii_graphic() || **byte == b'=').count();
    !key.is_empty() && wrong == 0
}

/// Iterator over the (key, value) pairs of a packet.
#[derive(Clone, Debug)]
pub struct Variables<'b> {
    rest: &'b [u8],
}

impl<'b> Iterator for Variables<'b> {
    type Item = (&'b [u8], &'b [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // The packet was checked to its last byte, so `None` is its end and nothing else.
        let (key, value, rest) = split_variable(self.rest)?;
        self.rest = rest;
        Some((key, value))
    }
}
