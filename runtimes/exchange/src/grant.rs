//! The answer to a response that asks for a large ring.
//!
//! Where it stands in the walk of a request: between a runtime's first large piece and the head.
//! The seat writes its wish into the slot's line, tells the loop and waits
//! (`lines::Hold::sleep_for_grant`); the loop answers with one word.

/// Stands in place of a statement's first word until there is one: the writer asks for a large ring
/// before it commits the head. No statement has this bit.
pub(crate) const ASKS: u64 = 1 << 58;

/// The loop's answer to a response that asked, as one word of the slot's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Nobody asked, or the loop has not heard it.
    Undecided,
    /// All are in use: the response goes through the slot's own ring.
    Denied,
    /// The response goes through this one.
    Ring(u32),
}

impl Grant {
    #[inline]
    pub fn pack(self) -> u32 {
        match self {
            Grant::Undecided => 0,
            Grant::Denied => u32::MAX,
            Grant::Ring(ring) => ring + 1,
        }
    }

    #[inline]
    pub fn unpack(word: u32) -> Grant {
        match word {
            0 => Grant::Undecided,
            u32::MAX => Grant::Denied,
            ring => Grant::Ring(ring - 1),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Grant;

    #[test]
    fn grants_survive_packing() {
        for grant in [Grant::Undecided, Grant::Denied, Grant::Ring(0), Grant::Ring(63)] {
            assert_eq!(Grant::unpack(grant.pack()), grant);
        }
    }
}
