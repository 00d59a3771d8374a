//! What a worker states with the first bytes of a response, and how a response ends.
//!
//! Where it stands in the walk of a request: written by the `ResponseWriter` in one publication
//! with the head, copied once by the loop, which then sends no byte beyond it and keeps the
//! connection only if exactly that went out. Two words of the slot's line; zero means that nothing
//! was stated yet.

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseEnd {
    /// Whole.
    Complete,
    /// Cut: what went out must not look whole (close without final chunk), or nothing was said at
    /// all.
    Broken,
}

impl ResponseEnd {
    #[inline]
    pub(crate) fn pack(self) -> u64 {
        match self {
            ResponseEnd::Complete => 1 << OUTCOME_SHIFT,
            ResponseEnd::Broken => 2 << OUTCOME_SHIFT,
        }
    }

    #[inline]
    pub(crate) fn unpack(word: u64) -> Option<ResponseEnd> {
        match word >> OUTCOME_SHIFT {
            1 => Some(ResponseEnd::Complete),
            2 => Some(ResponseEnd::Broken),
            _ => None,
        }
    }
}

/// What follows the head on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatedBody {
    /// Exactly this many bytes (0 for HEAD, 1xx, 204 and 304).
    Length(u64),
    /// Chunks, framed by the writer.
    Chunked,
    /// Everything until the connection is closed.
    UntilClose,
}

/// What the worker states with its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// 100 to 999.
    pub status: u16,
    /// Bytes of status line, fields and empty line.
    pub head_bytes: u32,
    /// What really follows.
    pub body: StatedBody,
    /// The head allows the connection to stay open.
    pub keep_alive: bool,
}

/// Shortest head: `HTTP/1.1 200 ` and two line ends.
pub(crate) const HEAD_BYTES_MIN: u32 = 17;

const PRESENT: u64 = 1 << 56;
const KEEP_ALIVE: u64 = 1 << 57;
/// The outcome shares the statement's word, so that a slot's line is one line.
const OUTCOME_SHIFT: u32 = 60;
const OUTCOME: u64 = 3 << OUTCOME_SHIFT;

/// Beside a statement: the response goes through the large ring that was granted. It need not: the
/// application may have thought better of its first piece.
pub(crate) const LARGE: u64 = 1 << 59;

impl Statement {
    /// The two words. Head bytes 32 bits, status 16, kind of body 8, flags 4, outcome 4 (0 until
    /// the end); then the length.
    #[inline]
    pub(crate) fn pack(self) -> (u64, u64) {
        let (kind, length) = match self.body {
            StatedBody::Length(length) => (0, length),
            StatedBody::Chunked => (1, 0),
            StatedBody::UntilClose => (2, 0),
        };
        let keep_alive = if self.keep_alive { KEEP_ALIVE } else { 0 };
        let word = u64::from(self.head_bytes)
            | u64::from(self.status) << 32
            | kind << 48
            | PRESENT
            | keep_alive;
        (word, length)
    }

    /// Reads copies of the two words. `None`: no statement that a correct worker writes into a ring
    /// of this size.
    #[inline]
    pub(crate) fn unpack(word: u64, length: u64, ring_bytes: usize) -> Option<Statement> {
        let flags = word & !(PRESENT | KEEP_ALIVE | OUTCOME | 0x00ff_ffff_ffff_ffff);
        let status = (word >> 32) as u16;
        let head_bytes = word as u32;
        if word & PRESENT == 0
            || flags != 0
            || !(100..=999).contains(&status)
            || head_bytes < HEAD_BYTES_MIN
            || head_bytes as usize > ring_bytes
        {
            return None;
        }
        let body = match (word >> 48) as u8 {
            0 => StatedBody::Length(length),
            1 => StatedBody::Chunked,
            2 => StatedBody::UntilClose,
            _ => return None,
        };
        let keep_alive = word & KEEP_ALIVE != 0;
        if keep_alive && body == StatedBody::UntilClose {
            return None;
        }
        let statement = Statement { status, head_bytes, body, keep_alive };
        statement.wire_bytes_max().map(|_| statement)
    }

    /// Bytes that may go out at most: exactly that many where the body has a length. `None`:
    /// overflow.
    #[inline]
    pub(crate) fn wire_bytes_max(self) -> Option<u64> {
        match self.body {
            StatedBody::Length(length) => length.checked_add(self.head_bytes.into()),
            StatedBody::Chunked | StatedBody::UntilClose => Some(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Pure: `cargo miri test statement` can run it.

    use super::*;

    #[test]
    fn statements_survive_packing() {
        for body in [
            StatedBody::Length(0),
            StatedBody::Length(u64::MAX - 65_536),
            StatedBody::Chunked,
            StatedBody::UntilClose,
        ] {
            for (status, head_bytes) in [(100, HEAD_BYTES_MIN), (200, 65_536), (999, 80)] {
                for keep_alive in [false, body != StatedBody::UntilClose] {
                    let statement = Statement { status, head_bytes, body, keep_alive };
                    let (word, length) = statement.pack();
                    assert_eq!(ResponseEnd::unpack(word), None);
                    assert_eq!(Statement::unpack(word, length, 65_536), Some(statement));
                    for end in [ResponseEnd::Complete, ResponseEnd::Broken] {
                        let word = word | end.pack();
                        assert_eq!(ResponseEnd::unpack(word), Some(end));
                        assert_eq!(Statement::unpack(word, length, 65_536), Some(statement));
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_statements_are_refused() {
        let statement = Statement {
            status: 200,
            head_bytes: 80,
            body: StatedBody::Length(5),
            keep_alive: true,
        };
        let (word, length) = statement.pack();
        for (word, length) in [
            (0, 0),
            (word & !PRESENT, length),
            (word | 1 << 58, length),
            (word | 7 << 48, length),
            (word & !(0xffff << 32), length),
            (word | 0xffff << 32, length),
            (word & !0xffff_ffff, length),
            (word | 0xffff_ffff, length),
            (word, u64::MAX),
            (word | 2 << 48, 0),
        ] {
            assert_eq!(Statement::unpack(word, length, 65_536), None, "{word:x} {length}");
        }
    }
}
