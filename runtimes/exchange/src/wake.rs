//! Whom the loop wakes.
//!
//! Where it stands in the walk of a request: after `enqueue`, before a seat claims. The rule: the
//! seat paired with this loop's core, else any sleeping seat, else nobody (a busy seat pulls next
//! by itself). Under one interpreter lock a second thread of a worker whose first one runs would
//! only make the two fight for the lock, so it is woken only when the queue's head has waited for
//! 500 µs, or when nothing was heard of the running threads for as long: they then wait for
//! something else.
//!
//! A seat counts as running while it is neither idle nor waiting within a request: the books here
//! know the workers' seats, the idle bitmap and the seats' words know who sleeps.

use std::ops::Range;

use crate::clock;
use crate::loop_end::LoopEnd;
use crate::seat_line::IDLE;
use crate::segments::SeatsView;
use crate::sync::{Ordering, fence};

/// Why a seat is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// New work was queued.
    Fresh,
    /// The queue's head has waited for 500 µs.
    Waited,
}

/// A worker of the pool, as the loop knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSeats {
    /// The worker's number, unique in the server's life.
    pub worker: u32,
    /// Its seats.
    pub seats: Range<u16>,
    /// Its generation.
    pub generation: u32,
    /// One lock for all its threads (GIL).
    pub one_lock: bool,
    /// Paired with this loop (same core).
    pub paired: bool,
}

/// A running seat not heard of for so long does not work off requests. The same patience as
/// that with a request that waits.
const SILENT_NS: u64 = 500_000;

/// The workers of the pool.
#[derive(Debug)]
pub(crate) struct Workers {
    loop_index: u16,
    workers: Vec<WorkerSeats>,
    /// By seat: when it was last woken or heard of.
    heard_at_ns: Vec<u64>,
    floor: u32,
    ceiling: u32,
    /// Where the search starts, so that no worker is always last.
    next: usize,
    /// Number of the worker woken last.
    last_woken: Option<u32>,
}

impl Workers {
    pub fn new(loop_index: u16) -> Workers {
        Workers {
            loop_index,
            workers: Vec::new(),
            heard_at_ns: Vec::new(),
            floor: 0,
            ceiling: 0,
            next: 0,
            last_woken: None,
        }
    }

    pub fn set_generations(&mut self, floor: u32, ceiling: u32) {
        (self.floor, self.ceiling) = (floor, ceiling);
    }

    pub fn join(&mut self, worker: WorkerSeats) {
        self.leave(worker.worker);
        self.workers.push(worker);
    }

    /// The worker that has this seat.
    pub fn worker_of(&self, seat: u16) -> Option<u32> {
        let worker = self.workers.iter().find(|worker| worker.seats.contains(&seat))?;
        Some(worker.worker)
    }

    pub fn leave(&mut self, worker: u32) -> Option<WorkerSeats> {
        let at = self.workers.iter().position(|known| known.worker == worker)?;
        Some(self.workers.remove(at))
    }

    /// A seat changed something about a request, or was woken: it works.
    pub fn hear(&mut self, seat: u16, now_ns: u64) {
        let at = usize::from(seat);
        if self.heard_at_ns.len() <= at {
            self.heard_at_ns.resize(at + 1, 0);
        }
        self.heard_at_ns[at] = now_ns;
    }

    /// Whether no seat of the worker works: each one is idle, waits within a request, or has been
    /// silent for so long that it most likely waits without the lock (a database, a sleep).
    fn is_free(&self, worker: &WorkerSeats, seats: SeatsView<'_>, now_ns: u64) -> bool {
        let heard = |seat: u16| self.heard_at_ns.get(usize::from(seat)).copied().unwrap_or(0);
        let is_silent = |seat| now_ns.saturating_sub(heard(seat)) >= SILENT_NS;
        worker.seats.clone().all(|seat| !runs(seat, seats) || is_silent(seat))
    }

