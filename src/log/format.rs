//! `--access-logformat`: compiled once at start, applied by the control plane to each record.
//!
//! The atoms are gunicorn's (`%(h)s` … `%({name}i)s`), and ours for what only we know. Compiling
//! also finds out what loops must capture. An unknown atom is an error: a log that silently misses
//! what somebody asked for is found out on the day it is needed.
//!
//! Invariant: a value never breaks its line or its quotes. Every byte of a value that is a control
//! byte, a double quote, a backslash or not ASCII is written as `\xNN`.

use std::io::Write as _;

use super::moment::Moment;
use super::record::{AccessCaptures, AccessRecord};

/// Headers and environ variables that one format may name: bounds what a record carries.
pub const ACCESS_CAPTURES_MAX: usize = 64;

/// A compiled access log format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessFormat {
    pieces: Vec<Piece>,
    captures: AccessCaptures,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Written as it is.
    Literal(Box<[u8]>),
    /// A captured variable, by its place.
    Variable(usize),
    /// A field of the response head, by its name in small letters.
    ResponseField(Box<[u8]>),
    /// User name of Basic credentials in the variable at this place.
    User(usize),
    Atom(Atom),
}

/// Atoms that need no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Atom {
    RemoteAddr,
    Dash,
    Time,
    RequestLine,
    Method,
    Protocol,
    Status,
    BodyBytes,
    BodyBytesOrDash,
    Seconds,
    Milliseconds,
    Microseconds,
    DecimalSeconds,
    WorkerPid,
    RequestId,
    QueueWait,
    FirstByte,
    CloseReason,
}

/// Atom names and what they are; `docs/access-log.md` lists the same.
const ATOMS: &[(&str, Atom)] = &[
    ("h", Atom::RemoteAddr),
    ("l", Atom::Dash),
    ("t", Atom::Time),
    ("r", Atom::RequestLine),
    ("m", Atom::Method),
    ("H", Atom::Protocol),
    ("s", Atom::Status),
    ("B", Atom::BodyBytes),
    ("b", Atom::BodyBytesOrDash),
    ("T", Atom::Seconds),
    ("M", Atom::Milliseconds),
    ("D", Atom::Microseconds),
    ("L", Atom::DecimalSeconds),
    ("p", Atom::WorkerPid),
    ("request_id", Atom::RequestId),
    ("queue_wait", Atom::QueueWait),
    ("first_byte", Atom::FirstByte),
    ("close_reason", Atom::CloseReason),
];

/// Atoms that are variables of the environ.
const VARIABLES: &[(&str, &str)] =
    &[("U", "PATH_INFO"), ("q", "QUERY_STRING"), ("f", "HTTP_REFERER"), ("a", "HTTP_USER_AGENT")];

impl AccessFormat {
    /// Compiles a format.
    ///
    /// # Errors
    /// A sentence that quotes what is not an atom.
    pub fn compile(text: &str) -> Result<AccessFormat, String> {
        let mut format = AccessFormat { pieces: Vec::new(), captures: AccessCaptures::default() };
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            format.literal(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                format.literal("%");
                rest = after;
                continue;
            }
            let (name, after) = rest
                .strip_prefix('(')
                .and_then(|rest| rest.split_once(')'))
                .ok_or_else(|| "`%` begins an atom such as %(h)s; write %% for one".to_owned())?;
            rest = after
                .strip_prefix(['s', 'd'])
                .ok_or_else(|| format!("`%({name})` is not followed by `s`"))?;
            format.atom(name)?;
        }
        format.literal(rest);
        Ok(format)
    }

    /// What loops must capture for this format.
    pub fn captures(&self) -> &AccessCaptures {
        &self.captures
    }

    /// Appends the line of a record, line end included.
    pub fn write(&self, record: &AccessRecord, worker_pid: u32, moment: Moment, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Variable(place) => value(variable(record, *place), out),
                Piece::User(place) => {
                    let user = variable(record, *place).and_then(super::basic::user);
                    value(user.as_deref(), out);
                }
                Piece::ResponseField(name) => {
                    let head = record.response_head.as_deref().unwrap_or_default();
                    value(response_field(head, name).as_deref(), out);
                }
                Piece::Atom(atom) => atom.write(record, worker_pid, moment, out),
            }
        }
        out.push(b'\n');
    }

    fn literal(&mut self, text: &str) {
        if !text.is_empty() {
            self.pieces.push(Piece::Literal(text.as_bytes().into()));
        }
    }

    fn atom(&mut self, name: &str) -> Result<(), String> {
        let piece = if let Some((_, atom)) = ATOMS.iter().find(|(known, _)| *known == name) {
            self.captures.note(*atom);
            Piece::Atom(*atom)
        } else if let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) {
            Piece::Variable(self.capture(variable)?)
        } else if name == "u" {
            Piece::User(self.capture("HTTP_AUTHORIZATION")?)
        } else {
            self.named(name)?
        };
        self.pieces.push(piece);
        Ok(())
    }

    /// `{name}i`, `{name}o`, `{name}e`.
    fn named(&mut self, name: &str) -> Result<Piece, String> {
        let unknown = || format!("`%({name})s` is no atom");
        let (inner, kind) =
            name.strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or_else(unknown)?;
        if inner.is_empty() {
            return Err(unknown());
        }
        Ok(match kind {
            "i" => Piece::Variable(self.capture(&environ_name(inner))?),
            "e" => Piece::Variable(self.capture(inner)?),
            "o" => {
                self.captures.response_head = true;
                Piece::ResponseField(inner.to_ascii_lowercase().into_bytes().into())
            }
            _ => return Err(unknown()),
        })
    }

    fn capture(&mut self, name: &str) -> Result<usize, String> {
        let names = &mut self.captures.variables;
        if let Some(place) = names.iter().position(|known| **known == *name.as_bytes()) {
            return Ok(place);
        }
        if names.len() == ACCESS_CAPTURES_MAX {
            return Err(format!("it names more than {ACCESS_CAPTURES_MAX} headers and variables"));
        }
        names.push(name.as_bytes().into());
        Ok(names.len() - 1)
    }
}

