//! The server that is to follow this one (USR2), as `upgrade.rs` describes it: started, waited for,
//! handed over to or given up.
//!
//! Beside the walk of a request. Invariants: whatever becomes of it, this server serves on until
//! the successor said `ready`; one that is given up is ended.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::events::Events;
use super::listeners::Listeners;
use super::upgrade::{self, Descriptors, Invocation, Side, Word};
use super::watched::Watched;
use crate::config::Config;
use crate::config::activation::UPGRADE;
use crate::sys::process::pidfd_kill;
use crate::sys::rlimit::DescriptorLimit;
use crate::sys::successor::start_successor;

/// What a successor that is given up may take to end its workers.
const GIVE_UP_GRACE: Duration = Duration::from_secs(5);
/// Beyond `--startup-timeout`, which its own workers have: it says why by then.
const BOOT_GRACE: Duration = Duration::from_secs(10);
/// As good as for ever (`--startup-timeout 0`).
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Signals, by number on every Linux: a fast stop, and the end.
const INT: i32 = 2;
const KILL: i32 = 9;

/// See the module.
#[derive(Debug)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    pidfd: OwnedFd,
    channel: Rc<Socket>,
    until: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It boots.
    Starting,
    /// It said why it cannot; it ends.
    Refusing,
    /// It was told to end.
    GivenUp,
}

impl Successor {
    /// Starts it.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn start(
        invocation: &Invocation,
        config: &Config,
        listeners: &Listeners,
        descriptor_limit: DescriptorLimit,
        events: &Events,
    ) -> io::Result<Successor> {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        ours.set_nonblocking(true)?;
        let sockets = listeners.for_successor();
        let numbers = sockets.iter().map(|(said, socket)| (socket.as_raw_fd(), (*said).to_owned()));
        let descriptors = Descriptors { channel: theirs.as_raw_fd(), sockets: numbers.collect() };
        let mut command = invocation.command();
        command.env(UPGRADE, descriptors.write());
        // Said of this process; without it the time holds for whoever is the main process.
        command.env_remove("WATCHDOG_PID");
        if config.passed_sockets.is_empty() {
            // They were for somebody else, which the successor could not tell.
            command.env_remove("LISTEN_FDS");
        }
        let mut keeps = vec![theirs.as_fd()];
        keeps.extend(sockets.iter().map(|(_, socket)| *socket));
        let started = start_successor(command, &keeps, descriptor_limit)?;
        let channel = Rc::new(ours);
        let watched = Watched::new(&*channel)?;
        let listened = Rc::clone(&channel);
        tokio_uring::spawn(upgrade::listen(watched, listened, Side::Successor, events.clone()));
        Ok(Successor {
            pid: started.pid,
            pidfd: started.pidfd,
            channel,
            until: Instant::now() + allowed_time(config),
            stage: Stage::Starting,
        })
    }

    /// When [`tend`](Successor::tend) has something to do.
    pub fn due(&self) -> Instant {
        self.until
    }

    /// Gives it up when its time is over.
    pub fn tend(&mut self, now: Instant) {
        if now < self.until {
            return;
        }
        match self.stage {
            Stage::Starting => {
                tracing::error!(
                    "upgrade refused: process {} is not ready within --startup-timeout and {BOOT_GRACE:?}; \
                     this server serves on",
                    self.pid
                );
                self.give_up(now);
            }
            Stage::Refusing => self.give_up(now),
            Stage::GivenUp => {
                self.signal(KILL);
                self.until = now + GIVE_UP_GRACE;
            }
        }
    }

    /// Tells it to end, and sees to it.
    pub fn give_up(&mut self, now: Instant) {
        self.signal(INT);
        self.stage = Stage::GivenUp;
        self.until = now + GIVE_UP_GRACE;
    }

    /// It said why it cannot start.
    pub fn refused(&mut self, message: &str, hint: &str) {
        if self.stage != Stage::Starting {
            return;
        }
        self.stage = Stage::Refusing;
        self.until = Instant::now() + GIVE_UP_GRACE;
        tracing::error!("upgrade refused: {message}; this server serves on");
        if !hint.is_empty() {
            tracing::error!("hint: {hint}");
        }
    }

    /// It ended; `true` if that is its answer.
    pub fn ended(&self, status: ExitStatus) {
        if self.stage == Stage::Starting {
            tracing::error!(
                "upgrade refused: process {} ended ({status}), what it said is above; this server \
                 serves on",
                self.pid
            );
        }
    }

    /// Whether it may take over.
    pub fn is_awaited(&self) -> bool {
        self.stage == Stage::Starting
    }

    /// Tells it that it is the server now.
    pub fn go(&self) {
        // One that is gone already is told by its end.
        if let Err(error) = upgrade::say(&self.channel, &Word::Go) {
            tracing::warn!("upgrade: process {} cannot be told: {error}", self.pid);
        }
    }

    fn signal(&self, number: i32) {
        // Refused only once it ended, which is what is wanted.
        let _ = pidfd_kill(&self.pidfd, number);
    }
}

/// How long it may take to be ready.
fn allowed_time(config: &Config) -> Duration {
    match config.lifecycle.startup_timeout {
        Duration::ZERO => FOR_EVER,
        timeout => timeout + BOOT_GRACE,
    }
}
