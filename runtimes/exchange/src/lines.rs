//! The shared lines and what both ends do with them: layout of each cache line, and the steps in
//! which one side publishes and the other waits.
//!
//! Where it stands in the walk of a request: below both ends. Every structure here consists of
//! atomics only, so a reference to one is sound whatever other processes do to the memory; that is
//! also why the loom models can run these very functions on memory of their own.
//!
//! | line | in | written by | read by |
//! |---|---|---|---|
//! | [`DownControl`] | down | loop | workers |
//! | [`DownSlot`] | down | loop | the slot's owner |
//! | [`UpControl`] | up | seats, loop (`head`) | both |
//! | [`UpSlot`] | up | loop while FREE, then the owner (claim word: both) | both |

use std::time::Duration;

use crate::claim::{self, Hand, HandState};
use crate::grant::Grant;
use crate::ring;
use crate::seat_line::{SeatLine, SleepEnd, WAITING};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// One value on lines of its own.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Line<T> {
    /// The value.
    pub value: T,
}

/// The loop's words for all workers.
#[repr(C)]
#[derive(Debug)]
pub struct DownControl {
    /// Entries ever pushed to the ready queue.
    pub tail: Line<AtomicU64>,
    /// 1 while the loop sleeps or is about to.
    pub sleeping: Line<AtomicU32>,
    /// What changes rarely.
    pub rules: Line<Rules>,
}

/// Read by every seat before it pulls, and by writers before the head.
#[repr(C)]
#[derive(Debug)]
pub struct Rules {
    /// Floor in the low half, ceiling in the high half: one word, so that both are of one moment.
    pub generations: AtomicU64,
    /// 1: connections should close after their response.
    pub closing: AtomicU32,
}

/// The workers' words for the loop.
#[repr(C)]
#[derive(Debug)]
pub struct UpControl {
    /// Entries ever taken from the ready queue.
    pub head: Line<AtomicU64>,
}

/// One slot's line in the loop's segment.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct DownSlot {
    /// Request body bytes ever written.
    pub body_written: AtomicU64,
    /// Response bytes ever sent: gives room back to the writer.
    pub response_sent: AtomicU64,
    /// [`BODY_OPEN`], [`BODY_COMPLETE`] or [`BODY_BROKEN`].
    pub body_state: AtomicU32,
    /// 1: the connection closes after this response.
    pub close_after: AtomicU32,
    /// 1: the loop has body bytes for which there was no room, and wants news of room.
    pub wants_room: AtomicU32,
    /// A [`Grant`]: the answer to a response that asked for a large ring.
    pub large_ring: AtomicU32,
    /// 1: the client will send nothing more, most likely because it left. Never taken back within
    /// a request.
    pub client_left: AtomicU32,
}

/// More body bytes may come.
pub const BODY_OPEN: u32 = 0;
/// All body bytes are written.
pub const BODY_COMPLETE: u32 = 1;
/// No more will come although some are missing.
pub const BODY_BROKEN: u32 = 2;

/// One slot's line in the workers' segment.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct UpSlot {
    /// See [`claim`].
    pub word: AtomicU64,
    /// Response bytes ever written.
    pub response_written: AtomicU64,
    /// Request body bytes ever consumed.
    pub body_consumed: AtomicU64,
    /// The statement's first word, see `statement`, and the outcome once the word is DONE;
    /// 0 = none.
    pub statement: AtomicU64,
    /// The statement's second word: the body's length where it has one.
    pub statement_length: AtomicU64,
    /// Response body bytes among those written, framing excluded. For the log only.
    pub payload_written: AtomicU64,
    /// `CLOCK_MONOTONIC` nanoseconds at the claim.
    pub claimed_at: AtomicU64,
    /// `CLOCK_MONOTONIC` nanoseconds when the head was committed.
    pub first_byte_at: AtomicU64,
}

impl DownSlot {
    /// Loop: as a new request finds it. Published by the swap to QUEUED.
    #[inline]
    pub fn reset(&self) {
        self.body_written.store(0, Ordering::Relaxed);
        self.response_sent.store(0, Ordering::Relaxed);
        self.body_state.store(BODY_OPEN, Ordering::Relaxed);
        self.close_after.store(0, Ordering::Relaxed);
        self.wants_room.store(0, Ordering::Relaxed);
        self.large_ring.store(Grant::Undecided.pack(), Ordering::Relaxed);
        self.client_left.store(0, Ordering::Relaxed);
    }

    /// Loop: answers a response that asked for a large ring. Release: whatever the loop and an
    /// earlier owner did with the ring's memory is over before the seat, which acquires the answer,
    /// writes to it.
    #[inline]
    pub(crate) fn grant(&self, grant: Grant) {
        self.large_ring.store(grant.pack(), Ordering::Release);
    }

    /// Seat: the answer, if there is one.
    #[inline]
    pub(crate) fn granted(&self) -> Grant {
        Grant::unpack(self.large_ring.load(Ordering::Acquire))
    }

    /// Seat: what there is of the body beyond `consumed`, and whether more may come. The state is
    /// read first: once it is not open, the count that follows is the last one.
    #[inline]
    pub fn look_at_body(&self, consumed: u64) -> (u64, u32) {
        let state = self.body_state.load(Ordering::Acquire);
        (ring::look(&self.body_written).saturating_sub(consumed), state)
    }

    /// Loop: publishes body bytes and wakes the owner if it waits for them.
    #[inline]
    pub fn publish_body(&self, written: u64) {
        ring::publish(&self.body_written, written);
    }

