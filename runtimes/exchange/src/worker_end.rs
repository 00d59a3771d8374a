//! The worker's end: attaches to the segments, and the seats that pull requests from them.
//!
//! Where it stands in the walk of a request: `Seat::try_claim` takes what a loop queued, the
//! [`Claim`] is the request in the runtime's hands, and `wait_for_work` is where an idle
//! interpreter sleeps.
//!
//! Rules a seat keeps (docs/exchange.md), each of which closes a way to strand a request:
//! - It pulls from a loop only while floor ≤ its generation ≤ ceiling there.
//! - It serves its paired loop first and looks at the others when that is dry and at least every
//!   [`OTHER_QUEUES_EVERY`] requests. It claims one request at a time.
//! - It may defer a bell only while that loop's queue is not empty: if it takes the last entry,
//!   turns to another loop's queue or finds nothing, it rings first. A loop whose queue is not
//!   empty never sleeps longer than 500 µs, so a seat that dies with a deferred bell delays its
//!   news by that at most.
//!
//! In a forked child (see `fork`) nothing here touches the segments: they are not mapped there.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::SlotIndex;
use crate::clock::{self, DateCache};
use crate::fork::{self, is_forked};
use crate::framing::StagedHead;
use crate::geometry::{LOOPS_MAX, Layout, OTHER_QUEUES_EVERY, SEATS_MAX, Segment, seats_bytes};
use crate::memory::{self, AttachFault, Mapping};
use crate::news::{self, Told};
use crate::request::Claim;
use crate::seat_line::{IDLE, SleepEnd, WAITING};
use crate::seats::seats_geometry;
use crate::segments::{LoopView, SeatsView};
use crate::sync::{AtomicU64, Bell, Ordering, fence};

/// Descriptors of one loop, received over the control socket in this order.
#[derive(Debug)]
pub struct LoopDescriptorsOwned {
    /// Written by the loop, read-only here.
    pub down: OwnedFd,
    /// Written by workers.
    pub up: OwnedFd,
    /// The loop's eventfd.
    pub bell: OwnedFd,
}

/// Why the segments could not be attached.
#[derive(Debug)]
pub enum AttachError {
    /// A system call failed.
    Io(io::Error),
    /// Not our memory: the text names the check that failed (magic, version, layout hash, size).
    Layout(&'static str),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Io(error) => write!(f, "exchange segment: {error}"),
            AttachError::Layout(what) => write!(f, "exchange segment of another build: {what}"),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AttachError::Io(error) => Some(error),
            AttachError::Layout(_) => None,
        }
    }
}

impl From<AttachFault> for AttachError {
    fn from(fault: AttachFault) -> Self {
        match fault {
            AttachFault::Io(error) => AttachError::Io(error),
            AttachFault::Layout(what) => AttachError::Layout(what),
        }
    }
}

/// Why `wait_for_work` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkWake {
    /// There may be work: claim.
    Work,
    /// Stopped, or this generation is over: leave.
    Stop,
    /// `interrupt` was called for this seat, or a signal handler ran on this thread: run the
    /// interpreter's handlers, then claim before waiting again.
    Interrupted,
    /// The time passed.
    TimedOut,
}

/// Why a wait within a request returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestWake {
    /// Try again. May be for no reason (a signal arrived, `interrupt` was called): run the
    /// interpreter's handlers before waiting again.
    Ready,
    /// The loop gave the request up.
    Cancelled,
    /// `stop_now` was called.
    Stop,
}

/// One loop's segments as this worker has mapped them.
#[derive(Debug)]
struct AttachedLoop {
    layout: Layout,
    down: Mapping,
    up: Mapping,
    bell: Bell,
    /// The loop's own number.
    number: u16,
}

impl AttachedLoop {
    fn attach(descriptors: LoopDescriptorsOwned) -> Result<AttachedLoop, AttachError> {
        let LoopDescriptorsOwned { down, up, bell } = descriptors;
        let (down, identity) = memory::attach(&down, Segment::Down, false, |identity| {
            Ok(identity.geometry.layout()?.down_bytes)
        })?;
        let (up, other) = memory::attach(&up, Segment::Up, true, |identity| {
            Ok(identity.geometry.layout()?.up_bytes)
        })?;
        if (identity.loop_index, identity.geometry) != (other.loop_index, other.geometry) {
            return Err(AttachError::Layout("segments of two loops"));
        }
        let layout = identity.geometry.layout().map_err(AttachError::Layout)?;
        Ok(AttachedLoop { layout, down, up, bell: Bell::new(bell), number: identity.loop_index })
    }
}

