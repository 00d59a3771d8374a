//! The workers of one application on one interpreter: who lives, who is to be replaced, whose seats
//! are still the dead's.
//!
//! A pool knows no signals and no sockets of clients; `serve.rs` tells it what happened and when it
//! is.
//!
//! Invariants: a worker is announced to every loop before it gets its Setup, since it may claim as
//! soon as it has attached. Its seats are given to another only after every loop acknowledged its
//! death. Process numbers are used only for children that were not reaped yet.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ringhorn_exchange::LAYOUT_HASH;
use ringhorn_exchange::control::{Failed, FromWorker, Hello, Setup};

use super::back_off::BackOff;
use super::events::Events;
use super::fault::{ExitCode, Fault};
use super::generations::Generations;
use super::loops::Loops;
use super::memory::PoolMemory;
use super::seat_blocks::SeatBlocks;
use super::worker::{Phase, Recipe, Worker};
use crate::config::Concurrency;
use crate::event_loop::Command;

/// The only pool there is yet.
pub const POOL: u8 = 0;
/// How long the other workers wait for the first to be READY: one traceback of an application that
/// cannot be imported, not one from each, and no wait worth naming for one that takes long.
const FIRST_ALONE: Duration = Duration::from_secs(1);
/// How long an interpreter may take from its start to Hello.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How soon a refused start is tried again, at least.
const RETRY: Duration = Duration::from_millis(100);
/// Ended workers whose numbers are still translated to process ids, for late access records.
const REMEMBERED: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Pool<'a> {
    recipe: Recipe<'a>,
    concurrency: Concurrency,
    memory: PoolMemory,
    generations: Generations,
    blocks: SeatBlocks,
    cores: Vec<usize>,
    workers: BTreeMap<u32, Worker>,
    /// When the worker of each place is to be started; `None`: it lives.
    due: Vec<Option<Instant>>,
    /// Deaths that some loop did not acknowledge yet, by worker.
    deaths: BTreeMap<u32, Death>,
    ended: VecDeque<(u32, u32)>,
    back_off: BackOff,
    next_number: u32,
    was_ever_ready: bool,
    is_condemned: bool,
}

#[derive(Debug)]
struct Death {
    seats: Range<u16>,
    /// Bit i: loop i has yet to acknowledge.
    unacknowledged: u64,
}

