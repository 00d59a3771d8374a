//! What the server is to the rest of the system: its pid file, its title, what systemd hears, and
//! the servers before and after it (USR2).
//!
//! Beside the walk of a request: `serve.rs` tells each change of state here, once, and this decides
//! who has to hear of it.
//!
//! Invariants: a server that follows another is nobody to the system until that one said `go`, or
//! is gone; one that has handed over is nobody any more. Nothing here waits.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::events::Events;
use super::fault::Fault;
use super::listeners::Listeners;
use super::loops::Loops;
use super::notify::{Beat, Notifier, Pulse};
use super::pid_file::PidFile;
use super::predecessor::Predecessor;
use super::successor::Successor;
use super::title::Title;
use super::upgrade::{Invocation, Side, Word};
use crate::config::{Config, Environment};
use crate::event_loop::Command;
use crate::sys::rlimit::DescriptorLimit;

/// How often loops look at the backlogs anew while a server before this one accepts from them, or
/// is about to stop: a connection whose wake-up it took waits so long at most.
const LOOK_STEP: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Standing<'a> {
    config: &'a Config,
    invocation: &'a Invocation,
    descriptor_limit: DescriptorLimit,
    notifier: Notifier,
    pulse: Pulse,
    title: Title,
    pid_file: Option<PidFile>,
    role: Role<'a>,
    successor: Option<Successor>,
    /// While a server before this one lives, and once more: when loops look at the backlogs anew.
    look_at: Option<Instant>,
    predecessor_lives: bool,
    /// The generation that serves.
    generation: u32,
    /// What was said last of a server that serves, for the moment it takes over.
    status: String,
    is_reloading: bool,
    is_stopping: bool,
}

/// Which of the servers this is.
#[derive(Debug)]
enum Role<'a> {
    /// The only one, or the one that matters.
    Main,
    /// Another one is, and serves.
    Following {
        predecessor: &'a mut Predecessor,
        /// Numbers of its sockets that this one took.
        taken: Vec<usize>,
        is_open: bool,
    },
    /// It has handed over.
    Leaving,
}

/// What an upgrade changes for this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Nothing yet.
    Nothing,
    /// It is the server now.
    TookOver,
    /// Another one is: it is to drain.
    HandedOver {
        /// All sockets: what waits in their backlogs is the other's.
        has_all: bool,
    },
}