/// Graceful stop: seats leave when they have nothing in hand.
const STOPPING: u8 = 1;
/// Fast stop: waits within requests end too.
const STOPPING_NOW: u8 = 2;

/// The worker's end of every loop of the pool. One a process; shared by its seats.
#[derive(Debug)]
pub struct WorkerEnd {
    loops: Vec<AttachedLoop>,
    seats: Mapping,
    seats_count: u32,
    generation: u32,
    /// 0, [`STOPPING`] or [`STOPPING_NOW`].
    stopping: AtomicU8,
    /// Bit a seat of this process: made by `seat`, so that `stop` wakes them and no others.
    mine: [AtomicU64; SEATS_MAX / 64],
    /// Bit a seat: an interrupt it has not seen yet.
    interrupted: [AtomicU64; SEATS_MAX / 64],
}

impl WorkerEnd {
    /// Maps the segments of all loops and of the seats, after checking that they are of this build.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(
        loops: Vec<LoopDescriptorsOwned>,
        seats: OwnedFd,
        generation: u32,
    ) -> Result<WorkerEnd, AttachError> {
        fork::register().map_err(AttachError::Io)?;
        if loops.is_empty() || loops.len() > LOOPS_MAX {
            return Err(AttachError::Layout("between 1 and 64 loops are served"));
        }
        let (seats, identity) = memory::attach(&seats, Segment::Seats, true, |identity| {
            let seats = identity.geometry.seats;
            if seats == 0
                || seats as usize > SEATS_MAX
                || identity.geometry != seats_geometry(seats)
            {
                return Err("a number of seats out of bounds");
            }
            Ok(seats_bytes(seats))
        })?;
        let seats_count = identity.geometry.seats;
        let loops =
            loops.into_iter().map(AttachedLoop::attach).collect::<Result<Vec<_>, AttachError>>()?;
        if loops.iter().any(|attached| attached.layout.geometry.seats != seats_count) {
            return Err(AttachError::Layout("segments of two pools"));
        }
        Ok(WorkerEnd {
            loops,
            seats,
            seats_count,
            generation,
            stopping: AtomicU8::new(0),
            mine: [const { AtomicU64::new(0) }; SEATS_MAX / 64],
            interrupted: [const { AtomicU64::new(0) }; SEATS_MAX / 64],
        })
    }

    /// A seat of this worker. `number` is one of those that Setup gave it, each used once;
    /// `paired_loop` is the number of the loop to serve first.
    ///
    /// # Panics
    /// When the pool has no such seat.
    pub fn seat(self: &Arc<Self>, number: u16, paired_loop: Option<u16>) -> Seat {
        assert!(u32::from(number) < self.seats_count, "seat {number} does not exist");
        // Release: `wake_all` acquires it before it touches the seat's line.
        self.mine[usize::from(number) / 64].fetch_or(1 << (number % 64), Ordering::Release);
        let paired = paired_loop
            .and_then(|paired| self.loops.iter().position(|attached| attached.number == paired));
        Seat {
            place: Arc::new(Place {
                end: Arc::clone(self),
                number,
                deferred: AtomicU64::new(0),
                scratch: Mutex::new(Some(Box::new(Scratch::new()))),
            }),
            paired,
            others_from: 0,
            claims_until_others: OTHER_QUEUES_EVERY,
            clock: clock::monotonic_ns,
        }
    }

    /// Graceful stop, from any thread: seats that wait for work, or come to, get `Stop`; requests
    /// in hand go on.
    pub fn stop(&self) {
        self.stop_as(STOPPING);
    }

    /// Fast stop, from any thread: waits within requests return `Stop` too.
    pub fn stop_now(&self) {
        self.stop_as(STOPPING_NOW);
    }

    fn stop_as(&self, how: u8) {
        if is_forked() {
            return;
        }
        self.stopping.fetch_max(how, Ordering::Release);
        fence(Ordering::SeqCst);
        for number in 0..self.seats_count as u16 {
            let mine = self.mine[usize::from(number) / 64].load(Ordering::Acquire);
            if mine & (1 << (number % 64)) != 0 {
                self.wake(number);
            }
        }
    }

    /// Wakes one waiting seat because a signal arrived. Only stores to atomics and makes one system
    /// call: a signal handler may call it.
    pub fn interrupt(&self, number: u16) {
        if is_forked() || u32::from(number) >= self.seats_count {
            return;
        }
        self.interrupted[usize::from(number) / 64].fetch_or(1 << (number % 64), Ordering::Release);
        fence(Ordering::SeqCst);
        self.wake(number);
    }

    /// Wakes a seat from whatever it waits for. The caller published the reason and fenced.
    fn wake(&self, number: u16) {
        let line = self.seats_view().line(number);
        if !line.notify(IDLE) {
            line.notify(WAITING);
        }
    }

    #[inline]
    fn is_interrupted(&self, number: u16) -> bool {
        let word = &self.interrupted[usize::from(number) / 64];
        word.load(Ordering::Relaxed) & (1 << (number % 64)) != 0
    }

    #[inline]
    fn take_interrupt(&self, number: u16) -> bool {
        let bit = 1 << (number % 64);
        self.is_interrupted(number)
            && self.interrupted[usize::from(number) / 64].fetch_and(!bit, Ordering::Acquire) & bit
                != 0
    }

    #[inline]
    fn seats_view(&self) -> SeatsView<'_> {
        SeatsView { mapping: &self.seats, seats: self.seats_count }
    }

    #[inline]
    fn view(&self, at: usize) -> LoopView<'_> {
        let AttachedLoop { layout, down, up, .. } = &self.loops[at];
        LoopView { layout, down, up }
    }

    #[inline]
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed) != 0
    }

    /// Whether this generation may pull from a loop now.
    #[inline]
    fn may_pull(&self, at: usize) -> bool {
        self.view(at).down_control().rules.value.admits(self.generation)
    }

    /// Whether some loop has work for this generation.
    fn has_work(&self) -> bool {
        (0..self.loops.len()).any(|at| self.may_pull(at) && !self.view(at).queue().is_empty())
    }

    /// Whether the floor passed this generation in every loop.
    fn is_over(&self) -> bool {
        (0..self.loops.len())
            .all(|at| self.view(at).down_control().rules.value.is_over_for(self.generation))
    }
}

