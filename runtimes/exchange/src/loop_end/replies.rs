//! The loop's end, on the way up: news swept, progress checked, bytes sent from the ring, slots
//! released.
//!
//! Where it stands in the walk of a request: `event_loop/reply.rs` calls these. Everything that a
//! worker wrote is loaded once, compared with the books, and only the copy is used.

use super::{Impossible, LoopEnd, Progress, RawPiece, Withdrawal};
use crate::SlotIndex;
use crate::claim::{Hand, HandState};
use crate::geometry::Layout;
use crate::grant::{ASKS, Grant};
use crate::large_rings::ResponseRing;
use crate::lines::UpSlot;
use crate::record;
use crate::ring;
use crate::segments::LoopView;
use crate::slots::{Book, Use};
use crate::statement::{LARGE, ResponseEnd, StatedBody, Statement};
use crate::sync::Ordering;

impl LoopEnd {
    /// Takes all news: appends the slots that changed and are the caller's. Frees quarantined slots
    /// whose seat is done.
    pub fn sweep(&mut self, news: &mut Vec<SlotIndex>) {
        for slot in self.own_news.drain(..) {
            if self.slots.book(slot).used == Use::InFlight {
                news.push(slot);
            }
        }
        let LoopEnd { layout, down, up, slots, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let mut quarantined = false;
        view.news().take(|slot| match slots.find(slot).map(|book| book.used) {
            Some(Use::InFlight) => news.push(slot),
            Some(Use::Quarantined) => quarantined = true,
            // Bits of slots not in use are dropped: late news of a slot that was freed, or noise.
            Some(Use::Free | Use::Reserved) | None => {}
        });
        if quarantined {
            self.free_quarantined();
        }
    }

    /// What a request's slot says now.
    ///
    /// # Errors
    /// Something in it is impossible.
    ///
    /// # Panics
    /// When the slot is not in flight.
    pub fn progress(&mut self, slot: SlotIndex) -> Result<Progress, Impossible> {
        // The word first: once it says DONE, what is read after it is final.
        let hand = self.observe(slot)?;
        let LoopEnd { layout, down, up, slots, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let up_slot = view.up_slot(slot);
        let book = slots.book_mut(slot);
        let seat = book.owner();
        let checked = take_written(book, up_slot, layout).and_then(|()| {
            if hand.state == HandState::Done && book.end.is_none() {
                book.end = Some(end_of(book, up_slot)?);
            }
            body_room(book, up_slot, layout)
        });
        let body_room = match checked {
            Ok(room) => room,
            Err(what) => return Err(Impossible { what, slot: Some(slot), seat }),
        };
        if hand.state == HandState::Owned && asks(book, up_slot) {
            self.answer_ask(slot);
        }
        let LoopEnd { layout, down, up, slots, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let up_slot = view.up_slot(slot);
        let book = slots.book_mut(slot);
        if seat.is_some() && book.claimed_at_ns.is_none() {
            let claimed_at = up_slot.claimed_at.load(Ordering::Relaxed);
            // Written right after the claim; 0 means not yet.
            if claimed_at != 0 {
                book.claimed_at_ns = Some(claimed_at.max(book.queued_at_ns));
            }
        }
        let head_bytes = book.statement.map_or(0, |statement| u64::from(statement.head_bytes));
        let payload = up_slot.payload_written.load(Ordering::Relaxed);
        let framing_bytes =
            book.response_written.saturating_sub(head_bytes).saturating_sub(payload);
        Ok(Progress {
            claimed_by: seat,
            claimed_at_ns: book.claimed_at_ns,
            first_byte_at_ns: book.first_byte_at_ns,
            statement: book.statement,
            framing_bytes,
            unsent: (book.response_written - book.response_sent) as usize,
            end: book.end,
            body_room,
        })
    }

    /// Answers a response that asked for a large ring, and wakes its writer. The request that is
    /// claimed next most likely asks too: it gets its answer beforehand, which saves a wake-up. Its
    /// seat may have missed that and ask all the same; it is then woken here.
    #[cold]
    fn answer_ask(&mut self, slot: SlotIndex) {
        if self.slots.book(slot).grant == Grant::Undecided {
            self.grant_large_ring(slot);
            // Not denied: one may come free until it asks.
            if self.large_rings.has_free()
                && let Some(next) = self.claimed_next()
            {
                self.grant_large_ring(next);
            }
        }
        self.wake_owner(slot);
    }

    fn grant_large_ring(&mut self, slot: SlotIndex) {
        let grant = self.large_rings.grant();
        self.slots.book_mut(slot).grant = grant;
        self.view().down_slot(slot).grant(grant);
    }

    /// The slot at the queue's head, as far as can be told, if nothing was granted to it.
    fn claimed_next(&self) -> Option<SlotIndex> {
        let queue = self.view().queue();
        let head = queue.head.load(Ordering::Acquire);
        // A head that is impossible is found by `queue_is_empty`.
        let ticket = (self.head_seen..self.tail).contains(&head).then(|| queue.peek(head))?;
        let book = self.slots.find(ticket.slot)?;
        let is_waiting = book.used == Use::InFlight
            && book.hand == (Hand { epoch: ticket.epoch, seat: 0, state: HandState::Queued })
            && book.grant == Grant::Undecided;
        is_waiting.then_some(ticket.slot)
    }

    /// The bytes that `progress` counted as unsent, where they lie. Valid until `release`.
    ///
    /// # Panics
    /// When the slot is not in flight.
    #[inline]
    pub fn unsent(&self, slot: SlotIndex) -> [RawPiece; 2] {
        let book = self.slots.book(slot);
        assert_eq!(book.used, Use::InFlight, "slot {slot} is not in flight");
        let unsent = (book.response_written - book.response_sent) as usize;
        self.view()
            .response_ring(slot, book.ring)
            .pieces(book.response_sent, unsent)
            .map(|(pointer, length)| RawPiece { pointer: pointer.cast_const(), length })
    }

    /// Appends copies of the first `bytes` of what is unsent to `into`: takes them off the writer's
    /// hands (report them as `sent`).
    ///
    /// # Panics
    /// When the slot is not in flight or fewer bytes are unsent.
    pub fn copy_unsent(&self, slot: SlotIndex, bytes: usize, into: &mut Vec<u8>) {
        let book = self.slots.book(slot);
        let unsent = book.response_written - book.response_sent;
        assert!(
            book.used == Use::InFlight && bytes as u64 <= unsent,
            "slot {slot}: copying what is not there"
        );
        let from = into.len();
        into.resize(from + bytes, 0);
        let ring = self.view().response_ring(slot, book.ring);
        ring.copy_out(book.response_sent, &mut into[from..]);
    }

    /// Gives the room of bytes that went out back to the writer, and wakes it if it waits and at
    /// least half of the ring is free.
    ///
    /// # Panics
    /// When more is sent than was unsent.
    #[inline]
    pub fn sent(&mut self, slot: SlotIndex, bytes: usize) {
        let geometry = self.layout.geometry;
        let book = self.slots.book_mut(slot);
        let size = geometry.response_bytes(book.ring);
        let sent = book.response_sent + bytes as u64;
        assert!(
            book.used == Use::InFlight && sent <= book.response_written,
            "slot {slot}: sent what was not there"
        );
        book.response_sent = sent;
        let (written, is_done) = (book.response_written, book.hand.state == HandState::Done);
        ring::publish(&self.view().down_slot(slot).response_sent, sent);
        // `written` may be older than the writer's own count, so this wakes rather too often.
        if !is_done && ring::is_roomy(size, written, sent) {
            self.wake_owner(slot);
        }
    }

    /// The kernel begins an operation on the slot's memory.
    #[inline]
    pub fn kernel_holds(&mut self, slot: SlotIndex) {
        let book = self.slots.book_mut(slot);
        assert_ne!(book.used, Use::Free, "slot {slot} is free");
        book.kernel_operations += 1;
    }

    /// The kernel's operation has ended (its last completion, notifications included). Frees a slot
    /// that waited only for this.
    ///
    /// # Panics
    /// When no operation was begun.
    #[inline]
    pub fn kernel_released(&mut self, slot: SlotIndex) {
        let book = self.slots.book_mut(slot);
        assert!(book.kernel_operations > 0, "slot {slot}: no operation to end");
        book.kernel_operations -= 1;
        if book.kernel_operations == 0 && book.used == Use::Quarantined {
            self.free_quarantined_slot(slot);
        }
    }

    /// The caller is done with the slot. True: it is free. False: it is quarantined until its seat
    /// is done or dead and the kernel has let go. Not the caller's any more either way. A request
    /// that still waits is withdrawn, one that still runs is abandoned.
    ///
    /// # Errors
    /// The claim word is impossible; the slot stays out of use.
    ///
    /// # Panics
    /// When the slot is not in flight.
    pub fn release(&mut self, slot: SlotIndex) -> Result<bool, Impossible> {
        let mut hand = self.observe(slot)?;
        if hand.state == HandState::Queued {
            if self.withdraw(slot)? == Withdrawal::Withdrawn {
                return Ok(self.slots.book(slot).used == Use::Free);
            }
            hand = self.slots.book(slot).hand;
        }
        if hand.state == HandState::Owned && !self.slots.book(slot).owner_dead {
            self.abandon(slot)?;
        }
        self.free_or_quarantine(slot);
        Ok(self.slots.book(slot).used == Use::Free)
    }
}

/// Whether the response's writer asks for a large ring.
#[inline]
fn asks(book: &Book, up: &UpSlot) -> bool {
    // Relaxed: the writer sets news behind its wish with release, and the sweep that brought the
    // caller here took them with acquire; a wish that is seen earlier is answered earlier.
    book.statement.is_none() && up.statement.load(Ordering::Relaxed) == ASKS
}

/// Takes the count of response bytes, and with the first of them the statement.
#[inline]
fn take_written(book: &mut Book, up: &UpSlot, layout: &Layout) -> Result<(), &'static str> {
    let written = ring::look(&up.response_written);
    // Relaxed: published by `response_written`, which was acquired above.
    let word = up.statement.load(Ordering::Relaxed);
    if written > 0 && book.statement.is_none() && word & LARGE != 0 {
        let Grant::Ring(ring) = book.grant else {
            return Err("response in a large ring that was not granted");
        };
        book.ring = ResponseRing::Large(ring);
    }
    let ring_bytes = layout.geometry.response_bytes(book.ring);
    if ring::available(ring_bytes, written, book.response_sent, book.response_written).is_none() {
        return Err("response bytes written");
    }
    if book.owner().is_none() && written > 0 {
        return Err("response bytes of a request that no seat has");
    }
    book.response_written = written;
    if written > 0 && book.statement.is_none() {
        let length = up.statement_length.load(Ordering::Relaxed);
        let statement = Statement::unpack(word & !LARGE, length, ring_bytes)
            .ok_or("statement of a response")?;
        if u64::from(statement.head_bytes) > written {
            return Err("fewer response bytes than the head has");
        }
        book.statement = Some(statement);
        let first_byte_at = up.first_byte_at.load(Ordering::Relaxed);
        book.first_byte_at_ns = Some(first_byte_at.max(book.queued_at_ns));
    }
    match book.statement.map(Statement::wire_bytes_max) {
        Some(most) if most.is_none_or(|most| written > most) => {
            Err("more response bytes than stated")
        }
        _ => Ok(()),
    }
}

/// How a response ended whose word says DONE.
#[inline]
fn end_of(book: &Book, up: &UpSlot) -> Result<ResponseEnd, &'static str> {
    let end = ResponseEnd::unpack(up.statement.load(Ordering::Relaxed));
    match (end, book.statement) {
        (Some(ResponseEnd::Broken), _) => Ok(ResponseEnd::Broken),
        (Some(ResponseEnd::Complete), Some(statement)) => match statement.body {
            StatedBody::Length(_) if Some(book.response_written) != statement.wire_bytes_max() => {
                Err("complete response, but not as long as stated")
            }
            _ => Ok(ResponseEnd::Complete),
        },
        (Some(ResponseEnd::Complete), None) => Err("complete response without a head"),
        (None, _) => Err("outcome of a response"),
    }
}

/// Takes the count of request body bytes consumed; gives the room there is for more.
#[inline]
fn body_room(book: &mut Book, up: &UpSlot, layout: &Layout) -> Result<usize, &'static str> {
    if book.body_ended {
        return Ok(0);
    }
    let size = layout.geometry.request_ring_bytes as usize - record::body_at(book.record_bytes);
    let consumed = ring::look(&up.body_consumed);
    let room = ring::room(size, book.body_written, consumed, book.body_consumed)
        .ok_or("body bytes consumed")?;
    book.body_consumed = consumed;
    Ok(room)
}

#[cfg(all(test, not(loom)))]
mod tests;
