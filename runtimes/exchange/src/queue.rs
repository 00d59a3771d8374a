//! The ready queue of one loop and pool: one producer, many consumers.
//!
//! Where it stands in the walk of a request: after the loop wrote the record and swapped the slot
//! to QUEUED, before a seat owns it. Entries are one 64-bit atomic each, {epoch 40, slot 24};
//! `head` and `tail` are 64-bit and never wrap. `tail` and the entries are in the loop's segment,
//! `head` in the workers'.
//!
//! A consumer reads the entry at `head`, claims its slot, then advances `head` whether it won or
//! not, so a consumer may stop for ever between any two of these steps: the next one finds the
//! entry dead and steps over it. A consumer that slept while the ring went once around reads an
//! entry of a later lap; then its claim is a claim of something that is queued now, and its advance
//! of `head` fails. That is why the capacity need only exceed what can be in the queue, live and
//! dead.
//!
//! Orderings: the entry is stored before `tail` is released; a consumer acquires `tail` after it
//! acquired `head`, so `tail` is never behind the `head` it saw. An advance of `head` is a release:
//! whoever sees it sees a `tail` beyond it.

use crate::SlotIndex;
use crate::claim::{self, Hand, HandState, Ticket};
use crate::sync::{AtomicU64, Ordering};

/// Views of the queue's three parts, in whatever memory they lie.
#[derive(Clone, Copy, Debug)]
pub struct ReadyQueue<'a> {
    /// A power of two of entries.
    pub entries: &'a [AtomicU64],
    /// Next to take.
    pub head: &'a AtomicU64,
    /// Next to fill.
    pub tail: &'a AtomicU64,
}

impl ReadyQueue<'_> {
    #[inline]
    fn entry(&self, position: u64) -> &AtomicU64 {
        &self.entries[position as usize & (self.entries.len() - 1)]
    }

    /// Producer: appends an entry at `tail`, its private count of entries ever pushed. The caller
    /// has made sure that fewer than a lap are between head and tail.
    #[inline]
    pub fn push(&self, tail: u64, ticket: Ticket) {
        self.entry(tail).store(ticket.pack(), Ordering::Relaxed);
        self.tail.store(tail + 1, Ordering::Release);
    }

    /// Consumer: whether there is nothing to take. A `head` beyond `tail` (a worker ran wild) is
    /// nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Acquire);
        head >= self.tail.load(Ordering::Acquire)
    }

    /// Consumer: claims the first entry that can be claimed. `word_of` gives a slot's claim word,
    /// `None` for a slot that does not exist.
    #[inline]
    pub fn take<'w>(
        &self,
        seat: u16,
        word_of: impl Fn(SlotIndex) -> Option<&'w AtomicU64>,
    ) -> Option<Ticket> {
        // Each turn either moves `head` or finds that another did; the bound only stops a seat
        // whose pool is being scribbled over.
        for _ in 0..self.entries.len() {
            let head = self.head.load(Ordering::Acquire);
            if head >= self.tail.load(Ordering::Acquire) {
                return None;
            }
            let ticket = Ticket::unpack(self.entry(head).load(Ordering::Relaxed));
            let won = claim::claim(word_of(ticket.slot)?, ticket.epoch, seat);
            self.advance(head);
            if won {
                return Some(ticket);
            }
        }
        None
    }

    /// Anyone: steps over the entry at `head`. Losing means that somebody else did.
    #[inline]
    pub fn advance(&self, head: u64) {
        // AcqRel: see the orderings above. The outcome does not matter.
        let _ = self.head.compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Producer: what the entry at `position` says. It may be claimed at any moment.
    #[inline]
    pub fn peek(&self, position: u64) -> Ticket {
        Ticket::unpack(self.entry(position).load(Ordering::Relaxed))
    }

    /// Producer: whether the entry at `head` can still be claimed. Dead ones are stepped over by
    /// the caller with [`advance`](Self::advance).
    #[inline]
    pub fn is_live<'w>(
        &self,
        head: u64,
        word_of: impl Fn(SlotIndex) -> Option<&'w AtomicU64>,
    ) -> bool {
        let ticket = self.peek(head);
        let queued = Hand { epoch: ticket.epoch, seat: 0, state: HandState::Queued }.pack();
        word_of(ticket.slot).is_some_and(|word| word.load(Ordering::Relaxed) == queued)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
