//! The end of a worker, and of all of them: loops are told, its place is filled again, and its
//! seats are given out once every loop acknowledged.
//!
//! Beside the walk of a request: what the dead ran is answered for by the loops
//! (`event_loop/commands.rs`).
//!
//! Invariants: a death is told to every loop once; the seats of the dead stay taken until the last
//! one acknowledged. A condemned pool starts nobody before its memory was replaced.

use std::ops::Range;
use std::process::ExitStatus;
use std::time::Instant;

use super::crashes::outlook;
use super::fault::{ExitCode, Fault};
use super::loops::Loops;
use super::places::Place;
use super::pool::{FIRST_ALONE, POOL, Pool, RETRY};
use super::preload::Ending;
use super::recycling::Why;
use super::verdict::{end_of, never_ready};
use super::worker::{Phase, Worker};
use crate::event_loop::{Command, Lost};

/// Ended workers whose numbers are still translated to process ids, for late access records.
const REMEMBERED: usize = 1024;

/// A death that some loop did not acknowledge yet.
#[derive(Debug)]
pub(super) struct Death {
    seats: Range<u16>,
    /// Bit i: loop i has yet to acknowledge.
    unacknowledged: u64,
    /// What it cost in the loops that have.
    lost: Lost,
}

impl Pool<'_> {
    /// A child ended: if it was a worker, loops are told and a replacement becomes due.
    ///
    /// # Errors
    /// No worker ever was READY: the server ends with what this one said. Or a loop is broken.
    pub fn ended(
        &mut self,
        pid: u32,
        status: ExitStatus,
        loops: Option<&Loops>,
        is_stopping: bool,
    ) -> Result<(), Fault> {
        if self.fork_server_ended(pid, status, loops, is_stopping)? {
            return Ok(());
        }
        let mut workers = self.workers.values();
        let Some(number) = workers.find(|worker| worker.pid == pid).map(|worker| worker.number)
        else {
            tracing::debug!("reaped process {pid}: {status}");
            return Ok(());
        };
        self.worker_ended(number, Ending::Status(status), loops, is_stopping)
    }

    /// A worker ended, whoever's child it was.
    ///
    /// # Errors
    /// See [`ended`](Pool::ended).
    pub(super) fn worker_ended(
        &mut self,
        number: u32,
        status: Ending,
        loops: Option<&Loops>,
        is_stopping: bool,
    ) -> Result<(), Fault> {
        let Some(mut worker) = self.workers.remove(&number) else { return Ok(()) };
        let pid = worker.pid;
        // Its last words may still be in the socket: its end and theirs come by different ways.
        worker.hear_out();
        if !matches!(status, Ending::Status(_)) {
            // If it was forked after all, or lives, it ends by this.
            worker.stop(false);
        }
        self.remember(&worker);
        self.tell_of_death(&worker, loops)?;
        if is_stopping {
            tracing::debug!("worker {number} (pid {pid}) ended: {status}");
            return Ok(());
        }
        // Told to leave at the start already, by TTOU or WINCH: no crash.
        if !self.was_ever_ready && worker.leaves_until.is_none() {
            if !matches!(status, Ending::NotForked) {
                let fault = never_ready(&self.recipe, &worker, status);
                self.crashes.at_start(&worker, status, fault)?;
            }
            self.start_again(&worker);
            return Ok(());
        }
        self.note_end(&worker, status);
        if self.cannot_attach(&worker) {
            self.condemn("a worker cannot attach to it");
        }
        self.settle(loops)
    }

    /// The worker crashed before any was READY: it is tried again, by itself at first.
    fn start_again(&mut self, worker: &Worker) {
        let due = Instant::now() + self.back_off.after_death(None).max(RETRY);
        for place in self.places.iter_mut().filter(|place| place.due.is_some()) {
            place.due = place.due.max(Some(due + FIRST_ALONE));
        }
        let held = |place: &&mut Place| place.holder == Some(worker.number);
        if let Some(place) = self.places.iter_mut().find(held) {
            (place.holder, place.due) = (None, Some(due));
        }
    }

    /// What the end of a worker means for its place.
    fn note_end(&mut self, worker: &Worker, status: Ending) {
        let (number, pid) = (worker.number, worker.pid);
        let what = end_of(worker, status);
        let holds = |place: &Place| place.holder == Some(number);
        let succeeds = |place: &Place| place.successor == Some(number);
        if let Some(at) = self.places.iter().position(succeeds) {
            tracing::error!("worker {number} (pid {pid}) ended before it was ready: {what}");
            self.crashes.advise(worker, status);
            let wait = self.back_off.after_death(None).max(RETRY);
            self.successor_died(at, worker, never_ready(&self.recipe, worker, status), wait);
        } else if let Some(at) = self.places.iter().position(holds) {
            if worker.leaves_until.is_some() {
                // A request of it hung: told to leave before its successor is READY. No crash.
                tracing::info!("worker {number} (pid {pid}) left: {what}");
                return self.vacate(at, Instant::now());
            }
            let served = match &worker.phase {
                Phase::Ready(since) => Some(since.elapsed()),
                _ => None,
            };
            let wait = self.back_off.after_death(served);
            let next = match self.places[at].successor {
                Some(_) => "its successor starts".to_owned(),
                None => outlook(wait, self.back_off.young_deaths()),
            };
            tracing::error!("worker {number} (pid {pid}) ended: {what}; {next}");
            self.crashes.advise(worker, status);
            self.vacate(at, Instant::now() + wait);
        } else {
            tracing::info!("worker {number} (pid {pid}) left: {what}");
        }
    }

    /// Nobody holds a place any more: who boots to follow does, or the next one starts then.
    fn vacate(&mut self, at: usize, due: Instant) {
        let place = &mut self.places[at];
        place.holder = None;
        if place.successor.is_some() {
            return;
        }
        // It is what was to happen, in a reload's case by a worker of the new generation.
        if self.renewal.is_some() && place.replace == Some(Why::Reload) {
            place.not_before = Some(due);
        } else {
            place.replace = None;
            place.due = Some(due);
        }
    }

    /// Whether the segments are spoilt where only attaching workers look: this one could not boot
    /// with what others booted with. While any serves, its requests are worth more than this one's
    /// place.
    fn cannot_attach(&self, worker: &Worker) -> bool {
        let Phase::Failing(failed) = &worker.phase else { return false };
        let serves = |worker: &Worker| matches!(worker.phase, Phase::Ready(_));
        worker.was_announced
            && failed.exit_code == ExitCode::Worker as i32
            && !self.workers.values().any(serves)
    }

    fn remember(&mut self, worker: &Worker) {
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((worker.number, worker.pid));
    }

    fn tell_of_death(&mut self, worker: &Worker, loops: Option<&Loops>) -> Result<(), Fault> {
        let number = worker.number;
        let Some(loops) = loops.filter(|_| worker.was_announced) else {
            self.blocks.give_back(&worker.seats);
            return Ok(());
        };
        let unacknowledged = u64::MAX >> (64 - u32::from(loops.count()));
        self.deaths.insert(
            number,
            Death { seats: worker.seats.clone(), unacknowledged, lost: Lost::default() },
        );
        loops.command(|_| Command::WorkerDied { pool: POOL, worker: number })
    }

    /// A loop acknowledged a death, and says what it cost there.
    pub fn acknowledged(&mut self, event_loop: u16, number: u32, lost: Lost) {
        let Some(death) = self.deaths.get_mut(&number) else { return };
        death.unacknowledged &= !(1u64 << event_loop);
        death.lost = death.lost.and(lost);
        if death.unacknowledged > 0 {
            return;
        }
        let lost = death.lost;
        self.blocks.give_back(&death.seats);
        self.deaths.remove(&number);
        if lost.requests() > 0 {
            let Lost { answered, cut } = lost;
            let (requests, pid) = (lost.requests(), self.pid_of(number));
            tracing::error!(
                "requests lost by worker {number} (pid {pid}): {requests} \
                 ({answered} answered with 502, {cut} cut)"
            );
        }
    }

    /// A seat stated something impossible: its worker is killed.
    pub fn kill_seat(&self, seat: u16, why: &str) {
        let worker = self.workers.values().find(|worker| worker.seats.contains(&seat));
        if let Some(worker) = worker {
            let (number, pid) = (worker.number, worker.pid);
            tracing::error!("worker {number} (pid {pid}) is killed: seat {seat} stated {why}");
            worker.kill();
        }
    }

    /// What all workers share cannot be true: they are killed, and nobody is started until the
    /// segments are replaced. Returns whether they can be now.
    pub fn condemn(&mut self, why: &str) -> bool {
        if !self.is_condemned {
            tracing::error!("all workers are killed and their shared memory is replaced: {why}");
            self.is_condemned = true;
            self.workers.values().for_each(Worker::kill);
        }
        self.is_replaceable()
    }

    /// Whether a condemned pool's workers are dead and every loop knows.
    pub fn is_replaceable(&self) -> bool {
        self.is_condemned && self.workers.is_empty() && self.deaths.is_empty()
    }
}
