//! A turn of the loop: submit → reap → act.
//!
//! Where it stands in the walk of a request: the frame around every step.
//!
//! Invariants: see `mod.rs`. Seats are woken once, behind everything a turn queued; a queue that is
//! not empty is looked at again within [`QUEUE_PATIENCE`], since its workers may leave the bell
//! alone.

use std::time::Duration;

use ringhorn_exchange::Wake;

use super::EventLoop;
use super::accept::BACKLOG_QUIET;
use super::state::{Ahead, Mode, State};
use crate::connection::{Phase, Sending};
use crate::driver::{Completion, ConnectionIndex, Driver, Kind};
use crate::sys::{allocator, errno};

/// While a ready queue is not empty its loop never sleeps longer (docs/exchange.md, "Batching").
const QUEUE_PATIENCE: Duration = Duration::from_micros(500);

/// The same while no worker is READY: nobody claims, so nobody leaves a bell alone. The first one
/// may claim a moment before the supervisor says so; this is how long its replies may wait then.
const UNATTENDED_PATIENCE: Duration = Duration::from_millis(20);

/// How often idle slots are looked at for pages to give back.
const PAGES_STEP: Duration = Duration::from_secs(1);

/// How long before the end of that the loop's heap is given back too.
const HEAP_LEAD: Duration = Duration::from_secs(3);

/// How long after the last request that goes on: the exchange waits 10 s from its first look.
const PAGES_PATIENCE: Duration = Duration::from_secs(15);

/// How often a drain is looked at.
const DRAIN_STEP: Duration = Duration::from_millis(20);

impl<D: Driver> EventLoop<D> {
    /// Turns until the supervisor says quit.
    ///
    /// # Errors
    /// The driver broke.
    pub fn run(&mut self) -> std::io::Result<()> {
        while self.state.mode != Mode::Stopping {
            self.turn()?;
        }
        self.state.flush_reports();
        Ok(())
    }

    /// One turn.
    ///
    /// # Errors
    /// The driver broke.
    pub fn turn(&mut self) -> std::io::Result<()> {
        let wait = self.prepare_sleep();
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        self.driver.turn(wait, &mut completions)?;
        for pool in &mut self.state.pools {
            pool.end.awake();
        }
        self.state.now_ns = (self.clock)();
        self.state.counters.turns.add(1);
        for completion in &completions {
            self.on_completion(*completion);
            self.carry_out();
        }
        self.completions = completions;
        self.act();
        Ok(())
    }

    /// Everything of a turn that is not a completion.
    fn act(&mut self) {
        for pool in 0..self.state.pools.len() {
            self.state.sweep(pool);
        }
        if std::mem::take(&mut self.is_fresh) {
            // What was rung for before the bell was watched.
            self.take_commands();
        }
        self.expire();
        // Bounded by what is ready now: what these requests leave behind waits for the next turn.
        for _ in 0..self.state.ready.len() {
            if let Some(index) = self.state.ready.pop_front() {
                self.state.serve_stash(index);
            }
        }
        if !self.state.stalled.is_empty() {
            self.state.take_up_stalled();
        }
        self.carry_out();
        if !self.state.starving.is_empty() {
            self.state.feed_starving(self.driver.buffers_free());
        }
        self.give_back_pages();
        self.step_drain();
        self.carry_out();
        self.arm_accepts();
        if self.state.flush_reports()
            && let Err(error) = self.reports_bell.ring()
        {
            tracing::error!(%error, "cannot ring the supervisor's bell");
        }
    }

    /// Gives back memory that a burst grew: once a second, until the slots have been idle long
    /// enough.
    fn give_back_pages(&mut self) {
        let state = &mut self.state;
        if state.counters.requests.read() != self.requests_seen {
            self.requests_seen = state.counters.requests.read();
            self.pages_until_ns = state.now_ns + PAGES_PATIENCE.as_nanos() as u64;
        }
        if state.now_ns < self.pages_next_ns || state.now_ns >= self.pages_until_ns {
            return;
        }
        self.pages_next_ns = state.now_ns + PAGES_STEP.as_nanos() as u64;
        for pool in state.pools.iter_mut().filter(|pool| !pool.is_condemned) {
            pool.end.give_back_pages(state.now_ns);
        }
        // Nothing came for a while: the heap of the burst is free by now.
        let left_ns = self.pages_until_ns - state.now_ns;
        if left_ns <= HEAP_LEAD.as_nanos() as u64 {
            allocator::give_back();
        }
    }