/// What a seat keeps between requests so that a request allocates nothing.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub head: StagedHead,
    pub date: DateCache,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch { head: StagedHead::default(), date: DateCache::new() }
    }
}

/// What a seat and its claim share.
#[derive(Debug)]
pub(crate) struct Place {
    end: Arc<WorkerEnd>,
    number: u16,
    /// Bit a loop (by its place in `end.loops`): news was set and the bell not rung. Relaxed:
    /// written by the thread that has the claim and the one that has the seat, which are one or
    /// hand over by other means.
    deferred: AtomicU64,
    scratch: Mutex<Option<Box<Scratch>>>,
}

impl Place {
    #[inline]
    pub fn view(&self, at: usize) -> LoopView<'_> {
        self.end.view(at)
    }

    #[inline]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The number of the loop at a place of the worker's list.
    #[inline]
    pub fn loop_number(&self, at: usize) -> u16 {
        self.end.loops[at].number
    }

    #[inline]
    pub fn line(&self) -> &crate::seat_line::SeatLine {
        self.end.seats_view().line(self.number)
    }

    /// Tells a loop that a slot changed. With `may_defer` the bell waits while the loop's queue is
    /// not empty.
    #[inline]
    pub fn tell(&self, at: usize, slot: SlotIndex, may_defer: bool) {
        let view = self.view(at);
        let queue = may_defer.then(|| view.queue());
        match news::tell(view.news(), &view.down_control().sleeping.value, queue, slot) {
            Told::Awake => {}
            Told::Deferred => {
                self.deferred.fetch_or(1 << at, Ordering::Relaxed);
            }
            Told::MustRing => self.end.loops[at].bell.ring(),
        }
    }

    /// Rings what was deferred, for the loops whose bit is in `which`.
    #[inline]
    pub fn ring_deferred(&self, which: u64) {
        if self.deferred.load(Ordering::Relaxed) & which == 0 {
            return;
        }
        let mut bits = self.deferred.fetch_and(!which, Ordering::Relaxed) & which;
        while bits != 0 {
            let at = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // The fence stands after the news was set; if the loop woke since then it saw the news.
            if news::must_ring(&self.view(at).down_control().sleeping.value) {
                self.end.loops[at].bell.ring();
            }
        }
    }

    /// Whether a wait within a request must end for a reason of this process.
    #[inline]
    pub fn is_disturbed(&self) -> bool {
        self.is_stopping_now() || self.end.is_interrupted(self.number)
    }

    #[inline]
    pub fn is_stopping_now(&self) -> bool {
        self.end.stopping.load(Ordering::Acquire) == STOPPING_NOW
    }

    /// Forgets an interrupt: the caller returns to the runtime, which looks.
    #[inline]
    pub fn take_interrupt(&self) {
        self.end.take_interrupt(self.number);
    }

    pub fn take_scratch(&self) -> Box<Scratch> {
        let kept = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Empty only while another claim of this seat is alive, or after one was forgotten.
        kept.unwrap_or_else(|| Box::new(Scratch::new()))
    }

    pub fn give_scratch(&self, scratch: Box<Scratch>) {
        *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) = Some(scratch);
    }
}

