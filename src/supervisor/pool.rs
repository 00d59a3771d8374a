//! The workers of one application on one interpreter: who lives, who is to be replaced, whose seats
//! are still the dead's.
//!
//! A pool knows no signals and no sockets of clients; `serve.rs` tells it what happened and when it
//! is. Who is replaced by whom stands in `places.rs`, a reload in `renewal.rs`, what the end of a
//! worker brings about in `endings.rs`.
//!
//! Invariants: a worker is announced to every loop before it gets its Setup, since it may claim as
//! soon as it has attached. Its seats are given to another only after every loop acknowledged its
//! death. Process numbers are used only for children that were not reaped yet.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ringhorn_exchange::control::{FromWorker, Hello, Setup};

use super::back_off::BackOff;
use super::crashes::Crashes;
use super::endings::Death;
use super::events::Events;
use super::fault::{ExitCode, Fault};
use super::generations::Generations;
use super::loops::Loops;
use super::memory::PoolMemory;
use super::places::Place;
use super::preload::ForkServers;
use super::recycling::{Allotment, MEMORY_STEP, Why, pss_bytes};
use super::renewal::Renewal;
use super::seat_blocks::SeatBlocks;
use super::title::NAME_OPTION;
use super::verdict::foreign_module;
use super::worker::{Berth, Phase, Recipe, Worker};
use crate::config::Concurrency;
use crate::event_loop::Command;

/// The only pool there is yet.
pub const POOL: u8 = 0;
/// How long the other workers wait for the first to be READY: one traceback of an application that
/// cannot be imported, not one from each, and no wait worth naming for one that takes long.
pub(super) const FIRST_ALONE: Duration = Duration::from_secs(1);
/// How long a worker that is to end for its start-up time may take to say where it hangs.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How soon a refused start is tried again, at least.
pub(super) const RETRY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Pool<'a> {
    pub(super) recipe: Recipe<'a>,
    pub(super) fork_servers: ForkServers,
    pub(super) concurrency: Concurrency,
    memory: PoolMemory,
    pub(super) generations: Generations,
    pub(super) next_generation: u32,
    pub(super) blocks: SeatBlocks,
    cores: Vec<usize>,
    pub(super) workers: BTreeMap<u32, Worker>,
    pub(super) places: Vec<Place>,
    /// The reload under way.
    pub(super) renewal: Option<Renewal>,
    /// The server ends: nobody is replaced any more.
    is_closing: bool,
    /// Deaths that some loop did not acknowledge yet, by worker.
    pub(super) deaths: BTreeMap<u32, Death>,
    pub(super) ended: VecDeque<(u32, u32)>,
    pub(super) back_off: BackOff,
    pub(super) crashes: Crashes,
    next_number: u32,
    /// When a worker's memory is looked at next, and the last one that was.
    memory_due: Option<Instant>,
    memory_last: u32,
    pub(super) was_ever_ready: bool,
    pub(super) is_condemned: bool,
}

/// What a message of a worker changes for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    None,
    /// The first worker of all is READY.
    FirstReady,
    /// A file of the application changed.
    Changed(String),
}

