//! `--preload`: the pool's workers are forked from a process that imported the application.
//!
//! Beside the walk of a request. There is one fork server a generation, started when its first
//! worker is wanted: a reload imports the new release in a new one, recycling and replacements of
//! the dead fork from the one that is there. One that dies leaves its workers alone; the next is
//! started when a worker is wanted. One whose generation is over is told to leave.
//!
//! **Who reaps.** A forked worker is a child of its fork server, not of this process: that is what
//! `os.fork` gives, and only it runs the application's at-fork hooks as they are meant, once. A
//! second fork (so that the worker becomes an orphan of ours) would run them twice; `clone` with
//! CLONE_PARENT would run none. So the fork server sends a pidfd, opened before anybody could reap
//! the child, by which this process sees the end and sends signals, never by number; and the fork
//! server says how its children ended. This process is a subreaper: when a fork server dies its
//! workers become children of this process, which reaps them itself.
//!
//! Invariants: a worker that waits to be forked is in the pool and ends as any other does: with its
//! fork server, with ForkFailed, or when it is not wanted any more. What a fork server says
//! is believed only of processes that are its children.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Instant;

use ringhorn_exchange::control::{FORK_SERVER_OPTION, Failed, Forked, FromWorker, Hello, Setup};

use super::events::Events;
use super::fault::{ExitCode, Fault};
use super::fork_server::ForkServer;
use super::loops::Loops;
use super::pool::Pool;
use super::title::NAME_OPTION;
use super::verdict::{foreign_module, verdict};
use super::worker::{Berth, Phase, Worker};
use crate::sys::process::{is_child_of, pid_of, signals};

/// The fork servers of a pool.
#[derive(Debug, Default)]
pub struct ForkServers {
    all: Vec<ForkServer>,
    last_number: u32,
}

impl ForkServers {
    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells every one to leave.
    pub fn stop_all(&mut self) {
        self.all.iter_mut().for_each(ForkServer::stop);
    }

    /// Ends every one at once.
    pub fn kill_all(&self) {
        self.all.iter().for_each(|fork_server| fork_server.process.signal(signals::KILL));
    }

    fn find(&mut self, number: u32) -> Option<&mut ForkServer> {
        self.all.iter_mut().find(|fork_server| fork_server.number == number)
    }
}

/// How a worker ended, as far as anybody knows.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// As `waitpid` said.
    Status(ExitStatus),
    /// The application took the status from its fork server.
    Unknown,
    /// It was never forked: it was not wanted any more.
    NotForked,
    /// Its fork server ended so before it forked it.
    WithForkServer(ExitStatus),
    /// The fork was refused.
    ForkRefused,
}

impl Ending {
    /// The status, its own or that of the process it was to come from.
    pub fn exit_status(self) -> Option<ExitStatus> {
        match self {
            Ending::Status(status) | Ending::WithForkServer(status) => Some(status),
            Ending::Unknown | Ending::NotForked | Ending::ForkRefused => None,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Status(status) => status.fmt(f),
            Ending::Unknown => f.write_str("unknown status, which the application waited for"),
            Ending::NotForked => f.write_str("not forked"),
            Ending::WithForkServer(status) => write!(f, "fork server: {status}"),
            Ending::ForkRefused => f.write_str("not forked"),
        }
    }
}

