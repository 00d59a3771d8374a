//! A request body on its way from the socket to the exchange: gathered, spilled, streamed.
//!
//! Where it stands in the walk of a request: between the head and the queue (a gathered body), or
//! beside the running request (a streamed one). Bytes come in as they stood on the wire and lie
//! here decoded: first in [`Body::memory`], then, beyond the memory bound, in an unlinked spool
//! file that `event_loop` writes and reads by ring operations. Order: file first, memory behind it.
//!
//! Invariants: `received` counts decoded bytes only and never decreases; `memory[..consumed]` went
//! on already; nothing is taken from the wire behind the body's end.

use std::fs::File;

use crate::http::{BodyFraming, Rejection};
use crate::protocol::http1::{ChunkDecoder, ChunkStep};

/// How the body's end is found.
#[derive(Debug)]
enum Incoming {
    /// `Content-Length`: so many bytes are still to come.
    Length(u64),
    /// Chunks, by the decoder's state.
    Chunked(ChunkDecoder),
    /// Everything was received.
    Complete,
}

/// An unlinked file that holds a body's front.
#[derive(Debug)]
pub struct SpoolFile {
    /// The open file; its space is freed when this is dropped.
    pub file: File,
    /// Bytes written: the file's length.
    pub written: u64,
    /// Bytes read back.
    pub read: u64,
}

/// A request body, while any of it has not gone on.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    /// Decoded bytes not yet spooled or fed.
    pub memory: Vec<u8>,
    /// How many of `memory`'s bytes went on.
    pub consumed: usize,
    /// The spool file, once the memory bound was passed.
    pub spool: Option<SpoolFile>,
    /// Bytes read back from the spool file, waiting to be fed.
    pub spool_piece: Vec<u8>,
    /// How many of `spool_piece`'s bytes went on.
    pub spool_consumed: usize,
    /// Decoded bytes received in all.
    pub received: u64,
    /// The request is in the exchange: what arrives is fed, not gathered.
    pub is_streaming: bool,
    /// Nobody reads it any more; it lies here until the kernel's operation on its memory ended.
    pub is_unwanted: bool,
    /// When more of it was last asked for, monotonic nanoseconds: `--body-timeout` counts from it.
    pub asked_ns: u64,
    /// That receive was cancelled: if it brought nothing, the body's time is over.
    pub is_late: bool,
    /// It waits in the loop's queue for buffer memory.
    pub is_stalled: bool,
}

impl Body {
    /// A body of which nothing was received yet.
    pub fn new(framing: BodyFraming) -> Body {
        let incoming = match framing {
            BodyFraming::Empty | BodyFraming::Length(0) => Incoming::Complete,
            BodyFraming::Length(bytes) => Incoming::Length(bytes),
            BodyFraming::Chunked => Incoming::Chunked(ChunkDecoder::default()),
        };
        Body {
            incoming,
            memory: Vec::new(),
            consumed: 0,
            spool: None,
            spool_piece: Vec::new(),
            spool_consumed: 0,
            received: 0,
            is_streaming: false,
            is_unwanted: false,
            asked_ns: 0,
            is_late: false,
            is_stalled: false,
        }
    }

    /// Whether the last byte was received.
    pub fn is_complete(&self) -> bool {
        matches!(self.incoming, Incoming::Complete)
    }

    /// Bytes still to come, when the framing says so.
    pub fn remaining(&self) -> Option<u64> {
        match self.incoming {
            Incoming::Length(bytes) => Some(bytes),
            Incoming::Chunked(_) => None,
            Incoming::Complete => Some(0),
        }
    }

