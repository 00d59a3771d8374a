//! The supervisor's loop: one task that owns all state, takes one event after the other, and acts.
//!
//! Beside the walk of a request: it opens the accepts once the first worker is READY, replaces
//! workers, writes what loops report, and ends the server.
//!
//! Invariants: nothing here waits for a worker, a client or a file; every wait is an event or a
//! moment in [`Supervisor::next_due`]. Stages of a stop only go forward.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::access_log::AccessLog;
use super::error_log;
use super::events::{Event, Events, Signal};
use super::fault::{ExitCode, Fault, dead_loop};
use super::heartbeat::Heartbeat;
use super::hooks::{Hook, Hooks};
use super::listeners::Listeners;
use super::loops::Loops;
use super::memory::PoolMemory;
use super::pool::{POOL, Pool, Turn};
use super::scaling::Scaling;
use super::standing::{Standing, Turned};
use crate::config::{Concurrency, Config, LoopSettings};
use crate::control::socket::ControlSocket;
use crate::control::{Reply, Request};
use crate::event_loop::{Command, Readiness, Report};
use crate::log::AccessRecord;
use crate::sys::eventfd::EventFd;
use crate::sys::process;

/// Loops cut what is not finished when the graceful time is over; they may take this long to say
/// so.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// How long workers may take to end, at least: `atexit` handlers and `finally` blocks run.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How often access records are fetched while there are some: a loop's channel then holds what
/// 200,000 requests a second leave in between…
const FETCH_SOON: Duration = Duration::from_millis(20);
/// …and while there are none.
const FETCH_LATER: Duration = Duration::from_millis(60);

/// See the module.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// What was configured.
    pub config: &'a Config,
    /// What loops were told.
    pub settings: &'a LoopSettings,
    /// How many of each.
    pub concurrency: Concurrency,
    /// The event loops.
    pub loops: Loops,
    /// Bells of the loops, by number.
    pub bells: Vec<EventFd>,
    /// What is listened on.
    pub listeners: Listeners,
    /// The workers.
    pub pool: Pool<'a>,
    /// The access log, if there is one.
    pub access_log: Option<AccessLog>,
    /// Where tasks tell events.
    pub events: Events,
    /// Follows the load with the number of workers.
    pub scaling: Scaling,
    /// The control socket, if there is one; its file is removed with it.
    pub control: Option<ControlSocket>,
    /// Hooks of the server.
    pub hooks: Hooks<'a>,
    /// Pid file, title, systemd, and the servers before and after this one.
    pub standing: Standing<'a>,
}

/// Where the server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It serves, or will once a worker is READY.
    Serving,
    /// The end was asked for: readiness is false, everything is served on until then.
    Delaying { until: Instant },
    /// Loops finish what is in flight; after the moment they are not waited for.
    Draining { loops_left: u64, until: Instant },
    /// Workers end; after the moment they are killed.
    Stopping { until: Instant },
    /// Workers were killed.
    Killing,
}

impl Stage {
    /// New clients are served.
    fn serves(self) -> bool {
        matches!(self, Stage::Serving | Stage::Delaying { .. })
    }

    fn word(self) -> &'static str {
        match self {
            Stage::Serving => "serving",
            Stage::Delaying { .. } => "about to stop",
            Stage::Draining { .. } => "draining",
            Stage::Stopping { .. } | Stage::Killing => "stopping",
        }
    }
}

/// What changes from event to event, beside the supervisor's parts.
#[derive(Debug)]
struct Course {
    stage: Stage,
    fetch_at: Option<Instant>,
    reports_dropped: u64,
    drain_began: Option<Instant>,
    /// What loops were told last.
    readiness: Readiness,
    heartbeat: Heartbeat,
}

impl Course {
    /// Workers are told to end, or were killed.
    fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. } | Stage::Killing)
    }
}

