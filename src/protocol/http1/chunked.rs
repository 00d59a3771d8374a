//! The chunked transfer coding, decoded (RFC 9112 §7.1).
//!
//! Place in the walk of a request: while `connection/` gathers or streams a body whose head said
//! `Transfer-Encoding: chunked`.
//!
//! Wire format: `*( 1*16HEXDIG [ *BWS ";" ext ] CRLF data CRLF ) 1*16"0" [ ext ] CRLF *( field
//! CRLF ) CRLF`. Stricter than the RFC: CRLF only, at most 16 digits, extensions of visible
//! characters, SP and HTAB, at most 256 bytes each and 16 KiB in one body; blanks after the size
//! only before `;`. Trailer fields are checked, bounded and dropped: WSGI has no place for them,
//! and merged into the head they would get around the checks made there (RFC 9110 §6.5.1).
//!
//! Invariants:
//! * every byte given is either consumed or lies behind the end of the body; the decoder keeps
//!   none, so input may be cut anywhere and the data, the end and the verdict stay the same;
//! * work is linear in the bytes received, and what is not data is bounded per chunk;
//! * after an error or the end nothing more is taken.

use crate::http::Rejection;
use crate::http::syntax::{LENGTH_MAX, is_text_byte, is_token_byte};

/// Hex digits in a chunk size.
const SIZE_DIGITS_MAX: u8 = 16;
/// Bytes in one chunk extension, blanks and `;` included.
pub const EXTENSION_BYTES_MAX: u16 = 256;
/// Bytes of chunk extensions in one body; CVE-2023-39326 and CVE-2024-22019 are what no such bound
/// leads to.
pub const EXTENSIONS_BYTES_MAX: u16 = 16_384;
/// Bytes in the trailer section, CRLFs included.
pub const TRAILER_BYTES_MAX: u16 = 8_192;
/// Field lines in the trailer section.
pub const TRAILER_FIELDS_MAX: u8 = 32;

/// The state of one chunked body, a few words, kept in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkDecoder {
    state: State,
    /// In `Size`: the size read so far. In `Data`: bytes of the chunk still to come.
    remaining: u64,
    /// Bytes of extensions in the body so far.
    extension_bytes: u16,
    /// Bytes of the trailer section so far.
    trailer_bytes: u16,
    trailer_fields: u8,
}

/// What a step found; offsets are into the input given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// All input was consumed, the body goes on.
    NeedMore,
    /// `input[start..end]` is body data, never empty. Step again with the input after it.
    Data {
        /// Offset of its first byte.
        start: usize,
        /// Offset past its last byte; also what was consumed.
        end: usize,
    },
    /// The body is complete; input after what was consumed belongs to the next request.
    End,
}

/// Named by what is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first or a further digit; the number of digits so far.
    Size(u8),
    /// Blanks after the size, which only `;` may follow; bytes so far.
    Semicolon(u16),
    /// The rest of an extension; bytes so far.
    Extension(u16),
    SizeLineFeed,
    Data,
    DataCarriageReturn,
    DataLineFeed,
    /// The first byte of a trailer line.
    TrailerLine,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
    Failed,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        ChunkDecoder::new()
    }
}

impl ChunkDecoder {
    /// Before the first byte of a body.
    pub const fn new() -> Self {
        ChunkDecoder {
            state: State::Size(0),
            remaining: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
        }
    }