    /// Wakes one seat by the rule. True: one was woken by this call.
    fn wake_one(&mut self, seats: SeatsView<'_>, wake: Wake, now_ns: u64) -> bool {
        let paired = self.candidates().find(|worker| worker.paired && is_at_rest(worker, seats));
        let found = paired
            .and_then(|worker| self.notify(worker, seats))
            .or_else(|| self.wake_where(seats, |worker| is_at_rest(worker, seats)))
            .or_else(|| match wake {
                Wake::Fresh => self.wake_where(seats, |worker| {
                    !worker.one_lock || self.is_free(worker, seats, now_ns)
                }),
                Wake::Waited => self
                    .wake_where(seats, |worker| Some(worker.worker) != self.last_woken)
                    .or_else(|| self.wake_where(seats, |_| true)),
            });
        if let Some((worker, seat)) = found {
            self.hear(seat, now_ns);
            self.last_woken = Some(worker);
            self.next = self.next.wrapping_add(1);
        }
        found.is_some()
    }

    /// Workers that may pull, from a start that moves.
    fn candidates(&self) -> impl Iterator<Item = &WorkerSeats> {
        let count = self.workers.len();
        let from = if count == 0 { 0 } else { self.next % count };
        let (before, after) = self.workers.split_at(from);
        after
            .iter()
            .chain(before)
            .filter(|worker| (self.floor..=self.ceiling).contains(&worker.generation))
    }

    /// Wakes a seat of the first worker that `accept` accepts and that has one asleep.
    fn wake_where(
        &self,
        seats: SeatsView<'_>,
        accept: impl Fn(&WorkerSeats) -> bool,
    ) -> Option<(u32, u16)> {
        self.candidates()
            .filter(|worker| accept(worker))
            .find_map(|worker| self.notify(worker, seats))
    }

    /// Wakes one idle seat of a worker: the one with this loop's number if it is paired (threads of
    /// an interpreter without one lock are paired seat by seat), else the first.
    fn notify(&self, worker: &WorkerSeats, seats: SeatsView<'_>) -> Option<(u32, u16)> {
        let own = worker.seats.start.saturating_add(self.loop_index);
        let first = (worker.paired && worker.seats.contains(&own)).then_some(own);
        first
            .into_iter()
            .chain(worker.seats.clone())
            .filter(|&seat| seats.idle().has(seat))
            .find(|&seat| seats.line(seat).notify(IDLE))
            .map(|seat| (worker.worker, seat))
    }
}

/// Whether no seat of the worker runs: each one is idle or waits within a request.
fn is_at_rest(worker: &WorkerSeats, seats: SeatsView<'_>) -> bool {
    worker.seats.clone().all(|seat| !runs(seat, seats))
}

/// Whether the seat neither sleeps for work nor waits within a request.
fn runs(seat: u16, seats: SeatsView<'_>) -> bool {
    use crate::seat_line::{AWAKE, NOTIFIED};
    !seats.idle().has(seat)
        && matches!(seats.line(seat).word.word().load(Ordering::Relaxed), AWAKE | NOTIFIED)
}

impl LoopEnd {
    /// Wakes one seat for work that was queued before the call, by the rule above. True: one was
    /// woken.
    #[inline]
    pub fn wake_one(&mut self, wake: Wake) -> bool {
        // Between the entry's publication and the look at who sleeps; a seat that goes to sleep has
        // a fence between the same two.
        fence(Ordering::SeqCst);
        let LoopEnd { workers, seats, .. } = self;
        workers.wake_one(seats.view(), wake, clock::monotonic_ns())
    }

    /// Seats of the pool that sleep for want of work, or are about to.
    pub fn idle_seats(&self) -> u32 {
        let words = self.seats.view().idle().words;
        // Relaxed: a count for people, of one moment or another.
        words.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// Notes that a seat changed something about a request (`progress` named it as its owner):
    /// while it is heard of, its worker needs no second thread.
    #[inline]
    pub fn hear(&mut self, seat: u16, now_ns: u64) {
        self.workers.hear(seat, now_ns);
    }

    /// Wakes every sleeping seat of the pool, whatever it waits for, so that it looks at the rules.
    pub(crate) fn wake_all(&self) {
        let seats = self.seats.view();
        for seat in 0..seats.seats as u16 {
            seats.line(seat).notify(IDLE);
        }
    }
}

#[cfg(test)]
mod tests;
