//! One worker process: started, greeted, watched.
//!
//! The conversation (`ringhorn_exchange::control`): the worker says Hello, gets Setup with the
//! pool's descriptors, says Ready or Failed, and is told Stop in the end. Its control socket is
//! read by one task and its end seen by another; both only tell the supervisor, who owns all state.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::events::{Event, Events};
use super::facts::ServerFacts;
use super::fork_server::ForkProcess;
use super::interpreter::Interpreter;
use super::memory::PoolMemory;
use super::recycling::{Allotment, Why};
use super::watched::Watched;
use crate::config::Config;
use crate::config::activation::UPGRADE;
use crate::config::said::LAUNCHED_BY;
use crate::sys::process::{pidfd_kill, signals};
use crate::sys::rlimit::DescriptorLimit;
use crate::sys::worker_start::{CONTROL_DESCRIPTOR, Start, Started, start};
use ringhorn_exchange::WorkerSeats;
use ringhorn_exchange::control::{ControlError, ControlSocket, Failed, FromWorker, Interrupt};
use ringhorn_exchange::control::{Received, Setup, Stop, ToWorker};

/// Added to a worker's `oom_score_adj`: a tenth of the machine's memory ahead of the server. By
/// taste.
const OOM_SCORE_MORE: i32 = 100;

/// How long a fork server may take to say how a worker of its ended: it does nothing else.
const PARENT_GRACE: Duration = Duration::from_secs(2);

/// Variables that are meant for the server alone: a worker is no service of systemd's.
const SERVER_VARIABLES: [&str; 8] = [
    LAUNCHED_BY,
    UPGRADE,
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// The text that `runtimes/python/ringhorn/_bootstrap.py` documents: loads that file by its path,
/// so that its folder never enters `sys.path`.
const BOOT: &str = concat!(
    "import sys;sys.path[:1]=filter(None,sys.path[:1]);",
    "from importlib.util import *;",
    "s=spec_from_file_location('_ringhorn_bootstrap',sys.argv[1]+'/_bootstrap.py');",
    "m=sys.modules[s.name]=module_from_spec(s);s.loader.exec_module(m);m.main(*sys.argv[1:])",
);

/// What every worker of a server is started with.
#[derive(Clone, Debug)]
pub struct Recipe<'a> {
    /// What was configured.
    pub config: &'a Config,
    /// The probed interpreter.
    pub interpreter: &'a Interpreter,
    /// Where its runtime is.
    pub runtime_dir: &'a Path,
    /// The limit of open descriptors that the server was started with.
    pub descriptor_limit: DescriptorLimit,
    /// What hooks and warm-up requests are told.
    pub facts: ServerFacts,
}

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not said Hello.
    Booting,
    /// It has its Setup and imports the application.
    Loading,
    /// It said Ready then.
    Ready(Instant),
    /// It said why it cannot serve, and ends.
    Failing(Failed),
    /// It was not READY in time, and is to say where it hangs.
    Overdue,
}

/// What a worker is started as.
#[derive(Clone, Debug)]
pub struct Berth {
    /// Unique in the server's life, from 1.
    pub number: u32,
    /// Which of the wanted workers it is: decides core and paired loop.
    pub place: usize,
    /// Its generation.
    pub generation: u32,
    /// Its seats.
    pub seats: Range<u16>,
    /// How long it is to serve.
    pub allotment: Allotment,
}

/// A living (or not yet reaped) worker.
#[derive(Debug)]
pub struct Worker {
    /// Unique in the server's life, from 1.
    pub number: u32,
    /// Which of the wanted workers it is: decides core and paired loop.
    pub place: usize,
    /// Its generation.
    pub generation: u32,
    /// Its process id.
    pub pid: u32,
    /// Its seats.
    pub seats: Range<u16>,
    /// Where it stands.
    pub phase: Phase,
    /// When it was started.
    pub started: Instant,
    /// Event loops know of it.
    pub was_announced: bool,
    /// How long it is to serve.
    pub allotment: Allotment,
    /// Why it is to be replaced, whatever becomes of a reload meanwhile.
    pub worn_out: Option<Why>,
    /// It was told to leave, and is killed then.
    pub leaves_until: Option<Instant>,
    was_killed: Cell<bool>,
    /// Nothing more can be done to it: its end is on its way.
    is_dying: Cell<bool>,
    process: Process,
    /// The fork server that forked it or is to; `None`: it was started alone.
    parent: Option<u32>,
    control: Rc<ControlSocket>,
    events: Events,
}

