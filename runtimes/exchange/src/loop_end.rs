//! The loop's end of the exchange for one pool: fills slots, queues them, takes replies, frees.
//!
//! Where it stands in the walk of a request: `event_loop/dispatch.rs` reserves a slot, writes the
//! record and queues it; `event_loop/reply.rs` sweeps the news, asks for progress, sends from the
//! ring and releases. Waking is in `wake`, death and pages are in `aftermath`.
//!
//! Trust: nothing read from the workers' segment is believed. Each value is loaded once, compared
//! with the private books (`slots`), and only the copy is used. What no correct worker writes is
//! [`Impossible`]: in a response it condemns that worker, in `head` or a claim word the pool.
//!
//! Whose slot it is: a slot that was reserved is the caller's until exactly one of
//! `cancel_reservation`, `withdraw` → `Withdrawn` or `release`. After `release` it frees itself: at
//! once, or when its seat is done or dead and the kernel has let go (it is quarantined until then).

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::SlotIndex;
use crate::claim::{self, Hand, HandState, Ticket};
use crate::geometry::{Geometry, Identity, Layout, Segment};
use crate::lines::{self, BODY_BROKEN, BODY_COMPLETE};
use crate::memory::Created;
use crate::news;
use crate::record::{self, RecordWriter};
use crate::ring;
use crate::seats::SeatTable;
use crate::segments::LoopView;
use crate::slots::{Slots, Use};
use crate::statement::{ResponseEnd, StatedBody, Statement};
use crate::sync::{Ordering, fence};
use crate::wake::Workers;

/// A value that no correct worker writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// What was seen.
    pub what: &'static str,
    /// In which slot.
    pub slot: Option<SlotIndex>,
    /// Some: that seat's worker is to be killed. None: the pool is condemned, its workers are
    /// killed and its segments replaced.
    pub seat: Option<u16>,
}

impl std::fmt::Display for Impossible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "impossible value in shared memory: {}", self.what)?;
        if let Some(slot) = self.slot {
            write!(f, ", slot {slot}")?;
        }
        if let Some(seat) = self.seat {
            write!(f, ", seat {seat}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Impossible {}

/// How the request body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// All of it was written.
    Complete,
    /// Client gone, timed out or malformed: reading it raises.
    Broken,
}

/// The ready queue has no room: answer 503, cancel the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl std::fmt::Display for QueueFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the ready queue is full")
    }
}

impl std::error::Error for QueueFull {}

/// Outcome of `withdraw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Nobody had it; the slot is free again and no longer the caller's.
    Withdrawn,
    /// A seat runs it or ran it.
    Running,
}

/// Outcome of `abandon`. In both cases the slot stays the caller's until `release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandonment {
    /// The seat is told; `release` will quarantine the slot until the seat is done or dead.
    Abandoned,
    /// The seat had finished first: its response is there.
    Finished,
}

/// What a request's slot says now. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// The seat that owns it or did.
    pub claimed_by: Option<u16>,
    /// When. Written by the worker: not before the request was queued, else unchecked.
    pub claimed_at_ns: Option<u64>,
    /// When the head was committed. As above.
    pub first_byte_at_ns: Option<u64>,
    /// What the worker stated with its first bytes.
    pub statement: Option<Statement>,
    /// Response bytes written and not yet `sent`.
    pub unsent: usize,
    /// Bytes of chunk framing among those written: what the access log does not count. Written by the
    /// worker; at most what was written, else unchecked.
    pub framing_bytes: u64,
    /// Set once the seat is done: `unsent` is then all that is left.
    pub end: Option<ResponseEnd>,
    /// Request body bytes that `write_body` would take now.
    pub body_room: usize,
}

/// Bytes in the mapping. Valid until the slot is released.
#[derive(Clone, Copy, Debug)]
pub struct RawPiece {
    /// First byte.
    pub pointer: *const u8,
    /// Length in bytes; 0 = nothing.
    pub length: usize,
}