impl Pool<'_> {
    /// Whether workers are forked.
    pub(super) fn preloads(&self) -> bool {
        self.recipe.config.startup.preload && !self.recipe.config.check
    }

    /// A worker that the fork server of its generation forks, now or once it is READY.
    ///
    /// # Errors
    /// A fork server cannot be started, or takes no messages.
    pub(super) fn fork(&mut self, berth: Berth, events: &Events) -> io::Result<Worker> {
        let generation = berth.generation;
        let serves = |it: &ForkServer| it.generation == generation && !it.is_retired;
        let at = match self.fork_servers.all.iter().position(serves) {
            Some(at) => at,
            None => {
                let number = self.fork_servers.last_number + 1;
                let started = ForkServer::start(&self.recipe, number, generation, events)?;
                let pid = started.pid;
                tracing::debug!("fork server {number} (pid {pid}) starts, generation {generation}");
                self.fork_servers.last_number = number;
                self.fork_servers.all.push(started);
                self.fork_servers.all.len() - 1
            }
        };
        let fork_server = &mut self.fork_servers.all[at];
        let number = berth.number;
        let (worker, theirs) = Worker::awaited(berth, &fork_server.process, events)?;
        fork_server.ask(number, theirs).map_err(io::Error::other)?;
        Ok(worker)
    }

    /// A fork server said something.
    ///
    /// # Errors
    /// The server has to end: see [`Pool::said`] and [`Pool::ended`].
    pub fn fork_server_said(
        &mut self,
        number: u32,
        message: FromWorker,
        descriptors: Vec<OwnedFd>,
        loops: Option<&Loops>,
        is_stopping: bool,
    ) -> Result<(), Fault> {
        let workers = &self.workers;
        let Some(fork_server) = self.fork_servers.find(number) else { return Ok(()) };
        match (message, &fork_server.phase) {
            (FromWorker::Hello(hello), Phase::Booting) => self.greet_fork_server(number, &hello),
            (FromWorker::Ready(_), Phase::Loading) => {
                tracing::debug!("fork server {number} (pid {}) is ready", fork_server.pid);
                let is_wanted = |worker| workers.contains_key(&worker);
                if let Err(error) = fork_server.is_now_ready(Instant::now(), is_wanted) {
                    self.fork_server_garbled(number, &error.to_string());
                }
                Ok(())
            }
            (FromWorker::Failed(failed), _) => {
                fork_server.phase = Phase::Failing(failed);
                Ok(())
            }
            (FromWorker::Forked(forked), _) => {
                let pid = fork_server.pid;
                match self.take_forked(forked, pid, descriptors) {
                    Ok(()) => Ok(()),
                    Err(what) => {
                        self.fork_server_garbled(number, &what);
                        Ok(())
                    }
                }
            }
            (FromWorker::ForkFailed(failed), _) => {
                let text = format!("ringhorn: {}", failed.text);
                if let Some(worker) = self.workers.get_mut(&failed.worker) {
                    worker.phase =
                        Phase::Failing(Failed { exit_code: ExitCode::Worker as i32, text });
                }
                self.worker_ended(failed.worker, Ending::ForkRefused, loops, is_stopping)
            }
            (FromWorker::Ended(ended), _) => {
                let status = ended.status.map(|status| ExitStatus::from_raw(status as i32));
                let ending = status.map_or(Ending::Unknown, Ending::Status);
                self.worker_ended(ended.worker, ending, loops, is_stopping)
            }
            (message, _) => {
                self.fork_server_garbled(number, &format!("{message:?} is out of turn"));
                Ok(())
            }
        }
    }

    /// A fork server that does not keep to the conversation is ended; its workers live on.
    pub fn fork_server_garbled(&mut self, number: u32, error: &str) {
        let Some(fork_server) = self.fork_servers.find(number) else { return };
        let pid = fork_server.pid;
        tracing::error!("fork server {number} (pid {pid}) is killed: {error}");
        fork_server.is_retired = true;
        fork_server.process.signal(signals::KILL);
    }

    fn greet_fork_server(&mut self, number: u32, hello: &Hello) -> Result<(), Fault> {
        let is_compatible = hello.is_compatible();
        let (recipe, was_ever_ready) = (&self.recipe, self.was_ever_ready());
        let Some(fork_server) = self.fork_servers.find(number) else { return Ok(()) };
        if !is_compatible {
            fork_server.process.signal(signals::KILL);
            let fault = foreign_module(recipe, hello);
            if !was_ever_ready {
                return Err(fault);
            }
            // Replaced on disk under a running server: those that serve go on.
            tracing::error!("fork server {number}: {fault}; restart the server");
            return Ok(());
        }
        let config = recipe.config;
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let mut options = recipe.facts.for_hooks(config);
        options.push((FORK_SERVER_OPTION.to_owned(), String::new()));
        options.push((NAME_OPTION.to_owned(), config.name.clone()));
        let setup = Setup {
            application: config.application.clone(),
            pythonpath: config.python_path.iter().map(|path| text(path)).collect(),
            chdir: Some(text(&config.working_dir)),
            generation: fork_server.generation,
            options,
            ..Setup::default()
        };
        if let Err(error) = fork_server.set_up(setup) {
            self.fork_server_garbled(number, &error.to_string());
        }
        Ok(())
    }

    /// A worker was forked. Who it is says its pidfd; whose child it is, the kernel.
    fn take_forked(
        &mut self,
        forked: Forked,
        parent: u32,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let pidfd = descriptors.into_iter().next().ok_or("a fork without a pidfd")?;
        let pid = pid_of(&pidfd).map_err(|error| format!("no pidfd: {error}"))?;
        // One that was reaped already cannot be signalled, whoever it was. If its parent died
        // meanwhile it is a child of this process.
        if let Some(pid) = pid {
            let is_child = |parent| is_child_of(pid, parent);
            if pid != forked.pid || !(is_child(parent) || is_child(std::process::id())) {
                return Err(format!("process {pid} is not a child of it"));
            }
        }
        // Not wanted any more: its socket is closed, so it ends by itself.
        let Some(worker) = self.workers.get_mut(&forked.worker) else { return Ok(()) };
        tracing::debug!("worker {} (pid {}) is forked", forked.worker, forked.pid);
        worker.is_forked(forked.pid, pidfd).map_err(|error| error.to_string())
    }

    /// A child ended: if it was a fork server, whoever still waited for it ends too.
    /// Returns whether it was one.
    ///
    /// # Errors
    /// See [`Pool::ended`].
    pub(super) fn fork_server_ended(
        &mut self,
        pid: u32,
        status: ExitStatus,
        loops: Option<&Loops>,
        is_stopping: bool,
    ) -> Result<bool, Fault> {
        let mut all = self.fork_servers.all.iter();
        let Some(number) = all.find(|it| it.pid == pid).map(|it| it.number) else {
            return Ok(false);
        };
        let mut end = Ok(());
        for (message, descriptors) in
            self.fork_servers.find(number).map(|it| it.last_words()).unwrap_or_default()
        {
            // A fork that was announced just before is no child of it any more, and as real.
            let said = self.fork_server_said(number, message, descriptors, loops, is_stopping);
            end = end.and(said);
        }
        let Some(at) = self.fork_servers.all.iter().position(|it| it.number == number) else {
            return end.map(|()| true);
        };
        let fork_server = self.fork_servers.all.remove(at);
        self.note_fork_server_end(&fork_server, status, is_stopping);
        let awaits = |worker: &&Worker| worker.awaits(number);
        let awaiting: Vec<u32> =
            self.workers.values().filter(awaits).map(|worker| worker.number).collect();
        for worker in awaiting {
            if let Some(worker) = self.workers.get_mut(&worker)
                && worker.phase != Phase::Overdue
            {
                worker.phase = match &fork_server.phase {
                    Phase::Ready(_) => Phase::Loading,
                    phase => phase.clone(),
                };
            }
            let ending = Ending::WithForkServer(status);
            end = end.and(self.worker_ended(worker, ending, loops, is_stopping));
        }
        end.map(|()| true)
    }

    fn note_fork_server_end(
        &self,
        fork_server: &ForkServer,
        status: ExitStatus,
        is_stopping: bool,
    ) {
        let ForkServer { number, pid, .. } = fork_server;
        match &fork_server.phase {
            _ if is_stopping || fork_server.is_retired => {
                tracing::debug!("fork server {number} (pid {pid}) ended: {status}");
            }
            Phase::Failing(failed) => {
                tracing::error!("fork server {number} (pid {pid}) ended: {}", verdict(failed));
            }
            _ => tracing::error!(
                "fork server {number} (pid {pid}) ended: {status}; its workers serve on, the next \
                 one starts when a worker is needed"
            ),
        }
    }

    /// A worker's process ended a while ago and its fork server did not say how.
    ///
    /// # Errors
    /// See [`Pool::ended`].
    pub fn worker_gone(
        &mut self,
        number: u32,
        loops: Option<&Loops>,
        is_stopping: bool,
    ) -> Result<(), Fault> {
        let Some(worker) = self.workers.get(&number) else { return Ok(()) };
        match worker.forked_by().filter(|parent| self.fork_servers.find(*parent).is_some()) {
            // Its end hands the dead worker to this process, which learns the status then.
            Some(parent) => {
                self.fork_server_garbled(parent, "it does not say how its workers end");
                Ok(())
            }
            None => self.worker_ended(number, Ending::Unknown, loops, is_stopping),
        }
    }

    /// A worker that waits for its fork server is not wanted any more.
    ///
    /// # Errors
    /// See [`Pool::ended`].
    pub fn not_forked(
        &mut self,
        number: u32,
        loops: Option<&Loops>,
        is_stopping: bool,
    ) -> Result<(), Fault> {
        self.worker_ended(number, Ending::NotForked, loops, is_stopping)
    }

    /// Fork servers of generations that start no workers any more leave.
    pub(super) fn retire_fork_servers(&mut self) {
        let current = self.generations.ceiling;
        let next = self.renewal.as_ref().map(|renewal| renewal.generation);
        for fork_server in &mut self.fork_servers.all {
            let is_used = fork_server.generation == current || Some(fork_server.generation) == next;
            if !is_used && !fork_server.is_retired {
                let ForkServer { number, pid, generation, .. } = *fork_server;
                tracing::debug!(
                    "fork server {number} (pid {pid}) leaves: generation {generation} is over"
                );
                fork_server.stop();
            }
        }
    }

    /// Its fork servers, a line each, for an operator.
    pub(super) fn fork_servers_status(&self) -> String {
        let line = |it: &ForkServer| {
            let state = match &it.phase {
                _ if it.is_retired => "leaving",
                Phase::Booting | Phase::Loading => "loading",
                Phase::Ready(_) => "ready",
                Phase::Failing(_) | Phase::Overdue => "failing",
            };
            format!(
                "fork server {} (pid {}): generation {}, {state}\n",
                it.number, it.pid, it.generation
            )
        };
        self.fork_servers.all.iter().map(line).collect()
    }
}