impl Supervisor<'_> {
    /// Serves until a signal or a fault ends it.
    ///
    /// # Errors
    /// Why it cannot go on. Workers and loops have ended in either case.
    pub async fn serve(mut self, mut queue: UnboundedReceiver<Event>) -> Result<(), Fault> {
        let mut course = Course {
            stage: Stage::Serving,
            fetch_at: self.access_log.as_ref().map(|_| Instant::now() + FETCH_LATER),
            reports_dropped: 0,
            drain_began: None,
            readiness: Readiness::default(),
            heartbeat: Heartbeat::new(self.loops.count(), Instant::now()),
        };
        let mut end = Ok(());
        loop {
            let done = self.turn(&mut course, &mut queue).await;
            match done {
                Ok(false) => {}
                Ok(true) => break,
                Err(fault) if end.is_ok() => {
                    end = Err(fault);
                    self.stop_workers(&mut course, false);
                }
                // Already ending for the first fault; a second adds nothing.
                Err(_) => self.pool.kill_all(),
            }
            if end.is_err() && self.pool.is_empty() {
                break;
            }
        }
        let last = self.fetch_reports(&mut course);
        self.loops.quit();
        let generation = self.pool.generations().ceiling;
        match &end {
            // A server that is broken waits for nobody.
            Err(fault) if fault.code == ExitCode::Runtime => self.hooks.kill_all(),
            _ => self.hooks.finish(generation, &mut queue).await,
        }
        if let Some(log) = &self.access_log {
            log.finish().await;
        }
        end.and(last)
    }

    /// Waits for an event or a moment, and acts. Returns whether the server has ended.
    async fn turn(
        &mut self,
        course: &mut Course,
        queue: &mut UnboundedReceiver<Event>,
    ) -> Result<bool, Fault> {
        let event = match self.next_due(course) {
            Some(due) => tokio::time::timeout_at(due.into(), queue.recv()).await.ok().flatten(),
            None => queue.recv().await,
        };
        if let Some(event) = event {
            self.act(course, event)?;
        }
        let now = Instant::now();
        if course.fetch_at.is_some_and(|at| at <= now) {
            self.fetch_reports(course)?;
        }
        if !course.is_stopping() {
            self.loops.beat(&mut course.heartbeat, now)?;
        }
        if self.needs_workers(course) {
            self.pool.tend(now, &self.events);
        }
        if course.stage.serves() {
            self.scaling.step(now, &self.loops, &mut self.pool)?;
        }
        self.standing.follow(self.pool.is_reloading(), self.pool.generations().ceiling);
        self.standing.tend(now, &self.loops)?;
        self.advance(course, now)?;
        self.tell_readiness(course)?;
        Ok(course.is_stopping() && self.pool.is_empty())
    }

    /// Tells loops how ready the server is, when that changed.
    fn tell_readiness(&self, course: &mut Course) -> Result<(), Fault> {
        let is_stopping = course.stage != Stage::Serving;
        let readiness = Readiness { workers: self.pool.ready_workers(), is_stopping };
        if readiness == course.readiness {
            return Ok(());
        }
        course.readiness = readiness;
        self.loops.command(|_| Command::Readiness(readiness))
    }

    fn next_due(&self, course: &Course) -> Option<Instant> {
        let pool = self.needs_workers(course).then(|| self.pool.next_due()).flatten();
        let stage = match course.stage {
            Stage::Serving | Stage::Killing => None,
            Stage::Delaying { until }
            | Stage::Draining { until, .. }
            | Stage::Stopping { until } => Some(until),
        };
        let scaling = course.stage.serves().then(|| self.scaling.next_due()).flatten();
        let beat = (!course.is_stopping()).then(|| course.heartbeat.next_due());
        let standing = self.standing.next_due();
        [pool, stage, course.fetch_at, scaling, beat, standing].into_iter().flatten().min()
    }

    fn act(&mut self, course: &mut Course, event: Event) -> Result<(), Fault> {
        match event {
            Event::Signal(signal) => self.handle(signal, course),
            Event::Said { worker, message } => {
                match self.pool.said(worker, message, Some(&self.loops))? {
                    Turn::FirstReady if course.stage == Stage::Serving => self.open(course),
                    Turn::Changed(path) => {
                        self.reload(course, &format!("{path} changed"), None);
                        Ok(())
                    }
                    Turn::FirstReady | Turn::None => Ok(()),
                }
            }
            Event::Garbled { worker, error } => {
                self.pool.garbled(worker, &error);
                Ok(())
            }
            Event::ForkServerSaid { fork_server, message, descriptors } => {
                let is_stopping = !self.needs_workers(course);
                let loops = Some(&self.loops);
                let pool = &mut self.pool;
                pool.fork_server_said(fork_server, message, descriptors, loops, is_stopping)?;
                self.replace_memory(course)
            }
            Event::ForkServerGarbled { fork_server, error } => {
                self.pool.fork_server_garbled(fork_server, &error);
                Ok(())
            }
            Event::NotForked { worker } => {
                let is_stopping = !self.needs_workers(course);
                self.pool.not_forked(worker, Some(&self.loops), is_stopping)?;
                self.replace_memory(course)
            }
            Event::WorkerGone { worker } => {
                let is_stopping = !self.needs_workers(course);
                self.pool.worker_gone(worker, Some(&self.loops), is_stopping)?;
                self.replace_memory(course)
            }
            Event::ChildEnded => self.reap(course),
            Event::Reported => self.fetch_reports(course),
            Event::Asked(request, reply) => {
                self.answer(course, request, reply);
                Ok(())
            }
            Event::Touched(path) => {
                self.reload(course, &format!("{} was touched", path.display()), None);
                Ok(())
            }
            Event::Told { by, word } => match self.standing.heard(by, word, &mut self.listeners) {
                Turned::Nothing => Ok(()),
                Turned::TookOver => {
                    self.take_control_place();
                    Ok(())
                }
                Turned::HandedOver { has_all } => {
                    if has_all {
                        self.loops.command(|_| Command::LeaveBacklog)?;
                    }
                    self.begin_drain(course, Instant::now(), self.config.graceful_timeout)
                }
            },
        }
    }

    /// The first worker is READY.
    fn open(&mut self, course: &mut Course) -> Result<(), Fault> {
        self.tell_readiness(course)?;
        self.loops.command(|_| Command::OpenAccepts)?;
        let (workers, threads) = (self.concurrency.workers, self.concurrency.threads);
        let of = if threads == 1 { String::new() } else { format!(" of {threads} threads") };
        let plural = if workers == 1 { "" } else { "s" };
        let status = format!("ready: {workers} worker{plural}{of}");
        // Before the line that people wait for.
        self.standing.opened(&status);
        tracing::info!("ringhorn {status}");
        self.hooks.run(Hook::WhenReady, self.pool.generations().ceiling);
        Ok(())
    }

    fn handle(&mut self, signal: Signal, course: &mut Course) -> Result<(), Fault> {
        match signal {
            Signal::Term => self.handle_term(course),
            Signal::Int | Signal::Quit => {
                self.stop_at_once(course);
                Ok(())
            }
            Signal::Usr1 => {
                self.reopen_logs();
                Ok(())
            }
            Signal::Hup => {
                self.reload(course, "HUP", None);
                Ok(())
            }
            // The window of a terminal changed, which is nobody's wish.
            Signal::Winch if is_in_terminal() => Ok(()),
            Signal::Winch | Signal::Ttin | Signal::Ttou => self.resize(course, signal),
            Signal::Usr2 => {
                let is_serving = course.stage == Stage::Serving && self.pool.was_ever_ready();
                self.standing.upgrade(&self.listeners, is_serving, &self.events);
                Ok(())
            }
        }
    }

    fn handle_term(&mut self, course: &mut Course) -> Result<(), Fault> {
        if course.stage != Stage::Serving {
            self.stop_at_once(course);
            return Ok(());
        }
        let (now, delay) = (Instant::now(), self.config.shutdown_delay);
        let grace = DRAIN_GRACE + STOP_GRACE + self.hooks.time_at_exit();
        self.standing.stopping(delay + self.config.graceful_timeout + grace);
        if !self.pool.was_ever_ready() {
            // Nobody could be served yet: who waits in the queue is told so.
            return self.begin_drain(course, now, Duration::ZERO);
        }
        if delay.is_zero() {
            return self.begin_drain(course, now, self.config.graceful_timeout);
        }
        tracing::info!("not ready from now on; stopping gracefully in {delay:?}");
        course.stage = Stage::Delaying { until: now + delay };
        Ok(())
    }

    fn begin_drain(
        &mut self,
        course: &mut Course,
        now: Instant,
        within: Duration,
    ) -> Result<(), Fault> {
        tracing::info!("stopping gracefully, within {within:?}");
        self.pool.close();
        course.drain_began = Some(now);
        if self.config.has_only_passed_sockets() {
            // systemd holds them: the next start serves who waits there, and nobody is refused.
            self.loops.command(|_| Command::LeaveBacklog)?;
        }
        self.loops.command(|_| Command::Drain { within })?;
        self.listeners.close();
        let loops_left = u64::MAX >> (64 - u32::from(self.loops.count()));
        course.stage = Stage::Draining { loops_left, until: now + within + DRAIN_GRACE };
        Ok(())
    }

    /// Whether a worker that is missing is started: a drain needs them too, unless there never was
    /// one.
    fn needs_workers(&self, course: &Course) -> bool {
        match course.stage {
            Stage::Serving | Stage::Delaying { .. } => true,
            Stage::Draining { .. } => self.pool.was_ever_ready(),
            Stage::Stopping { .. } | Stage::Killing => false,
        }
    }

    fn stop_at_once(&mut self, course: &mut Course) {
        if course.stage != Stage::Killing {
            tracing::info!("stopping at once");
            self.standing.stopping(STOP_GRACE + self.hooks.time_at_exit());
            self.stop_workers(course, false);
        }
    }

    fn take_control_place(&mut self) {
        if let Some(Err(error)) = self.control.as_mut().map(ControlSocket::take_place) {
            tracing::error!("the control socket stays beside its place: {error}");
        }
    }

    fn reopen_logs(&self) {
        tracing::info!("opening the logs again");
        let access = self.access_log.as_ref().map_or(Ok(()), AccessLog::reopen);
        for fault in [error_log::reopen(self.config), access].into_iter().filter_map(Result::err) {
            tracing::error!("{fault}: the old file stays in use");
        }
    }

    /// Starts a new generation of workers, unless the server is stopping.
    fn reload(&mut self, course: &Course, because: &str, asker: Option<Reply>) {
        if course.stage == Stage::Serving {
            if let Some(generation) = self.pool.reload(because, asker, Instant::now()) {
                self.hooks.run(Hook::OnReload, generation);
            }
        } else if let Some(asker) = asker {
            asker.fail("the server is stopping", "", "");
        }
    }

    /// More or fewer workers, by hand.
    fn resize(&mut self, course: &Course, signal: Signal) -> Result<(), Fault> {
        if course.stage != Stage::Serving {
            return Ok(());
        }
        let before = self.pool.size();
        let wanted = match signal {
            Signal::Ttin => before + 1,
            Signal::Ttou => before.saturating_sub(1).max(1).min(before),
            _ => 0,
        };
        let now = self.pool.resize(wanted, Instant::now(), Some(&self.loops))?;
        // From now on a hand decides, not the load.
        self.scaling.stop();
        tracing::info!("workers: {before} before, {now} from now on ({signal:?})");
        if now < wanted {
            tracing::warn!("there is no room for more; --workers-max makes more at start");
        }
        Ok(())
    }

    fn answer(&mut self, course: &Course, request: Request, reply: Reply) {
        match request {
            Request::Reload => self.reload(course, "asked by the control socket", Some(reply)),
            Request::Status => reply.succeed(format!(
                "ringhorn {} (pid {}): {}\n{}",
                env!("CARGO_PKG_VERSION"),
                std::process::id(),
                course.stage.word(),
                self.pool.status()
            )),
        }
    }

    /// Tells workers to end; a fast stop also cuts a graceful one short.
    fn stop_workers(&mut self, course: &mut Course, graceful: bool) {
        self.pool.close();
        self.pool.stop_all(graceful);
        let now = Instant::now();
        let graceful_end = course.drain_began.map(|began| began + self.config.graceful_timeout);
        let until = match graceful_end.filter(|_| graceful) {
            Some(end) => end.max(now + STOP_GRACE),
            None => now + STOP_GRACE,
        };
        course.stage = Stage::Stopping { until };
    }

    /// Moves a stop on when its time is over.
    fn advance(&mut self, course: &mut Course, now: Instant) -> Result<(), Fault> {
        match course.stage {
            Stage::Delaying { until } if until <= now => {
                self.begin_drain(course, now, self.config.graceful_timeout)?;
            }
            Stage::Draining { loops_left, until } if loops_left == 0 || until <= now => {
                if loops_left != 0 {
                    tracing::warn!("event loops did not finish in time, what is left is cut");
                }
                self.stop_workers(course, true);
            }
            Stage::Stopping { until } if until <= now => {
                if !self.pool.is_empty() {
                    tracing::warn!("workers did not end in time, they are killed");
                }
                self.pool.kill_all();
                course.stage = Stage::Killing;
            }
            _ => {}
        }
        Ok(())
    }

    /// One reaper for all children.
    fn reap(&mut self, course: &Course) -> Result<(), Fault> {
        let is_stopping = !self.needs_workers(course);
        let cannot = |error: std::io::Error| {
            Fault::new(ExitCode::Runtime, format!("cannot wait for children: {error}"), "")
        };
        let mut end = Ok(());
        while let Some((pid, status)) = process::reap().map_err(cannot)? {
            if self.hooks.ended(pid, status) {
                continue;
            }
            // All are taken before the first fault is passed on: nobody rings for the others again.
            if self.standing.ended(pid, status) {
                continue;
            }
            let ended = self.pool.ended(pid, status, Some(&self.loops), is_stopping);
            end = end.and(ended);
        }
        end.and_then(|()| self.replace_memory(course))
    }

    /// Takes what loops reported.
    fn fetch_reports(&mut self, course: &mut Course) -> Result<(), Fault> {
        let (pool, access_log) = (&mut self.pool, &mut self.access_log);
        let scaling = &mut self.scaling;
        let mut end = Ok(());
        let fetched = self.loops.reports(|report| match report {
            Report::Access(record) => log_access(access_log.as_mut(), pool, &record),
            Report::Incident { event_loop, text } => {
                tracing::warn!("event loop {event_loop}: {text}");
            }
            Report::DeathAcknowledged { event_loop, worker, lost, .. } => {
                pool.acknowledged(event_loop, worker, lost);
            }
            Report::Interrupt { interrupt, .. } => pool.interrupt(*interrupt),
            Report::KillWorker { seat, why, .. } => pool.kill_seat(seat, why),
            Report::PoolCondemned { event_loop, why, .. } => {
                pool.condemn(&format!("event loop {event_loop} read {why}"));
            }
            Report::Measured { load, .. } => scaling.heard(load),
            Report::Drained { event_loop } => {
                if let Stage::Draining { loops_left, .. } = &mut course.stage {
                    *loops_left &= !(1u64 << event_loop);
                }
            }
            Report::Failed { event_loop, error } => {
                end = Err(dead_loop(event_loop, &format!("failed: {error}")));
            }
        });
        // What it said last says more.
        if let Some(index) = fetched.ended.filter(|_| end.is_ok()) {
            end = Err(dead_loop(index, "ended unasked"));
        }
        if let Some(log) = &self.access_log {
            log.flush();
            self.note_dropped(course);
            let wait = if fetched.reports > 0 { FETCH_SOON } else { FETCH_LATER };
            course.fetch_at = Some(Instant::now() + wait);
        }
        end.and_then(|()| self.replace_memory(course))
    }

    fn note_dropped(&self, course: &mut Course) {
        let dropped = self.loops.reports_dropped();
        if dropped > course.reports_dropped {
            let lines = dropped - course.reports_dropped;
            tracing::warn!("access log: {lines} records dropped, requests are faster than the log");
            course.reports_dropped = dropped;
        }
    }

    /// New segments for a condemned pool whose workers are dead everywhere; others start with them.
    fn replace_memory(&mut self, course: &Course) -> Result<(), Fault> {
        if course.is_stopping() || !self.pool.is_replaceable() {
            return Ok(());
        }
        let seats = self.pool.seats();
        let generations = self.pool.generations();
        let (memory, ends) = PoolMemory::create(seats, self.settings, &self.bells, generations)?;
        let mut ends = ends.into_iter();
        let replaced = self.loops.command(|_| match ends.next() {
            Some(end) => Command::ReplacePool { pool: POOL, end: Box::new(end) },
            // One end was made for each bell, and each loop has one bell.
            None => unreachable!("a loop without a bell"),
        });
        self.pool.replace_memory(memory);
        replaced
    }
}

/// Whether somebody watches the server in a terminal: a service has none.
fn is_in_terminal() -> bool {
    std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal()
}

fn log_access(log: Option<&mut AccessLog>, pool: &Pool<'_>, record: &AccessRecord) {
    if let Some(log) = log {
        let pid = match record.worker {
            0 => std::process::id(),
            number => pool.pid_of(number),
        };
        log.record(record, pid);
    }
}