/// One interpreter thread's place: pulls requests, one at a time.
#[derive(Debug)]
pub struct Seat {
    place: Arc<Place>,
    /// Place of the paired loop in the list of loops.
    paired: Option<usize>,
    /// Where the next look at the other loops starts, so that none is always last.
    others_from: usize,
    claims_until_others: u32,
    clock: fn() -> u64,
}

impl Seat {
    /// Reads the moment of claims from another clock: a test's seat lives in virtual time.
    pub fn set_clock(&mut self, clock: fn() -> u64) {
        self.clock = clock;
    }

    /// Claims the next request, if there is one. Under a GIL the caller holds it: lock first, claim
    /// second. Never blocks; rings deferred bells as the rules say.
    #[inline]
    pub fn try_claim(&mut self) -> Option<Claim> {
        if is_forked() || self.place.end.is_stopping() {
            self.ring_deferred();
            return None;
        }
        let others_first = self.claims_until_others == 0;
        let claim = match self.paired {
            Some(paired) if !others_first => {
                self.claim_from(paired).or_else(|| self.claim_from_others(Some(paired)))
            }
            Some(paired) => {
                self.claim_from_others(Some(paired)).or_else(|| self.claim_from(paired))
            }
            None => self.claim_from_others(None),
        };
        if others_first {
            self.claims_until_others = OTHER_QUEUES_EVERY;
        }
        if claim.is_some() {
            self.claims_until_others = self.claims_until_others.saturating_sub(1);
        } else {
            self.ring_deferred();
        }
        claim
    }

    /// Looks at every loop but `except`, from a start that moves.
    fn claim_from_others(&mut self, except: Option<usize>) -> Option<Claim> {
        let loops = self.place.end.loops.len();
        let from = self.others_from;
        for step in 0..loops {
            let at = (from + step) % loops;
            if Some(at) == except {
                continue;
            }
            if let Some(claim) = self.claim_from(at) {
                self.others_from = at + 1;
                return Some(claim);
            }
        }
        None
    }

    #[inline]
    fn claim_from(&mut self, at: usize) -> Option<Claim> {
        let place = &self.place;
        if !place.end.may_pull(at) {
            return None;
        }
        let view = place.view(at);
        let queue = view.queue();
        if queue.is_empty() {
            return None;
        }
        // Turning to this loop's queue: bells of the others are due before the application runs.
        place.ring_deferred(!(1 << at));
        let ticket = queue.take(place.number, |slot| view.word(slot))?;
        view.up_slot(ticket.slot).claimed_at.store((self.clock)(), Ordering::Relaxed);
        if queue.is_empty() {
            place.ring_deferred(1 << at);
        }
        Some(Claim::new(Arc::clone(place), at, ticket))
    }

    /// Sleeps until there may be work, at most `timeout`. Called without the GIL. Rings deferred
    /// bells first.
    pub fn wait_for_work(&mut self, timeout: Option<Duration>) -> WorkWake {
        self.ring_deferred();
        if is_forked() {
            return WorkWake::Stop;
        }
        let (end, number) = (&self.place.end, self.place.number);
        let idle = end.seats_view().idle();
        let has_reason =
            || end.is_stopping() || end.is_interrupted(number) || end.has_work() || end.is_over();
        let slept = self.place.line().sleep_for_work(idle, number, has_reason, timeout);
        if end.is_stopping() || end.is_over() {
            WorkWake::Stop
        } else if end.take_interrupt(number) || slept == SleepEnd::Signal {
            WorkWake::Interrupted
        } else if slept == SleepEnd::TimedOut {
            WorkWake::TimedOut
        } else {
            WorkWake::Work
        }
    }

    /// Rings bells that were deferred. For a runtime that is about to let its application block for
    /// long.
    #[inline]
    pub fn ring_deferred(&mut self) {
        if !is_forked() {
            self.place.ring_deferred(u64::MAX);
        }
    }

    /// Whether some loop has work for this seat.
    #[inline]
    pub fn peek_work(&self) -> bool {
        !is_forked() && self.place.end.has_work()
    }

    /// The seat's number.
    pub fn number(&self) -> u16 {
        self.place.number
    }
}
