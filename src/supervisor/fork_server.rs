//! One fork server process (`--preload`): started like a worker, it imports the application once
//! and forks the workers of one generation.
//!
//! The conversation (`ringhorn_exchange::control`): it says Hello, gets a Setup without segments,
//! says Ready or Failed; then each Fork carries a new worker's control socket, and is answered with
//! Forked, which carries a pidfd, or ForkFailed. When one of its children ends it says how, before
//! it reaps it. A worker says Hello and all else on its own socket, whoever started it.
//!
//! `preload.rs` decides which fork servers there are and what their words mean for the pool.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use ringhorn_exchange::control::{ControlError, ControlSocket, Fork, FromWorker, Received};
use ringhorn_exchange::control::{Setup, Stop, ToWorker};

use super::events::{Event, Events};
use super::watched::Watched;
use super::worker::{Phase, Recipe, start_bootstrap, watch};
use crate::sys::process::{pidfd_kill, signals};

/// How long a fork server that was told to leave may take: `atexit` handlers run. By taste.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct ForkServer {
    /// Unique in the server's life, from 1.
    pub number: u32,
    /// Of its workers.
    pub generation: u32,
    /// Its process id; valid until it was reaped.
    pub pid: u32,
    /// Where it stands, as a worker does.
    pub phase: Phase,
    /// It was told to leave.
    pub is_retired: bool,
    /// What its workers know of it before they are forked.
    pub process: Rc<ForkProcess>,
    /// Workers to be forked once it is READY, with their ends of their control sockets.
    waiting: Vec<(u32, OwnedFd)>,
    control: Rc<ControlSocket>,
}

/// The process, as those see it that wait to be forked by it.
#[derive(Debug)]
pub struct ForkProcess {
    /// It imported the application: what it is asked for, it does soon.
    pub is_ready: Cell<bool>,
    /// Whose forks it does.
    pub fork_server: u32,
    pidfd: OwnedFd,
}

impl ForkProcess {
    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // Refused only once it ended, which is what is wanted.
        let _ = pidfd_kill(&self.pidfd, signal);
    }
}

impl ForkServer {
    /// Starts the process and the tasks that watch it.
    ///
    /// # Errors
    /// What `fork` and `exec` say.
    pub fn start(
        recipe: &Recipe<'_>,
        number: u32,
        generation: u32,
        events: &Events,
    ) -> io::Result<ForkServer> {
        let (ours, started) = start_bootstrap(recipe)?;
        let control = Rc::new(ours);
        let watched = Watched::new(&*control)?;
        tokio_uring::spawn(listen(number, watched, Rc::clone(&control), events.clone()));
        tokio_uring::spawn(watch(Watched::new(&started.pidfd)?, events.clone()));
        let (pid, pidfd) = (started.pid, started.pidfd);
        let is_ready = Cell::new(false);
        Ok(ForkServer {
            number,
            generation,
            pid,
            phase: Phase::Booting,
            is_retired: false,
            process: Rc::new(ForkProcess { is_ready, fork_server: number, pidfd }),
            waiting: Vec::new(),
            control,
        })
    }

    /// Sends what it needs to import the application.
    ///
    /// # Errors
    /// It is gone.
    pub fn set_up(&mut self, setup: Setup) -> Result<(), ControlError> {
        self.phase = Phase::Loading;
        self.control.send(&ToWorker::Setup(Box::new(setup)), &[])
    }

    /// Asks for a worker, now or once it is READY.
    ///
    /// # Errors
    /// It takes no messages.
    pub fn ask(&mut self, worker: u32, control: OwnedFd) -> Result<(), ControlError> {
        if !self.process.is_ready.get() {
            self.waiting.push((worker, control));
            return Ok(());
        }
        self.control.send(&ToWorker::Fork(Fork { worker }), &[control.as_fd()])
    }

    /// It imported the application; those that are still wanted of who waited are forked.
    ///
    /// # Errors
    /// It takes no messages.
    pub fn is_now_ready(
        &mut self,
        now: std::time::Instant,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<(), ControlError> {
        self.phase = Phase::Ready(now);
        self.process.is_ready.set(true);
        let waiting = std::mem::take(&mut self.waiting);
        let mut wanted = waiting.into_iter().filter(|(worker, _)| is_wanted(*worker));
        wanted.try_for_each(|(worker, control)| self.ask(worker, control))
    }

    /// Tells it to leave, and kills it when it does not. While it imports it hears nothing, and has
    /// nothing to lose.
    pub fn stop(&mut self) {
        self.is_retired = true;
        if !self.process.is_ready.get() {
            return self.process.signal(signals::KILL);
        }
        if let Err(error) = self.control.send(&ToWorker::Stop(Stop { graceful: true }), &[]) {
            tracing::debug!("fork server {} cannot be told to stop: {error}", self.number);
        }
        let process = Rc::clone(&self.process);
        tokio_uring::spawn(async move {
            tokio::time::sleep(STOP_GRACE).await;
            process.signal(signals::KILL);
        });
    }

    /// After its end: what it said last and nobody read yet.
    pub fn last_words(&self) -> Vec<(FromWorker, Vec<OwnedFd>)> {
        let mut words = Vec::new();
        // Whatever else is in there, or an end or an error, tells nothing more of a dead process.
        while let Ok(Received::Message(message, descriptors)) = self.control.receive() {
            words.push((message, descriptors));
        }
        words
    }
}

/// Reads the control socket until its end and tells the supervisor.
async fn listen(fork_server: u32, watched: Watched, control: Rc<ControlSocket>, events: Events) {
    loop {
        let Ok(mut ready) = watched.readable().await else { return };
        match control.receive::<FromWorker>() {
            Ok(Received::Message(message, descriptors)) => {
                events.tell(Event::ForkServerSaid { fork_server, message, descriptors });
            }
            Ok(Received::Nothing) => ready.clear_ready(),
            // Its end is near; the pidfd says when.
            Ok(Received::Closed) => return,
            Err(error) => {
                let error = error.to_string();
                return events.tell(Event::ForkServerGarbled { fork_server, error });
            }
        }
    }
}