impl<'a> Pool<'a> {
    /// A pool without workers yet; the first starts at the next [`tend`](Pool::tend).
    pub fn new(
        recipe: Recipe<'a>,
        concurrency: Concurrency,
        blocks: SeatBlocks,
        memory: PoolMemory,
        cores: Vec<usize>,
    ) -> Pool<'a> {
        let now = Instant::now();
        let others = Place::due(now + FIRST_ALONE);
        let mut places = vec![others; concurrency.workers as usize];
        places[0] = Place::due(now);
        let crashes = Crashes::new(recipe.config);
        let memory_due = recipe.config.lifecycle.worker_memory_max.map(|_| now + MEMORY_STEP);
        Pool {
            recipe,
            fork_servers: ForkServers::default(),
            concurrency,
            memory,
            generations: Generations::first(),
            next_generation: Generations::first().ceiling + 1,
            blocks,
            cores,
            workers: BTreeMap::new(),
            places,
            renewal: None,
            is_closing: false,
            deaths: BTreeMap::new(),
            ended: VecDeque::new(),
            back_off: BackOff::default(),
            crashes,
            next_number: 1,
            memory_due,
            memory_last: 0,
            was_ever_ready: false,
            is_condemned: false,
        }
    }

    /// Whether any worker ever was READY.
    pub fn was_ever_ready(&self) -> bool {
        self.was_ever_ready
    }

    /// How many workers are READY and not told to leave.
    pub fn ready_workers(&self) -> u32 {
        let is_ready = |worker: &&Worker| {
            matches!(worker.phase, Phase::Ready(_)) && worker.leaves_until.is_none()
        };
        self.workers.values().filter(is_ready).count() as u32
    }

    /// Whether any other worker takes requests.
    pub(super) fn serves_without(&self, number: u32) -> bool {
        let serves = |worker: &Worker| {
            matches!(worker.phase, Phase::Ready(_))
                && worker.leaves_until.is_none()
                && (self.generations.floor..=self.generations.ceiling).contains(&worker.generation)
        };
        self.workers.values().any(|worker| worker.number != number && serves(worker))
    }

    /// Whether no worker process is left.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.fork_servers.is_empty()
    }

    /// The process id behind a worker's number; 0 if it is none.
    pub fn pid_of(&self, number: u32) -> u32 {
        let ended = || self.ended.iter().find(|(ended, _)| *ended == number).map(|(_, pid)| *pid);
        self.workers.get(&number).map(|worker| worker.pid).or_else(ended).unwrap_or(0)
    }

    /// When [`tend`](Pool::tend) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        // While a pool is condemned nobody is started; the last acknowledgement is what goes on.
        let starts = self.places.iter().filter_map(|place| place.due);
        let starts = starts.filter(|_| !self.is_condemned);
        let ends = self.workers.values().filter_map(|worker| self.ends_at(worker));
        let memory_due = self.memory_due.filter(|_| !self.is_condemned);
        let may_succeed = !self.is_condemned && !self.is_closing;
        let successors_due = may_succeed.then(|| self.successors_due()).flatten();
        let looks = [memory_due, successors_due].into_iter().flatten();
        starts.chain(ends).chain(looks).min()
    }

    /// When a worker is to be killed, or replaced for its age.
    fn ends_at(&self, worker: &Worker) -> Option<Instant> {
        if worker.is_dying() {
            return None;
        }
        if worker.leaves_until.is_some() {
            return worker.leaves_until;
        }
        let timeout = self.recipe.config.lifecycle.startup_timeout;
        match worker.phase {
            Phase::Booting | Phase::Loading => {
                (!timeout.is_zero()).then(|| worker.started + timeout)
            }
            Phase::Ready(_) if self.is_closing || self.is_replaced(worker.number) => None,
            Phase::Ready(_) => worker.allotment.lifetime.map(|lifetime| worker.started + lifetime),
            // Who failed and cannot say so (a full pipe) does not keep a reload waiting for ever.
            Phase::Overdue | Phase::Failing(_) => {
                (!timeout.is_zero()).then(|| worker.started + timeout + LAST_WORDS)
            }
        }
    }

    fn is_replaced(&self, number: u32) -> bool {
        self.places.iter().any(|place| place.holder == Some(number) && place.replace.is_some())
    }

    /// Starts the workers that are due, replaces those that served long enough, and kills those
    /// whose time is over.
    pub fn tend(&mut self, now: Instant, events: &Events) {
        let over = |worker: &&Worker| self.ends_at(worker).is_some_and(|end| end <= now);
        let over: Vec<u32> =
            self.workers.values().filter(over).map(|worker| worker.number).collect();
        over.into_iter().for_each(|number| self.end_time_of(number));
        if self.is_condemned {
            return;
        }
        for at in 0..self.places.len() {
            if self.places[at].due.is_some_and(|due| due <= now) {
                self.places[at].due = match self.start(at, self.generations.ceiling, events) {
                    Ok(number) => {
                        self.places[at].holder = Some(number);
                        None
                    }
                    Err(wait) => Some(now + wait),
                };
            }
        }
        self.look_at_memory(now);
        self.retire_fork_servers();
        if !self.is_closing {
            self.start_successors(now, events);
        }
    }

    /// A worker's time is over, whichever it was.
    fn end_time_of(&mut self, number: u32) {
        let config = self.recipe.config;
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let pid = worker.pid;
        match &worker.phase {
            _ if worker.leaves_until.is_some() => {
                let timeout = config.graceful_timeout;
                tracing::warn!(
                    "worker {number} (pid {pid}) is killed: it did not leave within \
                     --graceful-timeout {timeout:?}"
                );
                worker.kill();
            }
            Phase::Booting | Phase::Loading => {
                let timeout = config.lifecycle.startup_timeout;
                tracing::error!(
                    "worker {number} (pid {pid}) is stopped: it is not ready after \
                     --startup-timeout {timeout:?}; where it hangs follows"
                );
                worker.phase = Phase::Overdue;
                worker.abort();
            }
            Phase::Overdue | Phase::Failing(_) => worker.kill(),
            Phase::Ready(_) => {
                let lifetime = worker.started.elapsed();
                self.replace(number, Why::Lifetime(lifetime));
            }
        }
    }

    /// One worker's memory, if it is time for that.
    fn look_at_memory(&mut self, now: Instant) {
        let (Some(due), Some(most)) =
            (self.memory_due, self.recipe.config.lifecycle.worker_memory_max)
        else {
            return;
        };
        if due > now {
            return;
        }
        self.memory_due = Some(now + MEMORY_STEP);
        let serves = |worker: &&Worker| {
            matches!(worker.phase, Phase::Ready(_)) && worker.leaves_until.is_none()
        };
        let mut serving = self.workers.values().filter(serves);
        let next = serving.clone().find(|worker| worker.number > self.memory_last);
        let Some(worker) = next.or_else(|| serving.next()) else { return };
        let (number, pid) = (worker.number, worker.pid);
        self.memory_last = number;
        match pss_bytes(pid) {
            Ok(bytes) if bytes > most => self.replace(number, Why::Memory(bytes)),
            Ok(_) => {}
            // It may have ended a moment ago.
            Err(error) => tracing::debug!("memory of worker {number} (pid {pid}): {error}"),
        }
    }

    /// Starts a worker for a place; returns its number, or how long to wait before trying again.
    pub(super) fn start(
        &mut self,
        place: usize,
        generation: u32,
        events: &Events,
    ) -> Result<u32, Duration> {
        let Some(seats) = self.blocks.take() else { return Err(RETRY) };
        let number = self.next_number;
        let allotment = Allotment::draw(self.recipe.config);
        let berth = Berth { number, place, generation, seats: seats.clone(), allotment };
        let started = match self.preloads() {
            true => self.fork(berth, events),
            false => Worker::start(&self.recipe, berth, events),
        };
        match started {
            Ok(worker) => {
                tracing::debug!("worker {number} (pid {}) starts", worker.pid);
                self.next_number += 1;
                self.workers.insert(number, worker);
                Ok(number)
            }
            Err(error) => {
                self.blocks.give_back(&seats);
                let executable = self.recipe.interpreter.executable.display();
                tracing::error!("cannot start a worker: {executable}: {error}");
                Err(self.back_off.after_death(None).max(RETRY))
            }
        }
    }

    /// A worker said something.
    ///
    /// # Errors
    /// The server has to end: it cannot boot workers at all, or a loop is broken.
    pub fn said(
        &mut self,
        number: u32,
        message: FromWorker,
        loops: Option<&Loops>,
    ) -> Result<Turn, Fault> {
        let Some(worker) = self.workers.get_mut(&number) else { return Ok(Turn::None) };
        match (message, &worker.phase) {
            (FromWorker::Hello(hello), Phase::Booting) => {
                self.greet(number, &hello, loops)?;
                Ok(Turn::None)
            }
            (FromWorker::Ready(_), Phase::Loading) => {
                worker.phase = Phase::Ready(Instant::now());
                tracing::debug!("worker {number} (pid {}) is ready", worker.pid);
                if self.was_ever_ready {
                    return self.succeed(number, loops).map(|()| Turn::None);
                }
                self.was_ever_ready = true;
                self.start_others_now();
                Ok(Turn::FirstReady)
            }
            (FromWorker::Failed(failed), _) => {
                worker.phase = Phase::Failing(failed);
                Ok(Turn::None)
            }
            (FromWorker::WornOut(worn_out), Phase::Ready(_)) => {
                self.replace(number, Why::Requests(worn_out.requests));
                Ok(Turn::None)
            }
            // Of one that leaves, what it serves is the past.
            (FromWorker::Changed(changed), Phase::Ready(_)) if worker.leaves_until.is_none() => {
                Ok(Turn::Changed(changed.path))
            }
            (FromWorker::Changed(_), _) => Ok(Turn::None),
            (FromWorker::Stuck(stuck), Phase::Ready(_)) => {
                self.is_stuck(number, &stuck);
                Ok(Turn::None)
            }
            (message, _) => {
                self.garbled(number, &format!("{message:?} is out of turn"));
                Ok(Turn::None)
            }
        }
    }

    /// A worker that does not keep to the conversation is ended.
    pub fn garbled(&self, number: u32, error: &str) {
        if let Some(worker) = self.workers.get(&number) {
            tracing::error!("worker {number} (pid {}) is killed: {error}", worker.pid);
            worker.kill();
        }
    }

    /// Every loop is told of the worker, then the worker of its memory.
    fn greet(&mut self, number: u32, hello: &Hello, loops: Option<&Loops>) -> Result<(), Fault> {
        let setup = self.setup_of(number);
        let Some(worker) = self.workers.get_mut(&number) else { return Ok(()) };
        if !hello.is_compatible() {
            worker.kill();
            let fault = foreign_module(&self.recipe, hello);
            if !self.was_ever_ready {
                return Err(fault);
            }
            // Replaced on disk under a running server: those that serve go on.
            tracing::error!("worker {number}: {fault}; restart the server");
            return Ok(());
        }
        if let Some(loops) = loops {
            let paired_loop = setup.paired_loop;
            worker.was_announced = true;
            loops.command(|index| Command::WorkerJoined {
                pool: POOL,
                seats: worker.as_seats(&self.recipe, paired_loop == Some(index)),
            })?;
        }
        worker.phase = Phase::Loading;
        if let Err(error) = worker.set_up(setup, &self.memory) {
            tracing::error!("worker {number} (pid {}) is killed: {error}", worker.pid);
            worker.kill();
        }
        Ok(())
    }

    fn setup_of(&self, number: u32) -> Setup {
        let config = self.recipe.config;
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let worker = self.workers.get(&number);
        let place = worker.map_or(0, |worker| worker.place);
        let core = (!self.cores.is_empty()).then(|| self.cores[place % self.cores.len()]);
        Setup {
            application: config.application.clone(),
            pythonpath: config.python_path.iter().map(|path| text(path)).collect(),
            chdir: Some(text(&config.working_dir)),
            threads: self.concurrency.threads as u16,
            first_seat: worker.map_or(0, |worker| worker.seats.start),
            generation: worker.map_or(0, |worker| worker.generation),
            worker: number,
            multiprocess: self.concurrency.workers > 1,
            check_only: config.check,
            cpu: core.and_then(|core| u32::try_from(core).ok()),
            paired_loop: u16::try_from(place).ok().map(|place| place % self.memory.loops()),
            loops: self.memory.loops(),
            server_software: concat!("ringhorn/", env!("CARGO_PKG_VERSION")).to_owned(),
            options: worker.map(|worker| self.options_of(worker)).unwrap_or_default(),
        }
    }

    /// What a worker is told by name.
    fn options_of(&self, worker: &Worker) -> Vec<(String, String)> {
        let config = self.recipe.config;
        let mut options = self.recipe.facts.for_worker(config);
        options.push((NAME_OPTION.to_owned(), config.name.clone()));
        if let Some(requests) = worker.allotment.requests {
            options.push(("max-requests".to_owned(), requests.to_string()));
        }
        // One of them watches: several would each ask for a reload.
        if config.lifecycle.reloads_on_change && !config.check && worker.place == 0 {
            options.push(("reload".to_owned(), String::new()));
            let globs = config.lifecycle.extra_globs.iter();
            options.extend(globs.map(|glob| ("reload-extra-file".to_owned(), glob.clone())));
        }
        options
    }

    fn start_others_now(&mut self) {
        let now = Instant::now();
        for due in self.places.iter_mut().filter_map(|place| place.due.as_mut()) {
            *due = (*due).min(now);
        }
    }

    /// All seats that its segments have room for.
    pub fn seats(&self) -> u32 {
        self.blocks.seats()
    }

    /// Whether a reload is under way.
    pub fn is_reloading(&self) -> bool {
        self.renewal.is_some()
    }

    /// Its generations.
    pub fn generations(&self) -> Generations {
        self.generations
    }

    /// Takes new segments into use.
    pub fn replace_memory(&mut self, memory: PoolMemory) {
        self.memory = memory;
        self.is_condemned = false;
    }

    /// The server ends: who serves goes on until it is told to stop, nobody is replaced for age or
    /// a reload.
    pub fn close(&mut self) {
        self.is_closing = true;
        let fault = Fault::new(ExitCode::Stopped, "the server is stopping", "");
        self.give_up_reload(&fault, "", Instant::now());
    }

    /// Its workers, a line each, for an operator.
    pub fn status(&self) -> String {
        let mut text = self.fork_servers_status();
        for worker in self.workers.values() {
            let state = match &worker.phase {
                _ if worker.leaves_until.is_some() => "leaving",
                Phase::Booting | Phase::Loading => "loading",
                Phase::Ready(_) => "ready",
                Phase::Failing(_) | Phase::Overdue => "failing",
            };
            let Worker { number, pid, generation, .. } = worker;
            let age = worker.started.elapsed().as_secs();
            text.push_str(&format!(
                "worker {number} (pid {pid}): generation {generation}, {state}, {age} s\n"
            ));
        }
        text
    }

    /// Tells every worker to end.
    pub fn stop_all(&mut self, graceful: bool) {
        self.workers.values().for_each(|worker| worker.stop(graceful));
        self.fork_servers.stop_all();
    }

    /// Ends every worker at once.
    pub fn kill_all(&self) {
        self.workers.values().for_each(Worker::kill);
        self.fork_servers.kill_all();
    }
}
