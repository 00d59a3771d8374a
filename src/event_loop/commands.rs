//! What the supervisor asks of the loop, and the end of a worker.
//!
//! Where it stands in the walk of a request: beside it, at the end of a turn.
//!
//! Invariants:
//! - A worker's death is acknowledged only after everything it finished was sent on its way and
//!   everything it ran was answered for: then its seats' numbers may be used again.
//! - Reports that someone waits for are kept until the channel takes them; log records are not.

use std::time::Duration;

use super::EventLoop;
use super::messages::{Command, Load, Lost, Report};
use super::state::{Mode, Pool, State};
use crate::connection::{Phase, Sending};
use crate::driver::{ConnectionIndex, Driver};
use crate::http::Rejection;
use ringhorn_exchange::LoopEnd;

/// How long what is said at a drain's end may take to leave. By taste: half of what the supervisor
/// waits for it (`supervisor/serve.rs`, `DRAIN_GRACE`).
const LAST_WORDS: Duration = Duration::from_millis(500);

impl<D: Driver> EventLoop<D> {
    /// Carries out what the supervisor asked since the last turn.
    pub(super) fn take_commands(&mut self) {
        while let Ok(command) = self.state.commands.try_recv() {
            match command {
                Command::OpenAccepts => {
                    if self.state.mode == Mode::Closed {
                        self.state.mode = Mode::Open;
                    }
                }
                Command::Readiness(readiness) => self.state.readiness = readiness,
                Command::WorkerJoined { pool, seats } => {
                    self.state.pools[usize::from(pool)].end.worker_joined(seats);
                }
                Command::WorkerDied { pool, worker } => self.state.on_worker_died(pool, worker),
                Command::Generations { pool, floor, ceiling } => {
                    self.state.pools[usize::from(pool)].end.set_generations(floor, ceiling);
                }
                Command::Measure { pool } => self.state.measure(usize::from(pool)),
                Command::ReplacePool { pool, end } => self.state.replace_pool(pool, *end),
                Command::LookAtBacklog => self.look_at_backlog(),
                Command::LeaveBacklog => self.leaves_backlog = true,
                Command::Drain { within } => self.begin_drain(within),
                Command::Quit => self.state.mode = Mode::Stopping,
            }
        }
    }

    fn begin_drain(&mut self, within: Duration) {
        if self.state.is_draining() {
            return;
        }
        self.state.mode = Mode::Draining;
        self.drain_began_ns = self.state.now_ns;
        self.drain_ends_ns = self.state.now_ns.saturating_add(within.as_nanos() as u64);
        for pool in &mut self.state.pools {
            pool.end.set_closing(true);
        }
    }

    /// Goes on with a drain: the backlog first, then what is idle, then what is still busy at the
    /// end.
    pub(super) fn step_drain(&mut self) {
        if self.state.mode != Mode::Draining || !self.is_backlog_dry() {
            return;
        }
        self.disarm_accepts();
        self.remove_listeners();
        if !self.has_heard_newcomers() {
            return;
        }
        let (now_ns, ends_ns) = (self.state.now_ns, self.drain_ends_ns);
        if !self.has_closed_idle {
            self.has_closed_idle = true;
            self.state.close_idle_for_drain();
        }
        if !self.has_refused_rest && now_ns >= ends_ns {
            self.has_refused_rest = true;
            self.state.refuse_for_drain();
        }
        if now_ns >= ends_ns.saturating_add(LAST_WORDS.as_nanos() as u64) {
            self.state.cut_for_drain();
        }
        if self.state.table.open() == 0 && !self.has_drained {
            self.has_drained = true;
            let event_loop = self.state.index;
            self.state.report_surely(Report::Drained { event_loop });
        }
    }
}

impl State {
    fn close_idle_for_drain(&mut self) {
        for index in self.table.in_use() {
            if self.is_idle(index) {
                self.close_idle(index);
            }
        }
    }

    fn is_idle(&self, index: ConnectionIndex) -> bool {
        self.table[index].phase == Phase::Head && self.table[index].stashed() == 0
    }

    /// The drain's time is over: whoever waits for an answer of which nothing went out yet gets one
    /// of the server's own, and whoever reads one is cut.
    fn refuse_for_drain(&mut self) {
        for index in self.table.in_use() {
            match self.table[index].phase {
                Phase::Head if self.is_idle(index) => self.close_idle(index),
                Phase::Head | Phase::Body => self.refuse(index, STOPPING),
                Phase::Reply if self.has_sent_nothing(index) => {
                    let is_queued = self.is_queued(index);
                    self.refuse(index, if is_queued { STOPPING } else { TOO_LATE });
                }
                Phase::Reply => self.cut(index),
                Phase::OwnReply | Phase::Drain => {}
                Phase::Accept | Phase::Close | Phase::Free => {}
            }
        }
    }

    fn has_sent_nothing(&self, index: ConnectionIndex) -> bool {
        let connection = &self.table[index];
        connection.reply.sent_bytes == 0
            && matches!(connection.sending, Sending::Nothing | Sending::Continue)
    }

    fn cut_for_drain(&mut self) {
        for index in self.table.in_use() {
            match self.table[index].phase {
                Phase::Head | Phase::Body | Phase::Reply | Phase::OwnReply | Phase::Drain => {
                    self.cut(index);
                }
                Phase::Accept | Phase::Close | Phase::Free => {}
            }
        }
    }