/// What a message of a worker changes for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    None,
    /// The first worker of all is READY.
    FirstReady,
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
        let mut due = vec![Some(now + FIRST_ALONE); concurrency.workers as usize];
        due[0] = Some(now);
        Pool {
            recipe,
            concurrency,
            memory,
            generations: Generations::first(),
            blocks,
            cores,
            workers: BTreeMap::new(),
            due,
            deaths: BTreeMap::new(),
            ended: VecDeque::new(),
            back_off: BackOff::default(),
            next_number: 1,
            was_ever_ready: false,
            is_condemned: false,
        }
    }

    /// Whether any worker ever was READY.
    pub fn was_ever_ready(&self) -> bool {
        self.was_ever_ready
    }

    /// Whether no worker process is left.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The process id behind a worker's number; 0 if it is none.
    pub fn pid_of(&self, number: u32) -> u32 {
        let ended = || self.ended.iter().find(|(ended, _)| *ended == number).map(|(_, pid)| *pid);
        self.workers.get(&number).map(|worker| worker.pid).or_else(ended).unwrap_or(0)
    }

    /// When [`tend`](Pool::tend) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let starts = self.due.iter().flatten().copied();
        let booting = |worker: &&Worker| worker.phase == Phase::Booting;
        let boots =
            self.workers.values().filter(booting).map(|worker| worker.started + BOOT_TIMEOUT);
        // While a pool is condemned nobody is started; the last acknowledgement is what goes on.
        let starts = starts.filter(|_| !self.is_condemned);
        starts.chain(boots).min()
    }

    /// Starts the workers that are due, and kills those that never said Hello.
    pub fn tend(&mut self, now: Instant, events: &Events) {
        for worker in self.workers.values() {
            if worker.phase == Phase::Booting && now >= worker.started + BOOT_TIMEOUT {
                tracing::error!("worker {} (pid {}) does not boot", worker.number, worker.pid);
                worker.kill();
            }
        }
        if self.is_condemned {
            return;
        }
        for place in 0..self.due.len() {
            if self.due[place].is_some_and(|due| due <= now) {
                self.due[place] = self.start(place, now, events);
            }
        }
    }

    /// Starts the worker of a place; returns when to try again if that fails.
    fn start(&mut self, place: usize, now: Instant, events: &Events) -> Option<Instant> {
        let Some(seats) = self.blocks.take() else { return Some(now + RETRY) };
        let number = self.next_number;
        match Worker::start(&self.recipe, number, place, seats.clone(), events) {
            Ok(worker) => {
                tracing::debug!("worker {number} (pid {}) starts", worker.pid);
                self.next_number += 1;
                self.workers.insert(number, worker);
                None
            }
            Err(error) => {
                self.blocks.give_back(&seats);
                let wait = self.back_off.after_death(None).max(RETRY);
                let executable = self.recipe.interpreter.executable.display();
                tracing::error!("cannot start a worker: {executable}: {error}");
                Some(now + wait)
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
                    return Ok(Turn::None);
                }
                self.was_ever_ready = true;
                self.start_others_now();
                Ok(Turn::FirstReady)
            }
            (FromWorker::Failed(failed), _) => {
                worker.phase = Phase::Failing(failed);
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
        let generation = self.generations.ceiling;
        if let Some(loops) = loops {
            let paired_loop = setup.paired_loop;
            worker.was_announced = true;
            loops.command(|index| Command::WorkerJoined {
                pool: POOL,
                seats: worker.as_seats(&self.recipe, generation, paired_loop == Some(index)),
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
            generation: self.generations.ceiling,
            worker: number,
            multiprocess: self.concurrency.workers > 1,
            check_only: config.check,
            cpu: core.and_then(|core| u32::try_from(core).ok()),
            paired_loop: u16::try_from(place).ok().map(|place| place % self.memory.loops()),
            loops: self.memory.loops(),
            server_software: concat!("ringhorn/", env!("CARGO_PKG_VERSION")).to_owned(),
            options: Vec::new(),
        }
    }

    fn start_others_now(&mut self) {
        let now = Instant::now();
        for due in self.due.iter_mut().flatten() {
            *due = (*due).min(now);
        }
    }

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
        let mut workers = self.workers.values();
        let Some(number) = workers.find(|worker| worker.pid == pid).map(|worker| worker.number)
        else {
            tracing::debug!("reaped process {pid}: {status}");
            return Ok(());
        };
        let Some(mut worker) = self.workers.remove(&number) else { return Ok(()) };
        // Its last words may still be in the socket: its end and theirs come by different ways.
        worker.hear_out();
        self.remember(&worker);
        self.tell_of_death(&worker, loops)?;
        if is_stopping {
            tracing::debug!("worker {number} (pid {pid}) ended: {status}");
            return Ok(());
        }
        if !self.was_ever_ready {
            return Err(never_ready(&self.recipe, &worker, status));
        }
        let served = match &worker.phase {
            Phase::Ready(since) => Some(since.elapsed()),
            _ => None,
        };
        let wait = self.back_off.after_death(served);
        let what = match &worker.phase {
            Phase::Failing(failed) => format!("{status}: {}", verdict(failed)),
            _ => status.to_string(),
        };
        tracing::error!("worker {number} (pid {pid}) ended: {what}; the next starts in {wait:?}");
        self.due[worker.place] = Some(Instant::now() + wait);
        if self.cannot_attach(&worker) {
            self.condemn("a worker cannot attach to it");
        }
        Ok(())
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
        self.deaths.insert(number, Death { seats: worker.seats.clone(), unacknowledged });
        loops.command(|_| Command::WorkerDied { pool: POOL, worker: number })
    }

    /// A loop acknowledged a death.
    pub fn acknowledged(&mut self, event_loop: u16, number: u32) {
        let Some(death) = self.deaths.get_mut(&number) else { return };
        death.unacknowledged &= !(1u64 << event_loop);
        if death.unacknowledged == 0 {
            self.blocks.give_back(&death.seats);
            self.deaths.remove(&number);
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
            self.kill_all();
        }
        self.is_replaceable()
    }

    /// Whether a condemned pool's workers are dead and every loop knows.
    pub fn is_replaceable(&self) -> bool {
        self.is_condemned && self.workers.is_empty() && self.deaths.is_empty()
    }

    /// All seats that its segments have room for.
    pub fn seats(&self) -> u32 {
        self.blocks.seats()
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

    /// Tells every worker to end.
    pub fn stop_all(&self, graceful: bool) {
        self.workers.values().for_each(|worker| worker.stop(graceful));
    }

    /// Ends every worker at once.
    pub fn kill_all(&self) {
        self.workers.values().for_each(Worker::kill);
    }
}

/// Why a worker failed, in one line: its own verdict, which stands under our name at the end of
/// what it said, else the last line of that.
fn verdict(failed: &Failed) -> &str {
    let lines = || failed.text.lines().map(str::trim).filter(|line| !line.is_empty());
    let verdict = lines().filter_map(|line| line.strip_prefix(VERDICT_MARK)).next_back();
    verdict.or_else(|| lines().next_back()).unwrap_or("it said nothing")
}

/// What a failed worker advises, or else this.
fn advice(failed: &Failed, otherwise: &str) -> String {
    let advice = failed.text.lines().filter_map(|line| line.strip_prefix(ADVICE_MARK)).next_back();
    advice.unwrap_or(otherwise).to_owned()
}

/// How a worker's verdict begins in [`Failed`]'s text.
const VERDICT_MARK: &str = "ringhorn: ";
/// How its advice begins.
const ADVICE_MARK: &str = "hint: ";

/// Why the server ends when its first worker does.
fn never_ready(recipe: &Recipe<'_>, worker: &Worker, status: ExitStatus) -> Fault {
    let application = &recipe.config.application;
    match &worker.phase {
        Phase::Failing(failed) if failed.exit_code == ExitCode::Application as i32 => Fault::new(
            ExitCode::Application,
            format!("cannot load the application {application}: {}", verdict(failed)),
            advice(
                failed,
                "the traceback is above; --chdir and --pythonpath say where modules are sought",
            ),
        ),
        Phase::Failing(failed) => Fault::new(
            ExitCode::Worker,
            format!("a worker cannot boot: {}", verdict(failed)),
            advice(failed, "--python and --runtime-dir choose what is started"),
        ),
        Phase::Loading => Fault::new(
            ExitCode::Application,
            format!("cannot load the application {application}: its interpreter ended ({status})"),
            "what it said is above; a native module that it imports may be broken",
        ),
        Phase::Booting | Phase::Ready(_) => Fault::new(
            ExitCode::Worker,
            format!("a worker cannot boot: {} ended ({status})", recipe.interpreter),
            "see above what the interpreter says; --python chooses another",
        ),
    }
}

fn foreign_module(recipe: &Recipe<'_>, hello: &Hello) -> Fault {
    Fault::new(
        ExitCode::Worker,
        format!(
            "the runtime module in {} is of another build (layout {:x}, the server has {LAYOUT_HASH:x})",
            recipe.runtime_dir.display(),
            hello.layout_hash
        ),
        "build or install server and module together, or say --runtime-dir",
    )
}
