//! What the loop does after a request or a worker is over: freeing, quarantine, death, pages.
//!
//! Where it stands in the walk of a request: last. A slot is freed only when its word is DONE, or
//! FREE by the loop's own swap, or its owner's process is dead, and the kernel has no operation on
//! its memory. Until then it is quarantined: it counts against its seat, not against the bound on
//! requests.

use crate::SlotIndex;
use crate::claim::{self, Hand, HandState};
use crate::geometry::{IDLE_PAGES_NS, PAGE_BYTES};
use crate::grant::Grant;
use crate::large_rings::ResponseRing;
use crate::loop_end::{Impossible, LoopEnd};
use crate::record;
use crate::segments::LoopView;
use crate::slots::Use;
use crate::wake::WorkerSeats;

impl LoopEnd {
    /// A worker will come: call before its Setup is sent, since it may claim as soon as it has
    /// attached.
    pub fn worker_joined(&mut self, worker: WorkerSeats) {
        self.workers.join(worker);
    }

    /// A worker's process is dead (its pidfd said so). Frees its quarantined slots and appends the
    /// slots it was running to `owned`: answer 502 or cut the connection, then `release` each.
    /// Sweep before, and once more afterwards: responses that were whole before the death but not
    /// announced are news then.
    ///
    /// # Errors
    /// A claim word is impossible.
    pub fn worker_died(
        &mut self,
        worker: u32,
        owned: &mut Vec<SlotIndex>,
    ) -> Result<(), Impossible> {
        let Some(dead) = self.workers.leave(worker) else { return Ok(()) };
        for seat in dead.seats.clone() {
            let seats = self.seats.view();
            if u32::from(seat) < seats.seats {
                // Nobody else writes a dead seat's word but the other loops, which do the same.
                seats.line(seat).word.reset(crate::seat_line::AWAKE);
                seats.idle().clear(seat);
            }
        }
        for slot in 0..self.slots.count() {
            if !matches!(self.slots.book(slot).used, Use::InFlight | Use::Quarantined) {
                continue;
            }
            let hand = self.observe(slot)?;
            let book = self.slots.book_mut(slot);
            if !book.owner().is_some_and(|seat| dead.seats.contains(&seat)) {
                continue;
            }
            book.owner_dead = true;
            match (book.used, hand.state) {
                (Use::InFlight, HandState::Owned) => owned.push(slot),
                // Died between DONE and its news.
                (Use::InFlight, HandState::Done) if book.end.is_none() => self.own_news.push(slot),
                (Use::Quarantined, _) => self.free_quarantined_slot(slot),
                _ => {}
            }
        }
        Ok(())
    }

    /// Frees a slot the caller is done with, or quarantines it.
    pub(crate) fn free_or_quarantine(&mut self, slot: SlotIndex) {
        self.slots.quarantine(slot);
        self.free_quarantined_slot(slot);
    }

    /// Looks at every quarantined slot.
    pub(crate) fn free_quarantined(&mut self) {
        for slot in 0..self.slots.count() {
            if self.slots.book(slot).used == Use::Quarantined {
                if let Err(impossible) = self.observe(slot) {
                    self.pending = Some(impossible);
                    continue;
                }
                self.free_quarantined_slot(slot);
            }
        }
    }

    /// Frees a quarantined slot if seat and kernel allow it.
    pub(crate) fn free_quarantined_slot(&mut self, slot: SlotIndex) {
        let LoopEnd { layout, down, up, slots, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let book = slots.book_mut(slot);
        if book.kernel_operations > 0 {
            return;
        }
        let hand = book.hand;
        let freed = match hand.state {
            HandState::Free => true,
            HandState::Done => claim::free(&view.up_slot(slot).word, hand).is_ok(),
            HandState::Owned | HandState::Abandoned if book.owner_dead => {
                claim::free(&view.up_slot(slot).word, hand).is_ok()
            }
            HandState::Owned | HandState::Abandoned | HandState::Queued => return,
        };
        if !freed && let Ok(now) = self.observe(slot) {
            // The seat said DONE since the word was last seen, and then died.
            let word = &self.view().up_slot(slot).word;
            if now.state != HandState::Done || claim::free(word, now).is_err() {
                self.condemn(slot);
                return;
            }
        } else if !freed {
            self.condemn(slot);
            return;
        }
        self.slots.book_mut(slot).hand =
            Hand { epoch: hand.epoch, seat: 0, state: HandState::Free };
        self.note_pages(slot);
        self.slots.free(slot);
        let book = self.slots.book_mut(slot);
        if let Grant::Ring(ring) = std::mem::replace(&mut book.grant, Grant::Undecided) {
            self.large_rings.give_back(ring);
        }
    }

    fn condemn(&mut self, slot: SlotIndex) {
        self.pending = Some(Impossible { what: "claim word", slot: Some(slot), seat: None });
    }

    /// Notes how much of the slot's rings was touched.
    pub(crate) fn note_pages(&mut self, slot: SlotIndex) {
        let geometry = self.layout.geometry;
        let book = self.slots.book_mut(slot);
        let request = record::body_at(book.record_bytes) as u64 + book.body_written;
        // What the worker says it wrote is only a hint here: too little keeps pages, too much looks
        // twice.
        book.request_bytes_touched =
            book.request_bytes_touched.max(request.min(geometry.request_ring_bytes.into()));
        if book.ring == ResponseRing::Own {
            book.response_bytes_touched = book
                .response_bytes_touched
                .max(book.response_written.min(geometry.response_ring_bytes.into()));
        }
    }

    /// Gives back all pages but the first of each ring of slots that have been free for 10 s, and
    /// all pages of large rings. Call
    /// about once a second; gives how many rings were emptied.
    pub fn give_back_pages(&mut self, now_ns: u64) -> u32 {
        let geometry = self.layout.geometry;
        let mut emptied = 0;
        for slot in 0..self.slots.count() {
            let (request_at, response_at) =
                (self.view().request_ring_at(slot), self.view().response_ring_at(slot));
            let book = self.slots.book_mut(slot);
            let touched = |bytes: u64| bytes > PAGE_BYTES as u64;
            let request = touched(book.request_bytes_touched) && self.down.can_punch();
            let response = touched(book.response_bytes_touched) && self.up.can_punch();
            if book.used != Use::Free || !(request || response) {
                continue;
            }
            let since = *book.idle_since_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since) < IDLE_PAGES_NS {
                continue;
            }
            // A refusal by the kernel costs memory and nothing else; the mark is taken down all the
            // same, so that it is not asked again every second.
            if request {
                let bytes = geometry.request_ring_bytes as usize - PAGE_BYTES;
                emptied += u32::from(self.down.punch(request_at + PAGE_BYTES, bytes).is_ok());
                book.request_bytes_touched = 0;
            }
            if response {
                let bytes = geometry.response_ring_bytes as usize - PAGE_BYTES;
                emptied += u32::from(self.up.punch(response_at + PAGE_BYTES, bytes).is_ok());
                book.response_bytes_touched = 0;
            }
        }
        if self.up.can_punch() {
            let LoopEnd { layout, down, up, large_rings, .. } = self;
            let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
            let bytes = geometry.large_ring_bytes as usize;
            // As above: a refusal is not asked again.
            emptied += large_rings.give_back_pages(now_ns, |ring| {
                let _refused = up.punch(view.large_ring_at(ring), bytes);
            });
        }
        emptied
    }
}