/// What is known of a worker's process.
#[derive(Debug)]
enum Process {
    /// It was started; this watches it.
    Started(OwnedFd),
    /// A fork server is to fork it.
    Awaited {
        by: Rc<ForkProcess>,
        /// What it gets as soon as it is there.
        doom: Cell<Option<i32>>,
    },
}

impl Worker {
    /// Starts the process and the tasks that watch it.
    ///
    /// # Errors
    /// What `fork` and `exec` say.
    pub fn start(recipe: &Recipe<'_>, berth: Berth, events: &Events) -> io::Result<Worker> {
        let (ours, started) = start_bootstrap(recipe)?;
        tokio_uring::spawn(watch(Watched::new(&started.pidfd)?, events.clone()));
        let process = Process::Started(started.pidfd);
        Worker::new(berth, ours, started.pid, process, None, events)
    }

    /// A worker that a fork server is to fork, and its end of its control socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn awaited(
        berth: Berth,
        by: &Rc<ForkProcess>,
        events: &Events,
    ) -> io::Result<(Worker, OwnedFd)> {
        let (ours, theirs) = ControlSocket::pair()?;
        ours.set_nonblocking(true)?;
        let parent = Some(by.fork_server);
        let process = Process::Awaited { by: Rc::clone(by), doom: Cell::new(None) };
        let worker = Worker::new(berth, ours, 0, process, parent, events)?;
        Ok((worker, theirs.into_descriptor()))
    }

    fn new(
        berth: Berth,
        control: ControlSocket,
        pid: u32,
        process: Process,
        parent: Option<u32>,
        events: &Events,
    ) -> io::Result<Worker> {
        let control = Rc::new(control);
        let watched = Watched::new(&*control)?;
        let Berth { number, place, generation, seats, allotment } = berth;
        tokio_uring::spawn(listen(number, watched, Rc::clone(&control), events.clone()));
        Ok(Worker {
            number,
            place,
            generation,
            pid,
            seats,
            phase: Phase::Booting,
            started: Instant::now(),
            was_announced: false,
            allotment,
            worn_out: None,
            leaves_until: None,
            was_killed: Cell::new(false),
            is_dying: Cell::new(false),
            process,
            parent,
            control,
            events: events.clone(),
        })
    }

    /// Its fork server forked it.
    ///
    /// # Errors
    /// No descriptor is left to watch it with.
    pub fn is_forked(&mut self, pid: u32, pidfd: OwnedFd) -> io::Result<()> {
        tokio_uring::spawn(watch_forked(self.number, Watched::new(&pidfd)?, self.events.clone()));
        self.pid = pid;
        let before = std::mem::replace(&mut self.process, Process::Started(pidfd));
        if let Process::Awaited { doom, .. } = before
            && let Some(signal) = doom.get()
        {
            self.signal(signal);
        }
        Ok(())
    }

    /// Whether it waits for that fork server.
    pub fn awaits(&self, fork_server: u32) -> bool {
        self.parent == Some(fork_server) && matches!(self.process, Process::Awaited { .. })
    }

    /// The fork server that forked it or is to.
    pub fn forked_by(&self) -> Option<u32> {
        self.parent
    }

    /// After its end: what it said last and nobody read yet, if that is why it failed.
    pub fn hear_out(&mut self) {
        // Whatever else is in there, or an end or an error, tells nothing more of a dead process.
        while let Ok(Received::Message(message, _)) = self.control.receive() {
            if let FromWorker::Failed(failed) = message {
                self.phase = Phase::Failing(failed);
            }
        }
    }

    /// Sends what it needs to load the application.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn set_up(&self, setup: Setup, memory: &PoolMemory) -> Result<(), ControlError> {
        let message = ToWorker::Setup(Box::new(setup));
        self.control.send(&message, &memory.descriptors())
    }

    /// Tells it to end. One that cannot be told is dead or about to be killed.
    pub fn stop(&self, graceful: bool) {
        if let Err(error) = self.control.send(&ToWorker::Stop(Stop { graceful }), &[]) {
            tracing::debug!("worker {} cannot be told to stop: {error}", self.number);
        }
        self.give_up_waiting();
    }

    /// Asks it to look at a request of its, or to interrupt it.
    pub fn interrupt(&self, interrupt: Interrupt) {
        let message = ToWorker::Interrupt(Box::new(interrupt));
        if let Err(error) = self.control.send(&message, &[]) {
            tracing::warn!("worker {} cannot be told to interrupt: {error}", self.number);
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.was_killed.set(true);
        self.is_dying.set(true);
        self.signal(signals::KILL);
    }

    /// Has it write where each of its threads is (`faulthandler` is on) and end.
    pub fn abort(&self) {
        self.was_killed.set(true);
        match &self.process {
            // Where the import hangs is where its fork server is.
            Process::Awaited { by, .. } => by.signal(signals::ABRT),
            Process::Started(_) => self.signal(signals::ABRT),
        }
    }

    /// Whether the server itself ended it.
    pub fn was_killed(&self) -> bool {
        self.was_killed.get()
    }

    /// Whether it was ended at once and is only to be reaped.
    pub fn is_dying(&self) -> bool {
        self.is_dying.get()
    }

    fn signal(&self, signal: i32) {
        match &self.process {
            Process::Started(pidfd) => {
                // Refused only once it ended, which is what is wanted.
                let _ = pidfd_kill(pidfd, signal);
            }
            // Its fork server did not come up, or does not fork, in all the time it had.
            Process::Awaited { by, .. } if self.phase == Phase::Overdue => by.signal(signals::KILL),
            Process::Awaited { doom, .. } => {
                doom.set(Some(signal));
                self.give_up_waiting();
            }
        }
    }

    /// One whose fork server still imports is not asked for yet, and ends here. Of one that was
    /// asked for, the fork server will tell.
    fn give_up_waiting(&self) {
        if let Process::Awaited { by, .. } = &self.process
            && !by.is_ready.get()
        {
            self.events.tell(Event::NotForked { worker: self.number });
        }
    }

    /// How event loops know it.
    pub fn as_seats(&self, recipe: &Recipe<'_>, paired: bool) -> WorkerSeats {
        WorkerSeats {
            worker: self.number,
            seats: self.seats.clone(),
            generation: self.generation,
            one_lock: recipe.interpreter.has_one_lock,
            paired,
        }
    }
}