    fn expire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.clear();
        self.state.wheel.advance(&mut self.state.table, self.state.now_ns, &mut due);
        for index in &due {
            self.state.on_deadline(*index);
        }
        self.due = due;
        self.state.expire_orphans();
    }

    /// Wakes seats for what was queued and decides how long the driver may wait.
    pub(super) fn prepare_sleep(&mut self) -> Option<Duration> {
        let ahead = Ahead {
            has_more: self.driver.has_more(),
            has_unsubmitted: self.driver.has_unsubmitted(),
        };
        let state = &mut self.state;
        let mut wait = state.wheel.sleep(state.now_ns);
        let mut at_most = |bound: Duration| wait = Some(wait.map_or(bound, |w| w.min(bound)));
        if !state.ready.is_empty() || !state.unsent_reports.is_empty() {
            at_most(Duration::ZERO);
        }
        if state.mode == Mode::Draining || !state.stalled.is_empty() {
            at_most(DRAIN_STEP);
        }
        if let Some(ends_ns) =
            self.pause_ends_ns.take_if(|ends| *ends <= state.now_ns).or(self.pause_ends_ns)
        {
            at_most(Duration::from_nanos(ends_ns.saturating_sub(state.now_ns)));
        }
        if state.now_ns < self.pages_until_ns {
            at_most(PAGES_STEP);
        }
        if let Some(bound) = state.orphans.sleep(state.now_ns) {
            at_most(bound);
        }
        for pool in 0..state.pools.len() {
            if let Some(bound) = state.prepare_pool_sleep(pool, ahead) {
                at_most(bound);
            }
        }
        wait
    }

    fn on_completion(&mut self, completion: Completion) {
        if completion.kind == Kind::Bell {
            // Before what came behind it: a client may have been told by now what is commanded.
            self.take_commands();
            return;
        }
        if self.state.table.find(completion.token).is_none() {
            self.state.counters.stale_completions.add(1);
            if let Some(buffer) = completion.buffer {
                self.driver.recycle(buffer);
            }
            return;
        }
        let index = completion.token.connection;
        match completion.kind {
            Kind::Accepted => self.on_accepted(completion),
            Kind::Received => self.on_received(index, completion),
            Kind::Sent => self.state.on_sent(index, completion.result),
            Kind::Closed => {
                if self.state.table[index].sending == Sending::Ring {
                    self.state.table[index].sending = Sending::Nothing;
                    self.state.on_closed_behind(index, completion.result);
                }
                self.state.on_closed(index);
            }
            Kind::FileDone => {
                self.state.table[index].spooling = false;
                self.state.on_spooled(index, completion.result);
            }
            Kind::ShutDown => {
                self.state.table[index].shutting_down = false;
                self.state.step_close(index);
            }
            Kind::Bell | Kind::Cancelled => {}
        }
    }

    fn on_received(&mut self, index: ConnectionIndex, completion: Completion) {
        let connection = &mut self.state.table[index];
        connection.receiving = false;
        let into_body = std::mem::take(&mut connection.receiving_body);
        if connection.phase == Phase::Accept {
            // The receive of an accept that failed: the number is free once both ended.
            if connection.gone {
                self.state.on_closed(index);
            }
            return;
        }
        if into_body && completion.result <= 0 && self.state.is_body_unwanted(index) {
            self.state.drop_body(index);
        }
        match completion.result {
            0 => self.state.on_end_of_input(index),
            bytes if bytes > 0 && into_body => self.on_received_body(index, bytes as usize),
            bytes if bytes > 0 => {
                let Some(buffer) = completion.buffer else { return };
                let received = self.driver.buffer(buffer, bytes as usize);
                self.state.on_bytes(index, received);
                self.driver.recycle(buffer);
            }
            error => match -error {
                // A cancel that came late for a receive without a buffer: it ended either way.
                errno::ENOBUFS if self.state.table[index].is_closing() => {
                    self.state.on_cancelled(index);
                }
                errno::ENOBUFS => {
                    self.state.counters.buffers_dry.add(1);
                    if self.state.keep_from_idle_close(index) {
                        self.state.set_deadline(index, BACKLOG_QUIET);
                    }
                    self.state.starving.push_back(index);
                }
                errno::ECANCELED => self.state.on_cancelled(index),
                _ => self.state.on_reset(index),
            },
        }
    }
}

impl State {
    /// A send ended.
    fn on_sent(&mut self, index: ConnectionIndex, result: i32) {
        let connection = &mut self.table[index];
        let from = std::mem::replace(&mut connection.sending, Sending::Nothing);
        match from {
            Sending::Ring | Sending::Buffer => self.on_reply_sent(index, from, result),
            Sending::Continue if connection.phase == Phase::OwnReply => {
                self.intend(index, crate::connection::Intent::SendOwn(Sending::Own));
            }
            Sending::Continue if connection.phase == Phase::Close => self.step_close(index),
            Sending::Continue if result < 0 => self.on_reset(index),
            // The reply may be there already.
            Sending::Continue => self.pump(index),
            Sending::Own if connection.phase == Phase::OwnReply => self.on_own_sent(index, result),
            Sending::Own | Sending::Nothing => self.step_close(index),
        }
    }

    /// Wakes seats of a pool if need be; returns how long the loop may sleep for its sake.
    fn prepare_pool_sleep(&mut self, pool: usize, ahead: Ahead) -> Option<Duration> {
        let now_ns = self.now_ns;
        let place = self.pools.get_mut(pool).filter(|place| !place.is_condemned)?;
        if place.fresh_work.is_gathering(ahead) {
            return Some(Duration::ZERO);
        }
        // First the queue, then the bitmap: a seat that left its bell alone did so before the queue
        // was seen empty, and its news is then seen in the bitmap.
        let sleeps = place.wake_seats().and_then(|woken| {
            self.counters.seats_woken.add(woken.into());
            let is_empty = place.end.queue_is_empty()?;
            if !is_empty {
                let patience_ns = QUEUE_PATIENCE.as_nanos() as u64;
                let waited_ns =
                    now_ns.saturating_sub(place.end.oldest_queued_ns().unwrap_or(now_ns));
                let quiet_ns = now_ns.saturating_sub(place.woken_at_ns);
                if waited_ns >= patience_ns && quiet_ns >= patience_ns {
                    place.woken_at_ns = now_ns;
                    let is_woken = place.end.wake_one(Wake::Waited);
                    self.counters.seats_woken.add(is_woken.into());
                }
            }
            Ok((is_empty, place.end.prepare_sleep()?))
        });
        match sleeps {
            Ok((_, false)) => Some(Duration::ZERO),
            Ok((true, true)) => None,
            Ok((false, true)) if self.readiness.workers == 0 => Some(UNATTENDED_PATIENCE),
            Ok((false, true)) => Some(QUEUE_PATIENCE),
            Err(impossible) => {
                self.report_impossible(pool as u8, impossible);
                Some(Duration::ZERO)
            }
        }
    }
}