impl AccessCaptures {
    fn note(&mut self, atom: Atom) {
        match atom {
            Atom::RequestLine | Atom::Method | Atom::Protocol => self.request_line = true,
            Atom::RemoteAddr => self.remote_addr = true,
            Atom::RequestId => self.request_id = true,
            _ => {}
        }
    }
}

impl Atom {
    fn write(self, record: &AccessRecord, worker_pid: u32, moment: Moment, out: &mut Vec<u8>) {
        let total = record.phases.total_ns();
        match self {
            Atom::Dash => out.push(b'-'),
            Atom::RemoteAddr => value(filled(record.remote_addr.as_bytes()), out),
            Atom::Time => moment.write_common_log(out),
            Atom::RequestLine => request_line(record, out),
            Atom::Method => value(filled(&record.method), out),
            Atom::Protocol => value(filled(&record.protocol), out),
            Atom::Status => number(u64::from(record.status), out),
            Atom::BodyBytesOrDash if record.status == 0 => out.push(b'-'),
            Atom::BodyBytes | Atom::BodyBytesOrDash => number(record.response_body_bytes, out),
            Atom::Seconds => number(total / 1_000_000_000, out),
            Atom::Milliseconds => number(total / 1_000_000, out),
            Atom::Microseconds => number(total / 1_000, out),
            Atom::DecimalSeconds => decimal_seconds(total, out),
            Atom::WorkerPid => {
                out.push(b'<');
                number(u64::from(worker_pid), out);
                out.push(b'>');
            }
            Atom::RequestId => value(filled(&record.request_id), out),
            Atom::QueueWait => decimal_seconds(record.phases.queue_wait_ns(), out),
            Atom::FirstByte if record.phases.first_byte_ns == 0 => out.push(b'-'),
            Atom::FirstByte => {
                let phases = record.phases;
                decimal_seconds(phases.first_byte_ns.saturating_sub(phases.head_ns), out);
            }
            Atom::CloseReason => value(record.close_reason.map(str::as_bytes), out),
        }
    }
}

/// The environ name of a header: `Content-Type` -> `CONTENT_TYPE`, others with `HTTP_`.
fn environ_name(header: &str) -> String {
    let name = header.to_ascii_uppercase().replace('-', "_");
    match name.as_str() {
        "CONTENT_TYPE" | "CONTENT_LENGTH" => name,
        _ => format!("HTTP_{name}"),
    }
}

fn variable(record: &AccessRecord, place: usize) -> Option<&[u8]> {
    record.variables.get(place).and_then(Option::as_deref)
}

fn filled(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

fn request_line(record: &AccessRecord, out: &mut Vec<u8>) {
    if record.method.is_empty() {
        out.push(b'-');
        return;
    }
    escaped(&record.method, out);
    for part in [&record.target, &record.protocol] {
        if !part.is_empty() {
            out.push(b' ');
            escaped(part, out);
        }
    }
}

/// Every field of that name, joined as RFC 9110 §5.3 joins them.
fn response_field(head: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut joined: Option<Vec<u8>> = None;
    // The first line is the status line; "Status: 200 OK" of a gateway is a field like others.
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if !line[..colon].eq_ignore_ascii_case(name) {
            continue;
        }
        let field = line[colon + 1..].trim_ascii();
        match &mut joined {
            None => joined = Some(field.to_vec()),
            Some(joined) => {
                joined.extend_from_slice(b", ");
                joined.extend_from_slice(field);
            }
        }
    }
    joined
}

fn value(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => escaped(bytes, out),
        None => out.push(b'-'),
    }
}

fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\' {
            out.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'\\', b'x', DIGITS[high], DIGITS[low]]);
        }
    }
}

fn number(number: u64, out: &mut Vec<u8>) {
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{number}");
}

fn decimal_seconds(nanoseconds: u64, out: &mut Vec<u8>) {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let _ = write!(out, "{seconds}.{:06}", rest / 1_000);
}

#[cfg(test)]
mod tests;