    /// Whether the body has been read to its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on, up to the next piece of data, the end, or the end of `input`. Returns how many
    /// bytes of `input` were consumed. The rejection is 400, or 431 for a trailer section too
    /// large.
    pub fn step(&mut self, input: &[u8]) -> Result<(usize, ChunkStep), Rejection> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok((at, ChunkStep::End)),
                State::Failed => return Err(Rejection::bad_request("the chunked body is broken")),
                _ => {}
            }
            let Some(&byte) = input.get(at) else {
                return Ok((at, ChunkStep::NeedMore));
            };
            if self.state == State::Data {
                let here = (input.len() - at) as u64;
                let taken = self.remaining.min(here);
                self.remaining -= taken;
                if self.remaining == 0 {
                    self.state = State::DataCarriageReturn;
                }
                // At most `input.len() - at`, so it fits.
                let end = at + taken as usize;
                return Ok((end, ChunkStep::Data { start: at, end }));
            }
            match self.advance(byte) {
                Ok(state) => self.state = state,
                Err(rejection) => {
                    self.state = State::Failed;
                    return Err(rejection);
                }
            }
            at += 1;
        }
    }

    /// The state after `byte`, which is not body data. The only place where states change.
    fn advance(&mut self, byte: u8) -> Result<State, Rejection> {
        match (self.state, byte) {
            (State::Size(1..), b'\r') => Ok(State::SizeLineFeed),
            (State::Size(1..), b';') => self.extend(0, State::Extension),
            (State::Size(1..), b' ' | b'\t') => self.extend(0, State::Semicolon),
            (State::Size(digits), byte) => self.add_digit(digits, byte),
            (State::Semicolon(bytes), b' ' | b'\t') => self.extend(bytes, State::Semicolon),
            (State::Semicolon(bytes), b';') => self.extend(bytes, State::Extension),
            (State::Extension(_), b'\r') => Ok(State::SizeLineFeed),
            (State::Extension(bytes), b'\t' | b' '..=b'~') => self.extend(bytes, State::Extension),
            (State::Semicolon(_) | State::Extension(_), _) => {
                Err(Rejection::bad_request("a malformed chunk extension (RFC 9112 §7.1.1)"))
            }
            (State::SizeLineFeed, b'\n') if self.remaining == 0 => Ok(State::TrailerLine),
            (State::SizeLineFeed, b'\n') => Ok(State::Data),
            (State::DataCarriageReturn, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => Ok(State::Size(0)),
            (State::DataCarriageReturn | State::DataLineFeed, _) => {
                Err(Rejection::bad_request("chunk data is longer than its size (RFC 9112 §7.1)"))
            }
            (State::LastLineFeed, b'\n') => Ok(State::Done),
            (State::SizeLineFeed | State::LastLineFeed, _) => {
                Err(Rejection::bad_request("a CR without LF in a chunked body (RFC 9112 §2.2)"))
            }
            (State::TrailerLine, b'\r') => Ok(State::LastLineFeed),
            _ => self.advance_trailer(byte),
        }
    }

    /// Trailer fields: `token ":" text CRLF`, dropped (RFC 9112 §7.1.2).
    fn advance_trailer(&mut self, byte: u8) -> Result<State, Rejection> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Rejection::new(431, "the trailer section is too large"));
        }
        match (self.state, byte) {
            (State::TrailerLine, byte) if is_token_byte(byte) => {
                self.trailer_fields += 1;
                if self.trailer_fields > TRAILER_FIELDS_MAX {
                    return Err(Rejection::new(431, "too many trailer fields"));
                }
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerName, byte) if is_token_byte(byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerValue, byte) if is_text_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLineFeed, b'\n') => Ok(State::TrailerLine),
            _ => Err(Rejection::bad_request("a malformed trailer field (RFC 9112 §7.1.2)")),
        }
    }

    fn add_digit(&mut self, digits: u8, byte: u8) -> Result<State, Rejection> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return Err(Rejection::bad_request("a malformed chunk size (RFC 9112 §7.1)")),
        };
        if digits == SIZE_DIGITS_MAX {
            return Err(Rejection::bad_request("a chunk size of more than 16 digits"));
        }
        // Sixteen digits fill 64 bits exactly, so the shift loses nothing. `remaining` is 0 here
        // when a new size begins: the data before it was taken whole.
        self.remaining = self.remaining << 4 | u64::from(digit);
        if self.remaining > LENGTH_MAX {
            return Err(Rejection::bad_request("a chunk size of 2^63 or more"));
        }
        Ok(State::Size(digits + 1))
    }

    /// Counts one more byte of an extension that has `bytes` so far.
    fn extend(&mut self, bytes: u16, next: fn(u16) -> State) -> Result<State, Rejection> {
        self.extension_bytes += 1;
        if bytes == EXTENSION_BYTES_MAX || self.extension_bytes > EXTENSIONS_BYTES_MAX {
            return Err(Rejection::bad_request("chunk extensions are too long"));
        }
        Ok(next(bytes + 1))
    }
}
