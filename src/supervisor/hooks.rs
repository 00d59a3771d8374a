//! Hooks of the server (`--hooks`): `on_starting`, `when_ready`, `on_reload`, `on_exit`.
//!
//! The server runs no Python: each runs in a process of its own, of the interpreter that workers
//! run on (`runtimes/python/ringhorn/_hooks.py`, `run_for_server`), which imports the module
//! without the application, calls that function and ends. What it prints is in the error log; its
//! standard output is a socket on which it reports in lines: `defines NAME…`, `failed WHAT`,
//! `hint WHAT`.
//!
//! The first of these processes runs before anything is bound: it checks the module, says which
//! hooks there are (for the others no process is started) and calls `on_starting`. If that fails
//! the server does not start. Whatever fails later is logged, and the server goes on. Nothing waits
//! for `when_ready` and `on_reload`; `on_exit` is the last thing a server does, and waited for.
//!
//! Invariants: a process of a hook is ended after [`TIMEOUT`], by itself even when the server is
//! gone; a server that ends leaves none behind.

use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::events::{Event, Signal};
use super::facts::ServerFacts;
use super::fault::{ExitCode, Fault};
use super::privileges::Privileges;
use super::watched::Watched;
use super::worker::{Recipe, interpreter_command};
use crate::sys::process::{output_within, pidfd_kill, pidfd_open, signals};
use crate::sys::worker_start::start_like_a_worker;

/// How long a hook may take. By taste: a hook prepares, it does not work.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much later it is killed, if it did not end itself with its stack in the log.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// Bytes that are read of a report: it has three short lines.
const REPORT_BYTES_MAX: u64 = 16 * 1024;

/// A hook of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before anything is bound.
    OnStarting,
    /// The first worker is READY and connections are accepted.
    WhenReady,
    /// A reload begins.
    OnReload,
    /// All workers have ended.
    OnExit,
}

impl Hook {
    const ALL: [Hook; 4] = [Hook::OnStarting, Hook::WhenReady, Hook::OnReload, Hook::OnExit];

