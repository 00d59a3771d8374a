//! The event loops as the supervisor sees them: started, commanded, listened to, joined.
//!
//! Invariants: a command is never lost (a loop that takes none for [`COMMAND_TIMEOUT`] is broken,
//! and a server with a broken loop ends); every command is followed by a ring of the loop's bell. A
//! thread that ends unasked has closed its report channel and is found by the next look at it.
//! Loops block every signal.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use ringhorn_exchange::LoopEnd;

use super::fault::{ExitCode, Fault, dead_loop};
use super::heartbeat::{Heartbeat, SILENCE_MAX};
use super::listeners::Listeners;
use crate::config::{LoopSettings, limits};
use crate::driver::uring::{PreparedUring, StartError, UringConfig, UringDriver, self_test};
use crate::event_loop::{self, Command, LoopSetup, Report};
use crate::metrics::LoopCounters;
use crate::sys::eventfd::EventFd;
use crate::sys::signals::Blocked;

/// A loop looks at its commands every turn, and a turn takes milliseconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a loop may take to end its thread.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// All event loops.
#[derive(Debug)]
pub struct Loops {
    loops: Vec<LoopHandle>,
}

#[derive(Debug)]
struct LoopHandle {
    commands: Sender<Command>,
    bell: EventFd,
    reports: Receiver<Report>,
    counters: Arc<LoopCounters>,
    thread: JoinHandle<()>,
}

/// What a look at the reports found.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    /// How many there were.
    pub reports: usize,
    /// A loop whose thread has ended; nothing more comes from it.
    pub ended: Option<u16>,
}

/// Rings that the kernel granted, before anything else is started.
pub struct Rings(Vec<PreparedUring>);

/// Asks the kernel for the loops' rings, after a test of what they need of it.
///
/// # Errors
/// What it refuses, with what to do about it.
pub fn prepare_rings(settings: &LoopSettings) -> Result<Rings, Fault> {
    let config = UringConfig::for_connections(event_loop::connection_numbers(settings));
    self_test(&config).map_err(|error| no_io_uring(&error))?;
    let rings = (0..settings.event_loops).map(|_| UringDriver::prepare(&config));
    let rings: Result<Vec<PreparedUring>, StartError> = rings.collect();
    rings.map(Rings).map_err(|error| no_io_uring(&error))
}

fn no_io_uring(error: &StartError) -> Fault {
    Fault::new(ExitCode::IoUring, error.to_string(), error.hint())
}

impl Loops {
    /// Starts a thread for each ring, with its end of each pool. Accepts stay closed.
    ///
    /// # Errors
    /// A thread or a descriptor is refused.
    pub fn start(
        rings: Rings,
        settings: &Arc<LoopSettings>,
        listeners: &Listeners,
        starts: Vec<(EventFd, Vec<LoopEnd>)>,
        reports_bell: &EventFd,
        cores: &[core_affinity::CoreId],
    ) -> Result<Loops, Fault> {
        let refused = |error: std::io::Error| {
            let hint = "raise the limits of threads and open files (ulimit -u, ulimit -n)";
            Fault::new(ExitCode::Runtime, format!("cannot start an event loop: {error}"), hint)
        };
        let _blocked = Blocked::all().map_err(refused)?;
        let mut loops = Vec::new();
        for (index, (ring, (bell, pools))) in rings.0.into_iter().zip(starts).enumerate() {
            let (commands, command_receiver) = bounded(limits::COMMANDS_QUEUED_MAX);
            let (report_sender, reports) = bounded(limits::REPORTS_QUEUED_MAX);
            let counters = Arc::new(LoopCounters::default());
            let setup = LoopSetup {
                // At most EVENT_LOOPS_MAX of them.
                index: index as u16,
                settings: Arc::clone(settings),
                listeners: listeners.of_loop(index as u32).map_err(refused)?,
                pools,
                bell: bell.try_clone().map_err(refused)?,
                reports_bell: reports_bell.try_clone().map_err(refused)?,
                commands: command_receiver,
                reports: report_sender,
                counters: Arc::clone(&counters),
                core: (!cores.is_empty()).then(|| cores[index % cores.len()]),
            };
            let thread = event_loop::start(setup, ring).map_err(refused)?;
            loops.push(LoopHandle { commands, bell, reports, counters, thread });
        }
        Ok(Loops { loops })
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.loops.len() as u16
    }