/// How many slots are in each state. They add up to the slots of the geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Usable now.
    pub free: u32,
    /// Reserved, not queued.
    pub reserved: u32,
    /// Queued, no seat has it.
    pub queued: u32,
    /// A seat owns it, or its response is still with the loop.
    pub running: u32,
    /// Released by the loop, still held by a seat or the kernel.
    pub quarantined: u32,
}

/// The descriptors to pass to a worker, in this order.
#[derive(Clone, Copy, Debug)]
pub struct LoopDescriptors<'a> {
    /// Written by the loop; cannot be written through this descriptor.
    pub down: BorrowedFd<'a>,
    /// Written by workers.
    pub up: BorrowedFd<'a>,
    /// The loop's eventfd.
    pub bell: BorrowedFd<'a>,
}

/// The loop's end for one pool. Used by the loop's thread alone: `Send`, not `Sync`.
#[derive(Debug)]
pub struct LoopEnd {
    pub(crate) layout: Layout,
    pub(crate) down: Created,
    pub(crate) up: Created,
    bell: OwnedFd,
    pub(crate) seats: Arc<SeatTable>,
    pub(crate) slots: Slots,
    pub(crate) workers: Workers,
    /// Entries ever pushed, and `head` as last seen and found possible.
    tail: u64,
    head_seen: u64,
    /// When the entry at each place of the queue was pushed.
    queued_at_ns: Box<[u64]>,
    /// News the loop tells itself: responses that were whole before their worker died.
    pub(crate) own_news: Vec<SlotIndex>,
    /// An impossible value met where it could not be returned; the next call that can returns it.
    pub(crate) pending: Option<Impossible>,
    _not_sync: PhantomData<Cell<()>>,
}