    /// Loop: publishes that no more body bytes come.
    #[inline]
    pub fn end_body(&self, state: u32) {
        self.body_state.store(state, Ordering::Release);
    }

    /// Seat: gives body room back. True: the loop waits for room and there is enough now, tell it.
    #[inline]
    pub fn consume_body(&self, up: &UpSlot, size: usize, consumed: u64) -> bool {
        ring::publish(&up.body_consumed, consumed);
        // A complete body has no more bytes to make room for.
        if self.body_state.load(Ordering::Relaxed) != BODY_OPEN {
            return false;
        }
        fence(Ordering::SeqCst);
        self.wants_room.load(Ordering::Relaxed) != 0
            && ring::is_roomy(size, ring::look(&self.body_written), consumed)
    }

    /// Loop: asks for news of room, then looks once more. Gives `consumed` as it is now.
    #[inline]
    pub fn ask_for_room(&self, up: &UpSlot) -> u64 {
        self.wants_room.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        ring::look(&up.body_consumed)
    }
}

impl UpSlot {
    /// Loop: as a new request finds it. Only while the slot is FREE; published by the swap to
    /// QUEUED.
    #[inline]
    pub fn reset(&self) {
        self.response_written.store(0, Ordering::Relaxed);
        self.body_consumed.store(0, Ordering::Relaxed);
        self.statement.store(0, Ordering::Relaxed);
        self.statement_length.store(0, Ordering::Relaxed);
        self.payload_written.store(0, Ordering::Relaxed);
        self.claimed_at.store(0, Ordering::Relaxed);
        self.first_byte_at.store(0, Ordering::Relaxed);
    }
}

/// Who holds which request: what a seat needs to wait within it.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    /// The seat's line.
    pub seat: &'a SeatLine,
    /// The slot's line in the loop's segment.
    pub down: &'a DownSlot,
    /// The slot's line in the workers' segment.
    pub up: &'a UpSlot,
    /// Which use of the slot.
    pub epoch: u64,
    /// The seat's number.
    pub number: u16,
}

impl Hold<'_> {
    /// Whether the loop gave the request up.
    #[inline]
    pub fn is_abandoned(&self) -> bool {
        claim::is_abandoned(&self.up.word, self.epoch, self.number)
    }

    /// Whether the client was seen to leave. Relaxed: nothing is published with the flag and nobody
    /// waits for it; the slot's reset before it was queued is acquired by the claim.
    #[inline]
    pub fn has_client_left(&self) -> bool {
        self.down.client_left.load(Ordering::Relaxed) != 0
    }

    /// Sleeps until there are body bytes beyond `consumed`, the body ended, the request was given
    /// up or `interrupted` says so. May return early.
    pub fn sleep_for_body(
        &self,
        consumed: u64,
        interrupted: impl Fn() -> bool,
        timeout: Option<Duration>,
    ) -> SleepEnd {
        let has_reason = || {
            let (available, state) = self.down.look_at_body(consumed);
            available > 0 || state != BODY_OPEN || self.is_abandoned() || interrupted()
        };
        self.seat.sleep(WAITING, has_reason, timeout)
    }

    /// Sleeps until the loop answered the wish for a large ring, the request was given up or
    /// `interrupted` says so. May return early.
    pub fn sleep_for_grant(
        &self,
        interrupted: impl Fn() -> bool,
        timeout: Option<Duration>,
    ) -> SleepEnd {
        let has_reason =
            || self.down.granted() != Grant::Undecided || self.is_abandoned() || interrupted();
        self.seat.sleep(WAITING, has_reason, timeout)
    }

    /// Sleeps until half of the response ring is free, the request was given up or `interrupted`
    /// says so. May return early.
    pub fn sleep_for_room(
        &self,
        size: usize,
        written: u64,
        interrupted: impl Fn() -> bool,
        timeout: Option<Duration>,
    ) -> SleepEnd {
        let has_reason = || {
            ring::is_roomy(size, written, ring::look(&self.down.response_sent))
                || self.is_abandoned()
                || interrupted()
        };
        self.seat.sleep(WAITING, has_reason, timeout)
    }
}

/// Loop, after it published something for the owner of a slot (body bytes or their end, room, that
/// the request is given up): wakes the owner if it waits within the request. If the slot is still
/// queued, its later owner sees what was published; a word that makes no sense wakes nobody here,
/// the next look at it reports it. `line_of` gives a seat's line, `None` for a seat that does not
/// exist.
#[inline]
pub fn wake_owner<'a>(up: &UpSlot, line_of: impl FnOnce(u16) -> Option<&'a SeatLine>) {
    fence(Ordering::SeqCst);
    let word = up.word.load(Ordering::Relaxed);
    if let Some(Hand { state: HandState::Owned | HandState::Abandoned, seat, .. }) =
        Hand::unpack(word)
        && let Some(line) = line_of(seat)
    {
        line.notify(WAITING);
    }
}

/// Floor and ceiling as one word.
#[inline]
pub const fn pack_generations(floor: u32, ceiling: u32) -> u64 {
    (ceiling as u64) << 32 | floor as u64
}

impl Rules {
    /// Whether seats of `generation` may pull.
    #[inline]
    pub fn admits(&self, generation: u32) -> bool {
        let word = self.generations.load(Ordering::Acquire);
        (word as u32) <= generation && generation <= (word >> 32) as u32
    }

    /// Whether the floor has passed `generation`: its seats never pull again.
    #[inline]
    pub fn is_over_for(&self, generation: u32) -> bool {
        generation < self.generations.load(Ordering::Acquire) as u32
    }
}
