//! The claim word of a slot: who has it.
//!
//! Where it stands in the walk of a request: the loop queues with it, a seat claims with it, and
//! both say with it that they are done. One 64-bit atomic {epoch 40 bits, seat 16, state 8}; every
//! change of hands is one compare-and-swap on it. Who wins decides, who loses does nothing.
//!
//! ```text
//!          loop: queue                seat: claim               seat: finish
//!   FREE ───────────────▶ QUEUED ──────────────────▶ OWNED ──────────────────▶ DONE
//!     ▲ ▲  loop: withdraw   │                          │ loop: abandon          ▲ │
//!     │ └───────────────────┘                          └───────▶ ABANDONED ─────┘ │
//!     └──────────── loop: free (DONE, or the owner's process is dead) ◀───────────┘
//! ```
//!
//! Orderings: the swap to QUEUED releases the record and the slot's reset fields; the claim
//! acquires them. The swap to DONE releases the response and its outcome; the loop's load acquires
//! them. The swap to FREE needs no release: only the loop itself looks at a free slot. Epochs count
//! the uses of one slot and wrap after 2^40 of them; a claim is a compare with the whole word, so
//! an entry that old still claims only what is queued now.

use crate::SlotIndex;
use crate::sync::{AtomicU64, Ordering};

/// What the state byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HandState {
    /// The loop's, unused. All-zero memory is this.
    Free = 0,
    /// Waits for a seat.
    Queued = 1,
    /// A seat runs it.
    Owned = 2,
    /// A seat runs it, the loop gave it up.
    Abandoned = 3,
    /// The seat is done with it.
    Done = 4,
}

/// A copy of a claim word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hand {
    /// Which use of the slot: 40 bits.
    pub epoch: u64,
    /// Who owns it; 0 while free or queued.
    pub seat: u16,
    /// The state.
    pub state: HandState,
}

/// Epochs are kept below this.
pub const EPOCH_MASK: u64 = (1 << 40) - 1;

impl Hand {
    /// The word.
    #[inline]
    pub const fn pack(self) -> u64 {
        (self.epoch & EPOCH_MASK) << 24 | (self.seat as u64) << 8 | self.state as u64
    }

    /// Takes a word apart; `None` when its state byte is none of the five.
    #[inline]
    pub const fn unpack(word: u64) -> Option<Hand> {
        let state = match word as u8 {
            0 => HandState::Free,
            1 => HandState::Queued,
            2 => HandState::Owned,
            3 => HandState::Abandoned,
            4 => HandState::Done,
            _ => return None,
        };
        Some(Hand { epoch: word >> 24, seat: (word >> 8) as u16, state })
    }

    const fn new(epoch: u64, seat: u16, state: HandState) -> Hand {
        Hand { epoch, seat, state }
    }
}

/// A slot's number and which use of it: what the ready queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The slot: below 2^24.
    pub slot: SlotIndex,
    /// Its use: 40 bits.
    pub epoch: u64,
}

impl Ticket {
    /// The queue entry.
    #[inline]
    pub const fn pack(self) -> u64 {
        (self.epoch & EPOCH_MASK) << 24 | self.slot as u64
    }

    /// Takes an entry apart.
    #[inline]
    pub const fn unpack(entry: u64) -> Ticket {
        Ticket { slot: (entry & 0xff_ffff) as SlotIndex, epoch: entry >> 24 }
    }
}

/// What a seat found when it said that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The loop will read the response.
    Done,
    /// The loop had given the request up.
    WasAbandoned,
    /// The word is neither ours nor abandoned: another worker scribbled on it.
    NotOurs,
}

#[inline]
fn swap(word: &AtomicU64, from: u64, to: u64) -> Result<(), u64> {
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
}

/// Loop: FREE → QUEUED with a new epoch. `free` is the word as the loop's books know it.
///
/// # Errors
/// The word as found: somebody else wrote it.
#[inline]
pub fn queue(word: &AtomicU64, free: u64, epoch: u64) -> Result<(), u64> {
    swap(word, free, Hand::new(epoch, 0, HandState::Queued).pack())
}

/// Loop: QUEUED → FREE.
///
/// # Errors
/// The word as found: a seat won.
#[inline]
pub fn withdraw(word: &AtomicU64, epoch: u64) -> Result<(), u64> {
    let queued = Hand::new(epoch, 0, HandState::Queued).pack();
    swap(word, queued, Hand::new(epoch, 0, HandState::Free).pack())
}

/// Seat: QUEUED → OWNED. False: another seat or the loop was first, or the entry was stale.
#[inline]
pub fn claim(word: &AtomicU64, epoch: u64, seat: u16) -> bool {
    let queued = Hand::new(epoch, 0, HandState::Queued).pack();
    swap(word, queued, Hand::new(epoch, seat, HandState::Owned).pack()).is_ok()
}

/// Loop: OWNED → ABANDONED.
///
/// # Errors
/// The word as found: the seat was first.
#[inline]
pub fn abandon(word: &AtomicU64, epoch: u64, seat: u16) -> Result<(), u64> {
    let owned = Hand::new(epoch, seat, HandState::Owned).pack();
    swap(word, owned, Hand::new(epoch, seat, HandState::Abandoned).pack())
}

/// Seat: OWNED or ABANDONED → DONE.
#[inline]
pub fn finish(word: &AtomicU64, epoch: u64, seat: u16) -> Finish {
    let done = Hand::new(epoch, seat, HandState::Done).pack();
    if swap(word, Hand::new(epoch, seat, HandState::Owned).pack(), done).is_ok() {
        return Finish::Done;
    }
    match swap(word, Hand::new(epoch, seat, HandState::Abandoned).pack(), done) {
        Ok(()) => Finish::WasAbandoned,
        Err(_) => Finish::NotOurs,
    }
}

/// Loop: a word it has the right to free (DONE, or owned by a dead process) → FREE. Gives the new
/// word.
///
/// # Errors
/// The word as found: somebody else wrote it.
#[inline]
pub fn free(word: &AtomicU64, seen: Hand) -> Result<u64, u64> {
    let freed = Hand::new(seen.epoch, 0, HandState::Free).pack();
    swap(word, seen.pack(), freed).map(|()| freed)
}

/// Whether the loop gave up the request that `seat` owns.
#[inline]
pub fn is_abandoned(word: &AtomicU64, epoch: u64, seat: u16) -> bool {
    word.load(Ordering::Acquire) != Hand::new(epoch, seat, HandState::Owned).pack()
}

#[cfg(all(test, not(loom)))]
mod tests;