    /// Sends every loop the command that is made for it.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub fn command(&self, mut make: impl FnMut(u16) -> Command) -> Result<(), Fault> {
        for (index, event_loop) in self.loops.iter().enumerate() {
            let command = make(index as u16);
            let sent = event_loop.commands.send_timeout(command, COMMAND_TIMEOUT);
            let rung = event_loop.bell.ring();
            if sent.is_err() || rung.is_err() {
                return Err(dead_loop(index as u16, "takes no commands"));
            }
        }
        Ok(())
    }

    /// Takes every report that is there, a bounded number from each loop.
    pub fn reports(&self, mut take: impl FnMut(Report)) -> Fetched {
        let mut fetched = Fetched { reports: 0, ended: None };
        for (index, event_loop) in self.loops.iter().enumerate() {
            // As many as fit the channel: a loop that reports without end starves nobody.
            for _ in 0..limits::REPORTS_QUEUED_MAX {
                match event_loop.reports.try_recv() {
                    Ok(report) => {
                        fetched.reports += 1;
                        take(report);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        fetched.ended = fetched.ended.or(Some(index as u16));
                        break;
                    }
                }
            }
        }
        fetched
    }

    /// Rings every loop, if that is due.
    ///
    /// # Errors
    /// One has not turned for too long, although it was rung.
    pub fn beat(&self, heartbeat: &mut Heartbeat, now: Instant) -> Result<(), Fault> {
        if now < heartbeat.next_due() {
            return Ok(());
        }
        let turns = self.loops.iter().map(|event_loop| event_loop.counters.turns.read());
        if let Some(index) = heartbeat.beat(now, turns) {
            return Err(dead_loop(index, &format!("has not turned for {SILENCE_MAX:?}")));
        }
        for (index, event_loop) in self.loops.iter().enumerate() {
            if let Err(error) = event_loop.bell.ring() {
                return Err(dead_loop(index as u16, &format!("cannot be rung ({error})")));
            }
        }
        Ok(())
    }

    /// Reports that loops dropped because the channel was full, since they started.
    pub fn reports_dropped(&self) -> u64 {
        self.loops.iter().map(|event_loop| event_loop.counters.reports_dropped.read()).sum()
    }

    /// Turns of each loop since it started: one that was [rung](Loops::ring) for turns.
    pub fn turns(&self) -> Vec<u64> {
        self.loops.iter().map(|event_loop| event_loop.counters.turns.read()).collect()
    }

    /// Has every loop turn once.
    pub fn ring(&self) {
        for (index, event_loop) in self.loops.iter().enumerate() {
            if let Err(error) = event_loop.bell.ring() {
                tracing::error!("the bell of event loop {index} is broken: {error}");
            }
        }
    }

    /// Ends all threads; one that does not end is left to the exit of the process.
    pub fn quit(self) {
        for event_loop in &self.loops {
            // A full channel or a broken bell: the thread is beyond being told.
            let _ = event_loop.commands.try_send(Command::Quit);
            let _ = event_loop.bell.ring();
        }
        let patience = Instant::now() + JOIN_TIMEOUT;
        for (index, event_loop) in self.loops.into_iter().enumerate() {
            while !event_loop.thread.is_finished() {
                if Instant::now() > patience {
                    tracing::warn!("event loop {index} does not end");
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // A panic aborts the process (panic = abort), so there is no other result.
            let _ = event_loop.thread.join();
        }
    }
}

/// Duplicates of the descriptors of one loop's end, to hand to workers.
#[derive(Debug)]
pub struct LoopMemory {
    /// Written by the loop; cannot be mapped writable.
    pub down: OwnedFd,
    /// Written by workers.
    pub up: OwnedFd,
    /// The loop's eventfd.
    pub bell: OwnedFd,
}

#[cfg(test)]
mod tests;