impl LoopEnd {
    /// Makes the segments of loop `loop_index` for one pool. `bell` is the loop's eventfd, shared
    /// by its pools; it is made non-blocking, so that a worker that filled its counter blocks
    /// nobody.
    ///
    /// # Errors
    /// `InvalidInput` when the geometry is out of bounds or not that of `seats`; else as
    /// `memfd_create` and its kin.
    pub fn create(
        loop_index: u16,
        geometry: Geometry,
        seats: Arc<SeatTable>,
        bell: OwnedFd,
    ) -> io::Result<LoopEnd> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let layout = geometry.layout().map_err(invalid)?;
        if geometry.seats != seats.seats() {
            return Err(invalid("the geometry's seats are not those of the pool"));
        }
        set_nonblocking(&bell)?;
        let down = Created::read_only(c"ringhorn-down", layout.down_bytes)?;
        let up = Created::writable(c"ringhorn-up", layout.up_bytes)?;
        down.mapping.identify(Identity { segment: Segment::Down, loop_index, geometry });
        up.mapping.identify(Identity { segment: Segment::Up, loop_index, geometry });
        let loop_end = LoopEnd {
            down,
            up,
            bell,
            seats,
            slots: Slots::new(geometry.slots),
            workers: Workers::new(loop_index),
            tail: 0,
            head_seen: 0,
            queued_at_ns: vec![0; layout.queue_entries].into_boxed_slice(),
            own_news: Vec::new(),
            pending: None,
            layout,
            _not_sync: PhantomData,
        };
        Ok(loop_end)
    }

    /// The descriptors to pass to a worker.
    pub fn descriptors(&self) -> LoopDescriptors<'_> {
        LoopDescriptors {
            down: self.down.descriptor(),
            up: self.up.descriptor(),
            bell: self.bell.as_fd(),
        }
    }

    #[inline]
    pub(crate) fn view(&self) -> LoopView<'_> {
        LoopView { layout: &self.layout, down: &self.down.mapping, up: &self.up.mapping }
    }

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
        let ring_bytes = layout.geometry.response_ring_bytes as usize;
        let seat = book.owner();
        let fault = |what| Err(Impossible { what, slot: Some(slot), seat });

        let written = ring::look(&up_slot.response_written);
        let Some(_) =
            ring::available(ring_bytes, written, book.response_sent, book.response_written)
        else {
            return fault("response bytes written");
        };
        if seat.is_none() && written > 0 {
            return fault("response bytes of a request that no seat has");
        }
        book.response_written = written;
        if written > 0 && book.statement.is_none() {
            let word = up_slot.statement.load(Ordering::Relaxed);
            let length = up_slot.statement_length.load(Ordering::Relaxed);
            match Statement::unpack(word, length, ring_bytes) {
                Some(statement) if u64::from(statement.head_bytes) <= written => {
                    book.statement = Some(statement);
                }
                _ => return fault("statement"),
            }
            let first_byte_at = up_slot.first_byte_at.load(Ordering::Relaxed);
            book.first_byte_at_ns = Some(first_byte_at.max(book.queued_at_ns));
        }
        if let Some(statement) = book.statement
            && statement.wire_bytes_max().is_none_or(|most| written > most)
        {
            return fault("more response bytes than stated");
        }
        let head_bytes = book.statement.map_or(0, |statement| u64::from(statement.head_bytes));
        let payload = up_slot.payload_written.load(Ordering::Relaxed);
        let framing_bytes = written.saturating_sub(head_bytes).saturating_sub(payload);
        if seat.is_some() && book.claimed_at_ns.is_none() {
            let claimed_at = up_slot.claimed_at.load(Ordering::Relaxed);
            // Written right after the claim; 0 means not yet.
            if claimed_at != 0 {
                book.claimed_at_ns = Some(claimed_at.max(book.queued_at_ns));
            }
        }
        if hand.state == HandState::Done && book.end.is_none() {
            let end = ResponseEnd::unpack(up_slot.outcome.load(Ordering::Relaxed));
            book.end = match (end, book.statement) {
                (Some(ResponseEnd::Broken), _) => Some(ResponseEnd::Broken),
                (Some(ResponseEnd::Complete), Some(statement)) => {
                    if let StatedBody::Length(_) = statement.body
                        && Some(written) != statement.wire_bytes_max()
                    {
                        return fault("complete, but not as long as stated");
                    }
                    Some(ResponseEnd::Complete)
                }
                (Some(ResponseEnd::Complete), None) => return fault("complete without a head"),
                (None, _) => return fault("outcome"),
            };
        }
        let body_room = if book.body_ended || seat.is_none() && book.body_written == 0 {
            0
        } else {
            let size =
                layout.geometry.request_ring_bytes as usize - record::body_at(book.record_bytes);
            let consumed = ring::look(&up_slot.body_consumed);
            match ring::room(size, book.body_written, consumed, book.body_consumed) {
                Some(room) => {
                    book.body_consumed = consumed;
                    room
                }
                None => return fault("body bytes consumed"),
            }
        };
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
            .response_ring(slot)
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
        self.view().response_ring(slot).copy_out(book.response_sent, &mut into[from..]);
    }

    /// The number of the worker that has this seat.
    pub fn worker_of(&self, seat: u16) -> Option<u32> {
        self.workers.worker_of(seat)
    }

    /// Gives the room of bytes that went out back to the writer, and wakes it if it waits and at
    /// least half of the ring is free.
    ///
    /// # Panics
    /// When more is sent than was unsent.
    #[inline]
    pub fn sent(&mut self, slot: SlotIndex, bytes: usize) {
        let size = self.layout.geometry.response_ring_bytes as usize;
        let book = self.slots.book_mut(slot);
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

    /// Whether there is nothing to take for a seat. Steps over dead entries.
    ///
    /// # Errors
    /// `head` is impossible, or an earlier call met something impossible that it could not return.
    pub fn queue_is_empty(&mut self) -> Result<bool, Impossible> {
        if let Some(impossible) = self.pending.take() {
            return Err(impossible);
        }
        let LoopEnd { layout, down, up, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let queue = view.queue();
        for _ in 0..=layout.queue_entries {
            let head = queue.head.load(Ordering::Acquire);
            if head < self.head_seen || head > self.tail {
                return Err(Impossible { what: "head of the ready queue", slot: None, seat: None });
            }
            self.head_seen = head;
            if head == self.tail {
                return Ok(true);
            }
            if queue.is_live(head, |slot| view.word(slot)) {
                return Ok(false);
            }
            queue.advance(head);
        }
        Ok(false)
    }

    /// When the entry at the queue's head was pushed, as of the last `queue_is_empty`.
    #[inline]
    pub fn oldest_queued_ns(&self) -> Option<u64> {
        let at = self.head_seen as usize & (self.layout.queue_entries - 1);
        (self.head_seen < self.tail).then(|| self.queued_at_ns[at])
    }

    /// Says that the loop sleeps, and looks once more. True: it may sleep. False: there is news,
    /// the flag is down again. A loop with several pools asks each. Before sleeping without a time
    /// limit of at most 500 µs, `queue_is_empty` must have said true *first*.
    ///
    /// # Errors
    /// An earlier call met something impossible that it could not return.
    #[inline]
    pub fn prepare_sleep(&mut self) -> Result<bool, Impossible> {
        if let Some(impossible) = self.pending.take() {
            return Err(impossible);
        }
        if !self.own_news.is_empty() {
            return Ok(false);
        }
        let view = self.view();
        Ok(news::prepare_sleep(&view.down_control().sleeping.value, view.news()))
    }

    /// Says that the loop no longer sleeps.
    #[inline]
    pub fn awake(&mut self) {
        news::awake(&self.view().down_control().sleeping.value);
    }

    /// "Connections should close": read by writers before the head.
    pub fn set_closing(&mut self, closing: bool) {
        self.view().down_control().rules.value.closing.store(closing.into(), Ordering::Relaxed);
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

    /// Lets seats of generations `floor..=ceiling` pull, and wakes all sleeping ones so that they
    /// look.
    pub fn set_generations(&mut self, floor: u32, ceiling: u32) {
        self.workers.set_generations(floor, ceiling);
        let rules = &self.view().down_control().rules.value;
        rules.generations.store(lines::pack_generations(floor, ceiling), Ordering::Release);
        fence(Ordering::SeqCst);
        self.wake_all();
    }

    /// How many slots are in each state. Looks at every slot: for metrics, not for admission.
    pub fn counts(&self) -> Counts {
        let view = self.view();
        self.slots.counts(|slot| {
            let hand = Hand::unpack(view.up_slot(slot).word.load(Ordering::Relaxed));
            hand.is_some_and(|hand| hand.state == HandState::Queued)
        })
    }

    /// Slots reserved, queued or running: what an in-flight bound counts. Quarantined ones are not
    /// in it.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.slots.count() - self.slots.free_count() - self.slots.quarantined_count()
    }

    /// Loads the claim word of a slot in use once, compares it with the books and notes it there.
    pub(crate) fn observe(&mut self, slot: SlotIndex) -> Result<Hand, Impossible> {
        let word = self.view().up_slot(slot).word.load(Ordering::Acquire);
        let seats = self.layout.geometry.seats;
        let book = self.slots.book_mut(slot);
        assert!(
            matches!(book.used, Use::InFlight | Use::Quarantined),
            "slot {slot} is not in flight"
        );
        match Hand::unpack(word) {
            Some(hand) if book.may_become(hand) && u32::from(hand.seat) < seats => {
                book.hand = hand;
                Ok(hand)
            }
            _ => Err(Impossible { what: "claim word", slot: Some(slot), seat: None }),
        }
    }

    /// Wakes the owner of a slot if it waits within its request. Call after publishing.
    #[inline]
    pub(crate) fn wake_owner(&self, slot: SlotIndex) {
        if self.slots.book(slot).used != Use::InFlight {
            return;
        }
        let seats = self.seats.view();
        lines::wake_owner(self.view().up_slot(slot), |seat| seats.find(seat));
    }
}

fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor we own.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    let set =
        |flags: libc::c_int| unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags) };
    if flags < 0 || set(flags | libc::O_NONBLOCK) < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
