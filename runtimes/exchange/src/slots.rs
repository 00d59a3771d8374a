//! The loop's private books: what it knows of each slot without asking anyone.
//!
//! Where it stands in the walk of a request: behind every call of the loop's end. Free list,
//! epochs, states, positions and operations in flight live here, in the loop's own memory, and are
//! never read back from a segment. What a worker wrote is compared with these books.

use crate::SlotIndex;
use crate::claim::{EPOCH_MASK, Hand, HandState};
use crate::grant::Grant;
use crate::large_rings::ResponseRing;
use crate::loop_end::Counts;
use crate::statement::{ResponseEnd, Statement};

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// On the free list.
    Free,
    /// Taken by the caller, not queued.
    Reserved,
    /// Queued, or held by a seat, or its response is still being sent.
    InFlight,
    /// The caller is done with it; a seat or the kernel is not.
    Quarantined,
}

/// One slot's page in the books.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub used: Use,
    /// The claim word as last seen, or as last written by the loop.
    pub hand: Hand,
    /// The process of the seat in `hand` is dead.
    pub owner_dead: bool,
    /// Operations of the kernel on the slot's memory.
    pub kernel_operations: u32,
    /// Length of the record; 0 = none written yet.
    pub record_bytes: u32,
    pub body_written: u64,
    pub body_consumed: u64,
    pub body_ended: bool,
    pub response_written: u64,
    pub response_sent: u64,
    pub statement: Option<Statement>,
    pub end: Option<ResponseEnd>,
    /// What was answered to a response that asked for a large ring; a ring is the slot's until it
    /// is freed.
    pub grant: Grant,
    /// Where the response is, as stated with its first bytes.
    pub ring: ResponseRing,
    pub queued_at_ns: u64,
    pub claimed_at_ns: Option<u64>,
    pub first_byte_at_ns: Option<u64>,
    /// Most bytes of each ring touched since its pages were last given back.
    pub request_bytes_touched: u64,
    pub response_bytes_touched: u64,
    /// When `give_back_pages` first saw the slot free.
    pub idle_since_ns: Option<u64>,
}

impl Book {
    fn new() -> Book {
        Book {
            used: Use::Free,
            hand: Hand { epoch: 0, seat: 0, state: HandState::Free },
            owner_dead: false,
            kernel_operations: 0,
            record_bytes: 0,
            body_written: 0,
            body_consumed: 0,
            body_ended: false,
            response_written: 0,
            response_sent: 0,
            statement: None,
            end: None,
            grant: Grant::Undecided,
            ring: ResponseRing::Own,
            queued_at_ns: 0,
            claimed_at_ns: None,
            first_byte_at_ns: None,
            request_bytes_touched: 0,
            response_bytes_touched: 0,
            idle_since_ns: None,
        }
    }

    /// As a new request finds it: everything but the claim word and the marks for the pages.
    fn reset(&mut self) {
        *self = Book {
            used: Use::Reserved,
            hand: self.hand,
            request_bytes_touched: self.request_bytes_touched,
            response_bytes_touched: self.response_bytes_touched,
            ..Book::new()
        };
    }

    /// The epoch of the slot's next use.
    pub fn next_epoch(&self) -> u64 {
        (self.hand.epoch + 1) & EPOCH_MASK
    }

    /// The seat that has or had the request.
    pub fn owner(&self) -> Option<u16> {
        match self.hand.state {
            HandState::Owned | HandState::Abandoned | HandState::Done => Some(self.hand.seat),
            HandState::Free | HandState::Queued => None,
        }
    }

    /// Whether the claim word may go from what was last seen to `now` without the loop's doing.
    pub fn may_become(&self, now: Hand) -> bool {
        use HandState::{Abandoned, Done, Owned, Queued};
        let seen = self.hand;
        if now.epoch != seen.epoch {
            return false;
        }
        match (seen.state, now.state) {
            (Queued, Queued) => now.seat == 0,
            (Queued, Owned | Done) => true,
            (Owned, Owned | Done) | (Abandoned, Abandoned | Done) | (Done, Done) => {
                now.seat == seen.seat
            }
            _ => false,
        }
    }
}

/// All slots of one loop and pool.
#[derive(Debug)]
pub(crate) struct Slots {
    books: Vec<Book>,
    /// Last in, first out: a hot slot's pages and lines stay hot, cold ones give their pages back.
    free: Vec<SlotIndex>,
    quarantined: u32,
}

impl Slots {
    pub fn new(slots: u32) -> Slots {
        Slots {
            books: (0..slots).map(|_| Book::new()).collect(),
            // Reversed, so that slot 0 is the first to be used.
            free: (0..slots).rev().collect(),
            quarantined: 0,
        }
    }

    /// # Panics
    /// When the slot does not exist.
    #[inline]
    pub fn book(&self, slot: SlotIndex) -> &Book {
        &self.books[slot as usize]
    }

    #[inline]
    pub fn book_mut(&mut self, slot: SlotIndex) -> &mut Book {
        &mut self.books[slot as usize]
    }

    /// The slot's page, if the slot exists.
    #[inline]
    pub fn find(&self, slot: SlotIndex) -> Option<&Book> {
        self.books.get(slot as usize)
    }

    pub fn reserve(&mut self) -> Option<SlotIndex> {
        let slot = self.free.pop()?;
        self.books[slot as usize].reset();
        Some(slot)
    }

    /// Puts a slot back on the free list. Its word is FREE.
    pub fn free(&mut self, slot: SlotIndex) {
        let book = &mut self.books[slot as usize];
        debug_assert_eq!(book.hand.state, HandState::Free);
        debug_assert_eq!(book.kernel_operations, 0);
        if book.used == Use::Quarantined {
            self.quarantined -= 1;
        }
        book.used = Use::Free;
        book.idle_since_ns = None;
        self.free.push(slot);
    }

    pub fn quarantine(&mut self, slot: SlotIndex) {
        let book = &mut self.books[slot as usize];
        debug_assert_eq!(book.used, Use::InFlight);
        book.used = Use::Quarantined;
        self.quarantined += 1;
    }

    pub fn count(&self) -> u32 {
        self.books.len() as u32
    }

    pub fn free_count(&self) -> u32 {
        self.free.len() as u32
    }

    pub fn quarantined_count(&self) -> u32 {
        self.quarantined
    }

    /// Counts by use; `is_queued` says whether a slot in flight has no seat yet.
    pub fn counts(&self, is_queued: impl Fn(SlotIndex) -> bool) -> Counts {
        let mut counts = Counts::default();
        for (slot, book) in self.books.iter().enumerate() {
            match book.used {
                Use::Free => counts.free += 1,
                Use::Reserved => counts.reserved += 1,
                Use::Quarantined => counts.quarantined += 1,
                Use::InFlight if is_queued(slot as SlotIndex) => counts.queued += 1,
                Use::InFlight => counts.running += 1,
            }
        }
        counts
    }
}
