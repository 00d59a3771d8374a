//! `--check`: one worker loads the application and leaves; no ring, no listener, no loop.

use std::io::Write as _;
use std::time::Instant;

use super::events::{Event, Events};
use super::fault::{ExitCode, Fault};
use super::pool::{Pool, Turn};
use crate::sys::eventfd::EventFd;
use crate::sys::process;

/// Starts a worker and waits for its verdict.
///
/// # Errors
/// What it could not load.
pub async fn check(mut pool: Pool<'_>) -> Result<(), Fault> {
    let (events, mut queue) = Events::queue();
    events.watch(new_bell()?)?;
    loop {
        pool.tend(Instant::now(), &events);
        let event = match pool.next_due() {
            Some(due) => tokio::time::timeout_at(due.into(), queue.recv()).await.ok().flatten(),
            None => queue.recv().await,
        };
        match event {
            Some(Event::Said { worker, message }) => {
                if pool.said(worker, message, None)? == Turn::FirstReady {
                    pool.stop_all(false);
                    return say_ok();
                }
            }
            Some(Event::ChildEnded) => {
                while let Some((pid, status)) = process::reap().map_err(cannot_wait)? {
                    pool.ended(pid, status, None, false)?;
                }
            }
            Some(Event::Garbled { worker, error }) => pool.garbled(worker, &error),
            Some(Event::Signal(signal)) => {
                pool.kill_all();
                let message = format!("the check was interrupted by {signal:?}");
                return Err(Fault::new(ExitCode::Runtime, message, ""));
            }
            // Nothing is forked, served, watched or asked during a check.
            Some(
                Event::ForkServerSaid { .. }
                | Event::ForkServerGarbled { .. }
                | Event::NotForked { .. }
                | Event::WorkerGone { .. }
                | Event::Reported
                | Event::Asked(..)
                | Event::Touched(_)
                | Event::Told { .. },
            )
            | None => {}
        }
    }
}

fn cannot_wait(error: std::io::Error) -> Fault {
    Fault::new(ExitCode::Runtime, format!("cannot wait for the worker: {error}"), "")
}

fn new_bell() -> Result<EventFd, Fault> {
    EventFd::new().map_err(|error| {
        Fault::new(ExitCode::Runtime, format!("no descriptor is left: {error}"), "raise ulimit -n")
    })
}

fn say_ok() -> Result<(), Fault> {
    writeln!(std::io::stdout(), "OK").map_err(|error| {
        Fault::new(ExitCode::Runtime, format!("cannot write to standard output: {error}"), "")
    })
}
