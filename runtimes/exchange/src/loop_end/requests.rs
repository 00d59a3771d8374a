//! The loop's end, on the way down: slots reserved, records and bodies written, requests queued,
//! taken back and given up.
//!
//! Where it stands in the walk of a request: `event_loop/dispatch.rs` calls these.

use super::{Abandonment, BodyEnd, Impossible, LoopEnd, QueueFull, Withdrawal};
use crate::SlotIndex;
use crate::claim::{self, Hand, HandState, Ticket};
use crate::lines::{BODY_BROKEN, BODY_COMPLETE};
use crate::record::{self, RecordWriter};
use crate::ring;
use crate::segments::LoopView;
use crate::slots::Use;
use crate::sync::Ordering;

impl LoopEnd {
    /// Takes a free slot, the last one freed first. `None`: all are in use.
    #[inline]
    pub fn reserve(&mut self) -> Option<SlotIndex> {
        let slot = self.slots.reserve()?;
        self.view().down_slot(slot).reset();
        Some(slot)
    }

    /// Starts the record of a reserved slot; starting again replaces it.
    ///
    /// # Panics
    /// When the slot is not reserved, or body bytes were written already.
    #[inline]
    pub fn record(&mut self, slot: SlotIndex) -> RecordWriter<'_> {
        let ring = self.view().request_ring(slot);
        let book = self.slots.book_mut(slot);
        assert!(book.used == Use::Reserved && book.body_written == 0, "slot {slot}: no record now");
        RecordWriter::new(ring, &mut book.record_bytes)
    }

    /// Gives a reserved slot back.
    ///
    /// # Panics
    /// When the slot is not reserved.
    pub fn cancel_reservation(&mut self, slot: SlotIndex) {
        assert_eq!(self.slots.book(slot).used, Use::Reserved, "slot {slot} is not reserved");
        self.note_pages(slot);
        self.slots.free(slot);
    }

    /// Copies what fits of the request body behind the record, publishes it and wakes the owner if
    /// it waits for it. Gives how many bytes were taken; when that is fewer than given, and only
    /// then, news will come once at least half of the body's ring is free. Before or after
    /// `enqueue`.
    ///
    /// # Errors
    /// The worker's count of consumed bytes is impossible.
    ///
    /// # Panics
    /// Without a record, or after `finish_body`.
    pub fn write_body(&mut self, slot: SlotIndex, bytes: &[u8]) -> Result<usize, Impossible> {
        let book = self.slots.book(slot);
        assert!(
            matches!(book.used, Use::Reserved | Use::InFlight)
                && book.record_bytes > 0
                && !book.body_ended,
            "slot {slot}: no body now"
        );
        let mut taken = self.put_body(slot, bytes, false)?;
        if taken < bytes.len() {
            // Asks for news, and looks once more: the worker may have made room before it saw the
            // wish.
            taken += self.put_body(slot, &bytes[taken..], true)?;
        }
        if taken > 0 {
            self.wake_owner(slot);
        }
        Ok(taken)
    }

    /// One round of [`write_body`](Self::write_body).
    fn put_body(&mut self, slot: SlotIndex, bytes: &[u8], ask: bool) -> Result<usize, Impossible> {
        let LoopEnd { layout, down, up, slots, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let book = slots.book_mut(slot);
        let (down_slot, up_slot) = (view.down_slot(slot), view.up_slot(slot));
        let ring = view.body_ring(slot, record::body_at(book.record_bytes));
        // Before the slot is queued nobody has consumed anything, and the line is still the last
        // owner's.
        let consumed = match (book.used, ask) {
            (Use::Reserved, false) => 0,
            (Use::Reserved, true) => {
                // Published with everything else when the slot is queued.
                down_slot.wants_room.store(1, Ordering::Relaxed);
                0
            }
            (_, false) => ring::look(&up_slot.body_consumed),
            (_, true) => down_slot.ask_for_room(up_slot),
        };
        let Some(room) = ring::room(ring.size(), book.body_written, consumed, book.body_consumed)
        else {
            let seat = book.owner();
            return Err(Impossible { what: "body bytes consumed", slot: Some(slot), seat });
        };
        book.body_consumed = consumed;
        let taken = bytes.len().min(room);
        ring.copy_in(book.body_written, &bytes[..taken]);
        book.body_written += taken as u64;
        down_slot.publish_body(book.body_written);
        if taken == bytes.len() {
            down_slot.wants_room.store(0, Ordering::Relaxed);
        }
        Ok(taken)
    }

    /// Says that no more body bytes come, and wakes the owner if it waits for them. Only the first
    /// call for a request counts.
    ///
    /// # Panics
    /// When the slot is neither reserved nor in flight.
    pub fn finish_body(&mut self, slot: SlotIndex, end: BodyEnd) {
        let book = self.slots.book_mut(slot);
        assert!(matches!(book.used, Use::Reserved | Use::InFlight), "slot {slot}: no body now");
        if std::mem::replace(&mut book.body_ended, true) {
            return;
        }
        self.view().down_slot(slot).end_body(match end {
            BodyEnd::Complete => BODY_COMPLETE,
            BodyEnd::Broken => BODY_BROKEN,
        });
        self.wake_owner(slot);
    }

    /// Queues a reserved slot that has a record. Wakes nobody: see `wake_one`.
    ///
    /// # Errors
    /// [`QueueFull`]; the slot stays reserved.
    ///
    /// # Panics
    /// When the slot is not reserved or has no record.
    #[inline]
    pub fn enqueue(&mut self, slot: SlotIndex, now_ns: u64) -> Result<(), QueueFull> {
        let book = self.slots.book(slot);
        assert!(
            book.used == Use::Reserved && book.record_bytes > 0,
            "slot {slot}: not to be queued"
        );
        if self.tail - self.head_seen >= self.layout.queue_entries as u64 {
            // A full queue is mostly dead entries: there are four for every slot.
            if let Err(impossible) = self.queue_is_empty() {
                self.pending = Some(impossible);
            }
            if self.tail - self.head_seen >= self.layout.queue_entries as u64 {
                return Err(QueueFull);
            }
        }
        let LoopEnd { layout, down, up, slots, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let book = slots.book_mut(slot);
        let up_slot = view.up_slot(slot);
        up_slot.reset();
        let ticket = Ticket { slot, epoch: book.next_epoch() };
        if claim::queue(&up_slot.word, book.hand.pack(), ticket.epoch).is_err() {
            // Nobody may touch the word of a free slot: the pool is condemned, the request not
            // lost.
            self.pending = Some(Impossible {
                what: "claim word of a free slot",
                slot: Some(slot),
                seat: None,
            });
            return Err(QueueFull);
        }
        book.used = Use::InFlight;
        book.hand = Hand { epoch: ticket.epoch, seat: 0, state: HandState::Queued };
        book.queued_at_ns = now_ns;
        view.queue().push(self.tail, ticket);
        let at = self.tail as usize & (layout.queue_entries - 1);
        self.queued_at_ns[at] = now_ns;
        self.tail += 1;
        Ok(())
    }

    /// Takes a queued request back: client gone, waited too long.
    ///
    /// # Errors
    /// The claim word is impossible.
    ///
    /// # Panics
    /// When the slot is not in flight.
    pub fn withdraw(&mut self, slot: SlotIndex) -> Result<Withdrawal, Impossible> {
        let hand = self.observe(slot)?;
        if hand.state == HandState::Queued {
            if claim::withdraw(&self.view().up_slot(slot).word, hand.epoch).is_ok() {
                self.slots.book_mut(slot).hand = Hand { state: HandState::Free, ..hand };
                self.free_or_quarantine(slot);
                return Ok(Withdrawal::Withdrawn);
            }
            if self.observe(slot)?.state == HandState::Queued {
                // It was not a moment ago: no seat can have put it back.
                return Err(Impossible { what: "claim word", slot: Some(slot), seat: None });
            }
        }
        Ok(Withdrawal::Running)
    }

    /// Gives up a request that a seat runs (deadline passed, client gone): the seat is told and
    /// woken if it waits. **The slot stays the caller's: call `release` when no send of its bytes
    /// is to follow.**
    ///
    /// # Errors
    /// The claim word is impossible.
    ///
    /// # Panics
    /// When the slot is not in flight or no seat has had it (`withdraw` first).
    pub fn abandon(&mut self, slot: SlotIndex) -> Result<Abandonment, Impossible> {
        // Only a caller that never saw it owned gets here with QUEUED: `observe` lets no word go
        // back.
        let mut hand = self.observe(slot)?;
        assert_ne!(hand.state, HandState::Queued, "slot {slot}: withdraw before abandoning");
        if hand.state == HandState::Owned {
            if claim::abandon(&self.view().up_slot(slot).word, hand.epoch, hand.seat).is_ok() {
                hand.state = HandState::Abandoned;
                self.slots.book_mut(slot).hand = hand;
                self.wake_owner(slot);
                return Ok(Abandonment::Abandoned);
            }
            hand = self.observe(slot)?;
        }
        match hand.state {
            HandState::Done => Ok(Abandonment::Finished),
            _ => Ok(Abandonment::Abandoned),
        }
    }

    /// "The client will send nothing more": what a runtime tells an application that asks.
    ///
    /// # Panics
    /// When the slot is neither reserved nor in flight.
    pub fn set_client_left(&mut self, slot: SlotIndex) {
        let used = self.slots.book(slot).used;
        assert!(matches!(used, Use::Reserved | Use::InFlight), "slot {slot} is not in use");
        // Relaxed: see `Hold::has_client_left`.
        self.view().down_slot(slot).client_left.store(1, Ordering::Relaxed);
    }

    /// "Close after this response": read by the writer before the head.
    ///
    /// # Panics
    /// When the slot is neither reserved nor in flight.
    pub fn set_close_after(&mut self, slot: SlotIndex) {
        let used = self.slots.book(slot).used;
        assert!(matches!(used, Use::Reserved | Use::InFlight), "slot {slot} is not in use");
        self.view().down_slot(slot).close_after.store(1, Ordering::Relaxed);
    }
}
