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
use std::time::Instant;

use super::events::{Event, Events};
use super::facts::ServerFacts;
use super::interpreter::Interpreter;
use super::memory::PoolMemory;
use super::recycling::Allotment;
use super::watched::Watched;
use crate::config::Config;
use crate::config::said::LAUNCHED_BY;
use crate::sys::process::{pidfd_kill, signals};
use crate::sys::rlimit::DescriptorLimit;
use crate::sys::worker_start::{CONTROL_DESCRIPTOR, Start, start};
use ringhorn_exchange::WorkerSeats;
use ringhorn_exchange::control::{ControlError, ControlSocket, Failed, FromWorker, Received};
use ringhorn_exchange::control::{Setup, Stop, ToWorker};

/// Added to a worker's `oom_score_adj`: a tenth of the machine's memory ahead of the server. By
/// taste.
const OOM_SCORE_MORE: i32 = 100;

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
    /// It was told to leave, and is killed then.
    pub leaves_until: Option<Instant>,
    was_killed: Cell<bool>,
    pidfd: OwnedFd,
    control: Rc<ControlSocket>,
}

impl Worker {
    /// Starts the process and the tasks that watch it.
    ///
    /// # Errors
    /// What `fork` and `exec` say.
    pub fn start(recipe: &Recipe<'_>, berth: Berth, events: &Events) -> io::Result<Worker> {
        let (ours, theirs) = ControlSocket::pair()?;
        ours.set_nonblocking(true)?;
        let started = start(Start {
            command: command(recipe),
            control: theirs.as_fd(),
            descriptor_limit: recipe.descriptor_limit,
            oom_score_more: OOM_SCORE_MORE,
        })?;
        let (pid, pidfd) = (started.pid, started.pidfd);
        let control = Rc::new(ours);
        let watched = Watched::new(&*control)?;
        let Berth { number, place, generation, seats, allotment } = berth;
        tokio_uring::spawn(listen(number, watched, Rc::clone(&control), events.clone()));
        tokio_uring::spawn(watch(Watched::new(&pidfd)?, events.clone()));
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
            leaves_until: None,
            was_killed: Cell::new(false),
            pidfd,
            control,
        })
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
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.was_killed.set(true);
        // Refused only once it ended, which is what is wanted.
        let _ = pidfd_kill(&self.pidfd, signals::KILL);
    }

    /// Has it write where each of its threads is (`faulthandler` is on) and end.
    pub fn abort(&self) {
        self.was_killed.set(true);
        // As above.
        let _ = pidfd_kill(&self.pidfd, signals::ABRT);
    }

    /// Whether the server itself ended it.
    pub fn was_killed(&self) -> bool {
        self.was_killed.get()
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

fn command(recipe: &Recipe<'_>) -> Command {
    let mut command = interpreter_command(recipe);
    command.arg(CONTROL_DESCRIPTOR.to_string());
    command
}

/// The interpreter with our bootstrap, in the workers' environment; what it is to do is still to be
/// said.
pub(super) fn interpreter_command(recipe: &Recipe<'_>) -> Command {
    let mut command = Command::new(&recipe.interpreter.executable);
    command.args(["-X", "faulthandler", "-c", BOOT]).arg(recipe.runtime_dir);
    // Meant for the server alone: an application may start servers of its own.
    for name in [LAUNCHED_BY, "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
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
async fn watch(process: Watched, events: Events) {
    // Failing to watch is as good a reason to look.
    let _ = process.readable().await;
    events.tell(Event::ChildEnded);
}