    fn cut(&mut self, index: ConnectionIndex) {
        self.table[index].linger = false;
        self.give_up(index, "graceful-timeout");
    }

    /// Reports how much a pool has to do. Looks at every request in it: asked for now and then.
    fn measure(&mut self, place: usize) {
        let mut load = Load::default();
        let owners = std::mem::take(&mut self.pools[place].owners);
        for (slot, owner) in owners.iter().enumerate() {
            let Some((index, generation)) = *owner else { continue };
            let connection = &self.table[index];
            if connection.generation != generation || connection.ticket.is_none() {
                continue;
            }
            let queued_ns = connection.queued_ns;
            match self.pools[place].end.progress(slot as u32) {
                Ok(progress) if progress.claimed_by.is_none() => {
                    load.queued += 1;
                    let wait = Duration::from_nanos(self.now_ns.saturating_sub(queued_ns));
                    load.longest_wait = load.longest_wait.max(wait);
                }
                Ok(_) => load.running += 1,
                // Found again, and reported, by whoever serves that request.
                Err(_) => {}
            }
        }
        self.pools[place].owners = owners;
        let event_loop = self.index;
        self.report_surely(Report::Measured { event_loop, load });
    }

    /// Answers for what a dead worker ran, behind what it had finished.
    fn on_worker_died(&mut self, pool: u8, worker: u32) {
        let place = usize::from(pool);
        self.sweep(place);
        let mut owned = Vec::new();
        let died = self.pools[place].end.worker_died(worker, &mut owned);
        // Replies that were whole before the death are news now.
        self.sweep(place);
        let mut lost = Lost::default();
        for slot in owned {
            let owner = self.pools[place].owners.get(slot as usize).copied().flatten();
            let Some((index, generation)) = owner else { continue };
            if self.table[index].generation == generation {
                lost = lost.and(self.answer_for_dead(index));
            }
        }
        if let Err(impossible) = died {
            self.report_impossible(pool, impossible);
        }
        let event_loop = self.index;
        self.report_surely(Report::DeathAcknowledged { event_loop, pool, worker, lost });
    }

    /// The pool's shared words cannot be true: its requests are answered for, and nothing more is
    /// asked of it until the supervisor replaced its segments.
    pub fn condemn(&mut self, pool: u8, why: &'static str) {
        let place = usize::from(pool);
        if self.pools[place].is_condemned {
            return;
        }
        self.pools[place].is_condemned = true;
        let event_loop = self.index;
        self.report_surely(Report::PoolCondemned { event_loop, pool, why });
        self.answer_for_all(place);
    }

    /// Answers for every request of a pool whose books are closed: nothing is asked of its slots
    /// any more.
    fn answer_for_all(&mut self, place: usize) {
        let owners = std::mem::take(&mut self.pools[place].owners);
        for (index, generation) in owners.into_iter().flatten() {
            if self.table[index].generation == generation {
                self.table[index].ticket = None;
                self.inflight -= 1;
                self.answer_for_dead(index);
            }
        }
    }

    /// A condemned pool's new segments.
    fn replace_pool(&mut self, pool: u8, end: LoopEnd) {
        let place = usize::from(pool);
        // Another loop may have condemned it, while requests still wait in this one's queue.
        self.answer_for_all(place);
        let incarnation = self.pools[place].incarnation + 1;
        let old = std::mem::replace(&mut self.pools[place], Pool::new(end, incarnation));
        // The kernel may still read the old rings: they are unmapped when nothing is in flight.
        if old.kernel_holds > 0 {
            self.retired_pools.push(old);
        }
        if self.is_draining() {
            self.pools[usize::from(pool)].end.set_closing(true);
        }
    }

    /// Takes the news of a pool and acts on it.
    pub fn sweep(&mut self, pool: usize) {
        if self.pools[pool].is_condemned {
            return;
        }
        let mut news = std::mem::take(&mut self.news);
        news.clear();
        self.pools[pool].end.sweep(&mut news);
        for slot in &news {
            self.on_news(pool, *slot);
        }
        self.news = news;
    }

    /// Reports something that someone waits for: kept until the channel takes it.
    pub fn report_surely(&mut self, report: Report) {
        self.unsent_reports.push_back(report);
    }

    /// Sends what [`report_surely`](State::report_surely) kept; returns whether anything went.
    pub fn flush_reports(&mut self) -> bool {
        let mut any = false;
        while let Some(report) = self.unsent_reports.pop_front() {
            if let Err(error) = self.reports.try_send(report) {
                self.unsent_reports.push_front(error.into_inner());
                break;
            }
            any = true;
        }
        any
    }

    /// Tells the operator something, at most [`INCIDENTS_PER_SECOND`] times a second.
    pub fn incident(&mut self, text: String) {
        let second = self.now_ns / 1_000_000_000;
        if self.incident_second != second {
            self.incident_second = second;
            self.incidents_this_second = 0;
        }
        self.incidents_this_second += 1;
        if self.incidents_this_second <= INCIDENTS_PER_SECOND {
            let event_loop = self.index;
            self.report_surely(Report::Incident { event_loop, text });
        }
    }
}

/// Lines of one loop a second in the server's log about clients' and listeners' faults.
const INCIDENTS_PER_SECOND: u32 = 10;

const STOPPING: Rejection = Rejection { status: 503, reason: "the server is stopping" };
const TOO_LATE: Rejection =
    Rejection { status: 504, reason: "the request did not finish within --graceful-timeout" };
