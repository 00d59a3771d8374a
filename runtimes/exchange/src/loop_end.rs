//! The loop's end of the exchange for one pool: fills slots, queues them, takes replies, frees.
//!
//! Where it stands in the walk of a request: `event_loop/dispatch.rs` reserves a slot, writes the
//! record and queues it; `event_loop/reply.rs` sweeps the news, asks for progress, sends from the
//! ring and releases. The files below this one hold the two ways, the sleep, and what comes after;
//! whom to wake is in `wake`.
//!
//! Trust: nothing read from the workers' segment is believed. Each value is loaded once, compared
//! with the private books (`slots`), and only the copy is used. What no correct worker writes is
//! [`Impossible`]: in a response it condemns that worker, in `head` or a claim word the pool.
//!
//! Whose slot it is: a slot that was reserved is the caller's until exactly one of
//! `cancel_reservation`, `withdraw` → `Withdrawn` or `release`. After `release` it frees itself: at
//! once, or when its seat is done or dead and the kernel has let go (it is quarantined until then).

mod aftermath;
mod replies;
mod requests;
mod sleep;

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::SlotIndex;
use crate::claim::{Hand, HandState};
use crate::geometry::{Geometry, Identity, Layout, RECORD_HEAD_BYTES, Segment};
use crate::large_rings::LargeRings;
use crate::lines;
use crate::memory::Created;
use crate::record::{RecordHead, Variables};
use crate::seats::SeatTable;
use crate::segments::LoopView;
use crate::slots::{Slots, Use};
use crate::statement::{ResponseEnd, Statement};
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
    /// Bytes of chunk framing among those written: what the access log does not count. Written by
    /// the worker; at most what was written, else unchecked.
    pub framing_bytes: u64,
    /// Set once the seat is done: `unsent` is then all that is left.
    pub end: Option<ResponseEnd>,
    /// Request body bytes that `write_body` would take now.
    pub body_room: usize,
}

/// The seat that runs a request, as the books know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner {
    /// Its number.
    pub seat: u16,
    /// Which use of the slot.
    pub epoch: u64,
    /// The loop gave the request up already.
    pub is_abandoned: bool,
    /// When it claimed the request, if that was seen.
    pub claimed_at_ns: Option<u64>,
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
    pub(crate) large_rings: LargeRings,
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
            large_rings: LargeRings::new(geometry.large_rings),
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

    /// The number of the worker that has this seat.
    pub fn worker_of(&self, seat: u16) -> Option<u32> {
        self.workers.worker_of(seat)
    }

    /// "Connections should close": read by writers before the head.
    pub fn set_closing(&mut self, closing: bool) {
        self.view().down_control().rules.value.closing.store(closing.into(), Ordering::Relaxed);
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

    /// Who runs the request of a slot, as last seen, also after the caller released it: `None` for
    /// a slot that is free, queued or done, and when the owner's process is dead.
    pub fn runner(&self, slot: SlotIndex) -> Option<Runner> {
        let book = self.slots.find(slot)?;
        let is_running = matches!(book.used, Use::InFlight | Use::Quarantined)
            && matches!(book.hand.state, HandState::Owned | HandState::Abandoned)
            && !book.owner_dead;
        is_running.then_some(Runner {
            seat: book.hand.seat,
            epoch: book.hand.epoch,
            is_abandoned: book.hand.state == HandState::Abandoned,
            claimed_at_ns: book.claimed_at_ns,
        })
    }

    /// Whether a slot is queued or further: only then may its `progress` be asked for.
    #[inline]
    pub fn is_in_flight(&self, slot: SlotIndex) -> bool {
        self.slots.find(slot).is_some_and(|book| book.used == Use::InFlight)
    }

    /// The record of a slot in use, as it was written: for the log. It stays as it is until the
    /// slot is free, whoever else has let go of it.
    pub fn variables(&self, slot: SlotIndex) -> Variables<'_> {
        let Some(book) = self.slots.find(slot) else { return Variables::new(&[], 0) };
        if book.used == Use::Free || book.record_bytes == 0 {
            return Variables::new(&[], 0);
        }
        let ring = self.view().request_ring(slot);
        let mut head = [0; RECORD_HEAD_BYTES];
        ring.copy_out(0, &mut head);
        let Some(head) = RecordHead::unpack(&head, ring.size()) else {
            return Variables::new(&[], 0);
        };
        let bytes = head.record_bytes as usize - RECORD_HEAD_BYTES;
        let [(start, length), _] = ring.pieces(RECORD_HEAD_BYTES as u64, bytes);
        // SAFETY: inside the mapping (keeper: `pieces`), which lives as long as `self`. Only this
        // end writes the down segment (its other mappings are read-only), and every method that
        // does takes `&mut self`, which the borrow excludes.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast_const(), length) };
        Variables::new(bytes, head.variables)
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