impl<'a> Standing<'a> {
    /// Takes the process's title. Call it while the process has one thread.
    pub fn take(
        config: &'a Config,
        environment: &Environment,
        invocation: &'a Invocation,
        descriptor_limit: DescriptorLimit,
    ) -> Standing<'a> {
        let notifier = Notifier::from_environment(environment, std::process::id());
        let pulse = Pulse::new(&notifier, Instant::now());
        Standing {
            config,
            invocation,
            descriptor_limit,
            notifier,
            pulse,
            title: Title::take(&config.name),
            pid_file: None,
            role: Role::Main,
            successor: None,
            look_at: None,
            predecessor_lives: false,
            generation: 1,
            status: String::new(),
            is_reloading: false,
            is_stopping: false,
        }
    }

    /// Listeners are bound: the pid file is written, unless another server has to hand it over.
    ///
    /// # Errors
    /// Another server has it, or it cannot be written.
    pub fn bound(
        &mut self,
        predecessor: Option<&'a mut Predecessor>,
        taken: &[usize],
    ) -> Result<(), Fault> {
        match predecessor {
            Some(predecessor) => {
                self.notifier.fall_silent();
                let taken = taken.to_vec();
                self.role = Role::Following { predecessor, taken, is_open: false };
            }
            None => {
                let path = self.config.pid_file.as_deref();
                self.pid_file = path.map(PidFile::create).transpose()?;
                self.notifier.status("loading the application");
            }
        }
        Ok(())
    }

    /// Watches the server before this one, if there is one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn watch(&self, events: &Events) -> std::io::Result<()> {
        match &self.role {
            Role::Following { predecessor, .. } => predecessor.watch(events),
            _ => Ok(()),
        }
    }

    /// The first worker is READY and the loops accept.
    pub fn opened(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        if let Role::Following { predecessor, taken, is_open } = &mut self.role {
            *is_open = true;
            predecessor.ready(taken);
            (self.predecessor_lives, self.look_at) = (true, Some(Instant::now()));
        }
        self.title.show(self.generation, "ready");
        self.notifier.ready(&self.status);
    }

    /// Follows reloads: whether one is under way, and which generation serves.
    pub fn follow(&mut self, is_reloading: bool, generation: u32) {
        let was_reloading = std::mem::replace(&mut self.is_reloading, is_reloading);
        self.generation = generation;
        if is_reloading == was_reloading || self.is_stopping {
            return;
        }
        if is_reloading {
            self.title.show(generation, "reloading");
            self.notifier.reloading("reloading the application");
        } else {
            self.title.show(generation, "ready");
            self.notifier.ready(&format!("{}, generation {generation}", self.status));
        }
    }

    /// The server ends, within that time.
    pub fn stopping(&mut self, within: Duration) {
        self.is_stopping = true;
        self.title.show(self.generation, "leaving");
        self.notifier.stopping(within, "finishing what is in flight");
        if let Some(successor) = &mut self.successor {
            tracing::warn!("upgrade refused: this server was told to stop");
            successor.give_up(Instant::now());
        }
    }

    /// When [`tend`](Standing::tend) has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let successor = self.successor.as_ref().map(Successor::due);
        successor.into_iter().chain(self.pulse.due()).chain(self.look_at).min()
    }

    /// Tells systemd that the server lives, if all of it does, and gives up a late successor.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub fn tend(&mut self, now: Instant, loops: &Loops) -> Result<(), Fault> {
        if let Some(successor) = &mut self.successor {
            successor.tend(now);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            loops.command(|_| Command::LookAtBacklog)?;
            self.look_at = self.predecessor_lives.then(|| now + LOOK_STEP);
        }
        self.feed_watchdog(now, loops);
        Ok(())
    }

    fn feed_watchdog(&mut self, now: Instant, loops: &Loops) {
        match self.pulse.beat(now, self.notifier.watchdog_pause(), loops.turns()) {
            Beat::NotDue => return,
            Beat::Due { still } if still.is_empty() => self.notifier.alive(),
            Beat::Due { still } => {
                tracing::error!("event loops {still:?} do not turn: the watchdog is told nothing");
            }
        }
        // Whoever lives has turned by the next time.
        loops.ring();
    }

    /// USR2.
    pub fn upgrade(&mut self, listeners: &Listeners, is_serving: bool, events: &Events) {
        let program = self.invocation.program.display();
        let refusal = match &self.role {
            _ if !is_serving => "this server does not serve (yet, or any more)".to_owned(),
            Role::Following { .. } => "this server has not taken over yet itself".to_owned(),
            Role::Leaving => "this server has handed over already".to_owned(),
            Role::Main if std::process::id() == 1 => {
                "this server is process 1, whose end ends the container: start a new container"
                    .to_owned()
            }
            Role::Main => match &self.successor {
                Some(successor) => format!("one is under way (process {})", successor.pid),
                None => {
                    let started = Successor::start(
                        self.invocation,
                        self.config,
                        listeners,
                        self.descriptor_limit,
                        events,
                    );
                    match started {
                        Ok(successor) => {
                            tracing::info!(
                                "upgrade: {program} starts as process {}",
                                successor.pid
                            );
                            self.successor = Some(successor);
                            self.title.show(self.generation, "upgrading");
                            self.notifier.status("an upgrade is under way");
                            return;
                        }
                        Err(error) => format!("{program} cannot be started: {error}"),
                    }
                }
            },
        };
        tracing::error!("upgrade refused: {refusal}; this server serves on");
    }

    /// Something was said on a channel, or it ended.
    pub fn heard(&mut self, by: Side, word: Option<Word>, listeners: &mut Listeners) -> Turned {
        match (by, word) {
            (Side::Predecessor, Some(Word::Go)) => return self.take_over(listeners),
            (Side::Predecessor, None) => {
                // What its accepts were woken for is ours.
                if std::mem::take(&mut self.predecessor_lives) {
                    self.look_at = Some(Instant::now());
                }
                return self.take_over(listeners);
            }
            (Side::Successor, Some(Word::Ready(taken))) => {
                return self.hand_over(&taken, listeners);
            }
            (Side::Successor, Some(Word::Refused { message, hint })) => {
                if let Some(successor) = &mut self.successor {
                    successor.refused(&message, &hint);
                }
            }
            // Its process ends, which the reaper tells.
            (Side::Successor, None) => {}
            (by, Some(word)) => tracing::warn!("upgrade: {word:?} of the {by:?} is out of turn"),
        }
        Turned::Nothing
    }

    fn hand_over(&mut self, taken: &[usize], listeners: &mut Listeners) -> Turned {
        let Some(successor) = self.successor.take_if(|successor| successor.is_awaited()) else {
            return Turned::Nothing;
        };
        tracing::info!("upgrade: process {} is ready and takes over", successor.pid);
        let has_all = listeners.hand_on(taken);
        if let Some(pid_file) = self.pid_file.take() {
            pid_file.hand_on();
        }
        // In this order: systemd believes its main process only.
        self.notifier.main_process(successor.pid);
        self.notifier.fall_silent();
        self.role = Role::Leaving;
        self.is_stopping = true;
        self.title.show(self.generation, "leaving");
        successor.go();
        Turned::HandedOver { has_all }
    }

    fn take_over(&mut self, listeners: &mut Listeners) -> Turned {
        match std::mem::replace(&mut self.role, Role::Main) {
            Role::Following { is_open, .. } => {
                listeners.take_files();
                // It serves without one as well: too late to refuse.
                match self.config.pid_file.as_deref().map(PidFile::replace).transpose() {
                    Ok(pid_file) => self.pid_file = pid_file,
                    Err(fault) => tracing::error!("{fault}; hint: {}", fault.hint),
                }
                self.notifier.speak();
                self.pulse = Pulse::new(&self.notifier, Instant::now());
                if is_open {
                    self.notifier.ready(&self.status);
                }
                let by = if is_open { "took over from" } else { "lost" };
                tracing::info!("upgrade: {by} the server before this one");
                Turned::TookOver
            }
            // The end of a channel over which everything was said.
            role => {
                self.role = role;
                Turned::Nothing
            }
        }
    }

    /// A child ended. Returns whether it was the successor.
    pub fn ended(&mut self, pid: u32, status: ExitStatus) -> bool {
        let Some(successor) = self.successor.take_if(|successor| successor.pid == pid) else {
            return false;
        };
        successor.ended(status);
        if matches!(self.role, Role::Main) {
            self.title.show(self.generation, "ready");
            self.notifier.status(&self.status);
        }
        true
    }
}