/// Starts what becomes a worker or a fork server, as its Setup says; gives our end of its control
/// socket.
///
/// # Errors
/// What `fork` and `exec` say.
pub(super) fn start_bootstrap(recipe: &Recipe<'_>) -> io::Result<(ControlSocket, Started)> {
    let (ours, theirs) = ControlSocket::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = interpreter_command(recipe);
    command.arg(CONTROL_DESCRIPTOR.to_string());
    let started = start(Start {
        command,
        control: theirs.as_fd(),
        descriptor_limit: recipe.descriptor_limit,
        oom_score_more: OOM_SCORE_MORE,
    })?;
    Ok((ours, started))
}

/// The interpreter with our bootstrap, in the workers' environment; what it is to do is still to be
/// said.
pub(super) fn interpreter_command(recipe: &Recipe<'_>) -> Command {
    let mut command = Command::new(&recipe.interpreter.executable);
    command.args(["-X", "faulthandler", "-c", BOOT]).arg(recipe.runtime_dir);
    // Meant for the server alone: an application may start servers of its own.
    for name in SERVER_VARIABLES {
        command.env_remove(name);
    }
    let said = &recipe.config.environment;
    command.envs(said.iter().map(|(name, value)| (name, value)));
    command
}

/// Reads the control socket until its end and tells the supervisor.
async fn listen(worker: u32, watched: Watched, control: Rc<ControlSocket>, events: Events) {
    loop {
        let Ok(mut ready) = watched.readable().await else { return };
        match control.receive::<FromWorker>() {
            Ok(Received::Message(message, _)) => events.tell(Event::Said { worker, message }),
            Ok(Received::Nothing) => ready.clear_ready(),
            // Its end is near; the pidfd says when.
            Ok(Received::Closed) => return,
            Err(error) => {
                return events.tell(Event::Garbled { worker, error: error.to_string() });
            }
        }
    }
}

/// Waits for the process to end.
pub(super) async fn watch(process: Watched, events: Events) {
    // Failing to watch is as good a reason to look.
    let _ = process.readable().await;
    events.tell(Event::ChildEnded);
}

/// Waits for the end of a process that is no child of ours. Its fork server says how it ended; the
/// supervisor looks for itself when that takes too long.
async fn watch_forked(worker: u32, process: Watched, events: Events) {
    // Failing to watch is as good a reason to look.
    let _ = process.readable().await;
    tokio::time::sleep(PARENT_GRACE).await;
    events.tell(Event::WorkerGone { worker });
}