    /// Its name in the module.
    fn name(self) -> &'static str {
        match self {
            Hook::OnStarting => "on_starting",
            Hook::WhenReady => "when_ready",
            Hook::OnReload => "on_reload",
            Hook::OnExit => "on_exit",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The hooks of a server; all of it does nothing without `--hooks`.
#[derive(Debug)]
pub struct Hooks<'a> {
    recipe: Recipe<'a>,
    defined: Vec<Hook>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    hook: Hook,
    child: Child,
    pidfd: OwnedFd,
    report: UnixStream,
    started: Instant,
}

impl<'a> Hooks<'a> {
    /// Checks the module and runs `on_starting`, if there is one. Waits for it: nothing has begun.
    /// With `--check` nothing runs.
    ///
    /// # Errors
    /// The module cannot be used, or `on_starting` failed.
    pub fn start(recipe: &Recipe<'a>, privileges: &Privileges) -> Result<Hooks<'a>, Fault> {
        let mut hooks = Hooks { recipe: recipe.clone(), defined: Vec::new(), running: Vec::new() };
        let Some(module) = &recipe.config.startup.hooks else { return Ok(hooks) };
        let name = if recipe.config.check { "check" } else { Hook::OnStarting.name() };
        let refused = |error: io::Error| {
            let message = format!("--hooks {module}: no interpreter can be started: {error}");
            Fault::new(ExitCode::Runtime, message, "check the limits of processes and open files")
        };
        // In the server's own process group: until it serves, one Ctrl-C ends both.
        let (mut command, report) = hooks.command(name, 0).map_err(refused)?;
        // It is the user's code, and the server may still be root.
        privileges.assume_in_child(&mut command);
        let started = Instant::now();
        let child = command.spawn().map_err(refused)?;
        let ended = output_within(child, TIMEOUT + KILL_AFTER).map(|output| output.status);
        let report = Report::read(report);
        let what = match ended {
            Ok(status) => report.verdict(status, started.elapsed()),
            Err(error) => Some(format!("{name} of {module}: {error}")),
        };
        if let Some(what) = what {
            let hint = report.hint.unwrap_or_else(|| {
                "its traceback is in the log above; without --hooks it does not run".to_owned()
            });
            let message = format!("{what}; the server does not start");
            return Err(Fault::new(ExitCode::Application, message, hint));
        }
        hooks.defined = report.defined;
        Ok(hooks)
    }

    /// How long the end of the server may take for `on_exit`.
    pub fn time_at_exit(&self) -> Duration {
        if self.defined.contains(&Hook::OnExit) { TIMEOUT + KILL_AFTER } else { Duration::ZERO }
    }

    /// From now on hooks are told where the server listens.
    pub fn introduce(&mut self, facts: &ServerFacts) {
        self.recipe.facts = facts.clone();
    }

    /// Starts a hook, if it is defined, and returns at once.
    pub fn run(&mut self, hook: Hook, generation: u32) {
        let Some(running) = self.try_start(hook, generation) else { return };
        match running.pidfd.try_clone().and_then(|pidfd| Ok((Watched::new(&pidfd)?, pidfd))) {
            Ok((watched, pidfd)) => drop(tokio_uring::spawn(bound(watched, pidfd))),
            // It bounds itself as well, unless it hangs where no thread of it runs.
            Err(error) => tracing::warn!("the hook {hook} is not watched: {error}"),
        }
        self.running.push(running);
    }

    /// Takes the end of a child, if it was one that ran a hook; returns whether it was.
    pub fn ended(&mut self, pid: u32, status: ExitStatus) -> bool {
        let is_its = |running: &Running| running.child.id() == pid;
        let Some(at) = self.running.iter().position(is_its) else { return false };
        let running = self.running.swap_remove(at);
        running.note_end(&self.recipe, status);
        true
    }

    /// The server ends: hooks that still run are killed, then `on_exit` runs and is waited for. A
    /// signal that stops the server at once ends it too.
    pub async fn finish(mut self, generation: u32, queue: &mut UnboundedReceiver<Event>) {
        self.kill_all();
        let Some(mut running) = self.try_start(Hook::OnExit, generation) else { return };
        let until = tokio::time::Instant::from_std(running.started + TIMEOUT + KILL_AFTER);
        match Watched::new(&running.pidfd) {
            Ok(watched) => loop {
                let event = tokio::select! {
                    _ = watched.readable() => break,
                    () = tokio::time::sleep_until(until) => None,
                    event = queue.recv() => event,
                };
                let is_fast = matches!(event, Some(Event::Signal(Signal::Int | Signal::Quit)));
                if event.is_none() || is_fast {
                    let _ = pidfd_kill(&running.pidfd, signals::KILL);
                    break;
                }
            },
            Err(error) => tracing::warn!("the hook {} is not watched: {error}", running.hook),
        }
        match running.child.wait() {
            Ok(status) => running.note_end(&self.recipe, status),
            Err(error) => tracing::error!("the hook {} is lost: {error}", running.hook),
        }
    }

    /// Ends those that still run.
    pub fn kill_all(&mut self) {
        for mut running in self.running.drain(..) {
            tracing::warn!("the hook {} still ran: it is killed", running.hook);
            // Refused only once it ended, which is what is wanted.
            let _ = pidfd_kill(&running.pidfd, signals::KILL);
            let _ = running.child.wait();
        }
    }

    fn try_start(&self, hook: Hook, generation: u32) -> Option<Running> {
        if !self.defined.contains(&hook) {
            return None;
        }
        let start = || {
            let (mut command, report) = self.command(hook.name(), generation)?;
            command.process_group(0);
            let child = command.spawn()?;
            // Nobody waited for it yet: its number is still its own.
            let pidfd = pidfd_open(child.id())?;
            Ok::<_, io::Error>(Running { hook, child, pidfd, report, started: Instant::now() })
        };
        match start() {
            Ok(running) => {
                tracing::debug!("the hook {hook} runs (pid {})", running.child.id());
                Some(running)
            }
            Err(error) => {
                tracing::error!("the hook {hook} cannot be started: {error}; the server goes on");
                None
            }
        }
    }

    fn command(&self, name: &str, generation: u32) -> io::Result<(Command, UnixStream)> {
        let config = self.recipe.config;
        let (ours, theirs) = UnixStream::pair()?;
        // The command, or what a hook left behind, may hold the other end: reading never waits.
        ours.set_nonblocking(true)?;
        let mut command = interpreter_command(&self.recipe);
        command.arg("hook").arg(name);
        let mut fact = |name: &str, value: &str| {
            command.arg(format!("{name}={value}"));
        };
        fact("timeout", &TIMEOUT.as_secs().to_string());
        fact("chdir", &config.working_dir.to_string_lossy());
        fact("generation", &generation.to_string());
        config.python_path.iter().for_each(|dir| fact("pythonpath", &dir.to_string_lossy()));
        let facts = self.recipe.facts.for_hooks(config);
        facts.iter().for_each(|(name, value)| fact(name, value));
        command.stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).stderr(Stdio::inherit());
        start_like_a_worker(&mut command, self.recipe.descriptor_limit);
        Ok((command, ours))
    }
}

/// Kills a hook that takes too long.
async fn bound(watched: Watched, pidfd: OwnedFd) {
    if tokio::time::timeout(TIMEOUT + KILL_AFTER, watched.readable()).await.is_err() {
        // Refused only once it ended, which is what is wanted.
        let _ = pidfd_kill(&pidfd, signals::KILL);
    }
}

impl Running {
    fn note_end(self, recipe: &Recipe<'_>, status: ExitStatus) {
        let hook = self.hook;
        let (pid, took) = (self.child.id(), self.started.elapsed());
        let Some(what) = Report::read(self.report).verdict(status, took) else {
            return tracing::debug!("the hook {hook} (pid {pid}) is done after {took:.1?}");
        };
        let module = recipe.config.startup.hooks.as_deref().unwrap_or_default();
        tracing::error!("hook {hook} of --hooks {module}: {what}; the server goes on");
    }
}

/// What a process said of its hook.
#[derive(Debug, Default)]
struct Report {
    defined: Vec<Hook>,
    failed: Option<String>,
    hint: Option<String>,
}

impl Report {
    fn read(stream: UnixStream) -> Report {
        let mut bytes = Vec::new();
        // Ends with its end, or with `WouldBlock`: then what was said is all there is.
        let _ = stream.take(REPORT_BYTES_MAX).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let mut report = Report::default();
        for (word, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
            match word {
                "defines" => {
                    let is_named = |hook: &Hook| rest.split(' ').any(|name| name == hook.name());
                    report.defined = Hook::ALL.into_iter().filter(is_named).collect();
                }
                "failed" => report.failed = Some(rest.to_owned()),
                "hint" if !rest.is_empty() => report.hint = Some(rest.to_owned()),
                _ => {}
            }
        }
        report
    }

    /// What went wrong, if anything did.
    fn verdict(&self, status: ExitStatus, took: Duration) -> Option<String> {
        if self.failed.is_some() {
            return self.failed.clone();
        }
        if status.success() {
            return None;
        }
        Some(match took >= TIMEOUT {
            true => format!("it was ended after {TIMEOUT:?}; where it hung is in the log above"),
            false => format!("its interpreter ended ({status})"),
        })
    }
}