    /// Takes what belongs to the body from the front of `wire`; returns how many bytes it took.
    /// Less than all only when the body is complete: the rest is the next request.
    ///
    /// # Errors
    /// A malformed chunk (RFC 9112 §7.1), or more than `bytes_max` decoded bytes (0 = no bound):
    /// 413.
    pub fn take(&mut self, wire: &[u8], bytes_max: u64) -> Result<usize, Rejection> {
        let mut taken = 0;
        while taken < wire.len() && !self.is_complete() {
            let input = &wire[taken..];
            match &mut self.incoming {
                Incoming::Complete => {}
                Incoming::Length(left) => {
                    let bytes = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    self.memory.extend_from_slice(&input[..bytes]);
                    taken += bytes;
                    self.note_received(bytes as u64);
                }
                Incoming::Chunked(decoder) => {
                    let (consumed, step) = decoder.step(input)?;
                    taken += consumed;
                    match step {
                        ChunkStep::NeedMore => return Ok(taken),
                        ChunkStep::Data { start, end } => {
                            self.memory.extend_from_slice(&input[start..end]);
                            self.received += (end - start) as u64;
                        }
                        ChunkStep::End => self.incoming = Incoming::Complete,
                    }
                }
            }
            if bytes_max != 0 && self.received > bytes_max {
                return Err(BODY_TOO_LARGE);
            }
        }
        Ok(taken)
    }

    /// Notes bytes that were received straight into `memory` (`Content-Length` bodies only).
    pub fn note_received(&mut self, bytes: u64) {
        self.received += bytes;
        if let Incoming::Length(left) = &mut self.incoming {
            debug_assert!(bytes <= *left);
            *left -= bytes;
            if *left == 0 {
                self.incoming = Incoming::Complete;
            }
        }
    }

    /// The next bytes to feed, in order: read back from the file, else (the file being read to its
    /// end) from memory. Empty: nothing is at hand now.
    pub fn front(&self) -> &[u8] {
        let piece = &self.spool_piece[self.spool_consumed..];
        if !piece.is_empty() {
            return piece;
        }
        if self.spool_left() > 0 { &[] } else { &self.memory[self.consumed..] }
    }

    /// Notes that the first `bytes` of [`front`](Body::front) went on.
    pub fn advance(&mut self, bytes: usize) {
        if self.spool_consumed < self.spool_piece.len() {
            self.spool_consumed += bytes;
            return;
        }
        self.consumed += bytes;
        if self.consumed == self.memory.len() {
            self.memory.clear();
            self.consumed = 0;
        }
    }

    /// Bytes of the spool file not yet read back.
    pub fn spool_left(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.written - spool.read)
    }

    /// Whether every byte received went on.
    pub fn is_fed(&self) -> bool {
        self.spool_left() == 0
            && self.spool_consumed == self.spool_piece.len()
            && self.consumed == self.memory.len()
    }
}

/// The body is larger than `--limit-request-body` (RFC 9110 §15.5.14).
pub const BODY_TOO_LARGE: Rejection =
    Rejection { status: 413, reason: "the request body is larger than --limit-request-body" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_no_byte_behind_the_end() {
        for split in 0..8 {
            let wire = b"abcdeGET";
            let mut body = Body::new(BodyFraming::Length(5));
            let first = body.take(&wire[..split], 0).unwrap();
            let second = body.take(&wire[first..], 0).unwrap();
            assert_eq!(first + second, 5, "split at {split}");
            assert_eq!(body.memory, b"abcde");
            assert!(body.is_complete());
        }
    }

    #[test]
    fn decodes_chunks_at_every_split() {
        let wire = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nGET";
        for split in 0..wire.len() {
            let mut body = Body::new(BodyFraming::Chunked);
            let first = body.take(&wire[..split], 0).unwrap();
            let second = body.take(&wire[first..], 0).unwrap();
            assert_eq!(first + second, wire.len() - 3, "split at {split}");
            assert_eq!(body.memory, b"abcde", "split at {split}");
            assert!(body.is_complete());
        }
    }

    #[test]
    fn bounds_the_decoded_bytes() {
        let mut body = Body::new(BodyFraming::Chunked);
        assert_eq!(body.take(b"5\r\nabcde\r\n", 4).unwrap_err().status, 413);
        let mut body = Body::new(BodyFraming::Chunked);
        assert!(body.take(b"4\r\nabcd\r\n0\r\n\r\n", 4).is_ok());
    }
}
