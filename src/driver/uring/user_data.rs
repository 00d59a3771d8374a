//! The 64 bits that travel with an operation through the kernel: kind 8 | generation 24 |
//! connection 32.
//!
//! Stands under every operation of the walk of a request. Invariant: what [`Tag::from_bits`]
//! accepts, [`Tag::to_bits`] made; anything else is answered with `None` and counted, never acted
//! upon.

use crate::driver::Token;

/// Which operation a completion ends. Finer than [`Kind`](crate::driver::Kind): one kind of the
/// trait may come from several operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    // 0 is left out: a zeroed entry must not look like an operation.
    Accept = 1,
    /// Into a provided buffer.
    Recv,
    /// The same, again and again (`multishot.rs`).
    RecvMulti,
    /// The cancel of a [`Operation::RecvMulti`]; it has a completion only when it failed.
    EndMulti,
    RecvInto,
    Send,
    /// The send before a linked close: it has a completion only when it failed.
    LastSend,
    /// The close behind a [`Operation::LastSend`].
    LinkedClose,
    Close,
    /// The socket option before a close that resets; it has a completion only when it failed.
    Linger,
    Shutdown,
    Cancel,
    CancelAccept,
    File,
    Bell,
}

const OPERATIONS: [Operation; 15] = [
    Operation::Accept,
    Operation::Recv,
    Operation::RecvMulti,
    Operation::EndMulti,
    Operation::RecvInto,
    Operation::Send,
    Operation::LastSend,
    Operation::LinkedClose,
    Operation::Close,
    Operation::Linger,
    Operation::Shutdown,
    Operation::Cancel,
    Operation::CancelAccept,
    Operation::File,
    Operation::Bell,
];

/// An operation and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) operation: Operation,
    pub(super) token: Token,
}

impl Tag {
    pub(super) fn new(operation: Operation, token: Token) -> Tag {
        Tag { operation, token }
    }

    pub(super) fn to_bits(self) -> u64 {
        debug_assert!(self.token.generation <= GENERATION_MAX);
        u64::from(self.operation as u8) << 56
            | u64::from(self.token.generation & GENERATION_MAX) << 32
            | u64::from(self.token.connection)
    }

    pub(super) fn from_bits(bits: u64) -> Option<Tag> {
        let index = (bits >> 56) as usize;
        let operation = *OPERATIONS.get(index.checked_sub(1)?)?;
        let generation = (bits >> 32) as u32 & GENERATION_MAX;
        Some(Tag { operation, token: Token { connection: bits as u32, generation } })
    }
}

const GENERATION_MAX: u32 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::{GENERATION_MAX, OPERATIONS, Tag};
    use crate::driver::Token;

    #[test]
    fn every_tag_survives_the_round_trip() {
        for operation in OPERATIONS {
            for (connection, generation) in [(0, 0), (1, 2), (u32::MAX, GENERATION_MAX)] {
                let tag = Tag::new(operation, Token { connection, generation });
                assert_eq!(Tag::from_bits(tag.to_bits()), Some(tag));
            }
        }
    }

    #[test]
    fn foreign_bits_are_refused() {
        for bits in [0, 1, 16 << 56, u64::MAX] {
            assert_eq!(Tag::from_bits(bits), None, "{bits:#x}");
        }
    }
}
