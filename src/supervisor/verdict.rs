//! Why a worker did not become READY, in words: for the log, for whoever asked for a reload, and
//! for the end of a server whose first worker never came up.
//!
//! A worker that fails says so before it ends (`Failed`): its verdict stands under our name at the
//! end of what it said, its advice behind `hint:`.

use std::time::Duration;

use ringhorn_exchange::LAYOUT_HASH;
use ringhorn_exchange::control::{Failed, Hello};

use super::fault::{ExitCode, Fault};
use super::preload::Ending;
use super::worker::{Phase, Recipe, Worker};

/// How a worker's verdict begins in [`Failed`]'s text.
const VERDICT_MARK: &str = "ringhorn: ";
/// How its advice begins.
const ADVICE_MARK: &str = "hint: ";

/// Why a worker failed, in one line: its own verdict, else the last line of what it said.
pub fn verdict(failed: &Failed) -> &str {
    let lines = || failed.text.lines().map(str::trim).filter(|line| !line.is_empty());
    let verdict = lines().filter_map(|line| line.strip_prefix(VERDICT_MARK)).next_back();
    verdict.or_else(|| lines().next_back()).unwrap_or("it said nothing")
}

/// What a failed worker advises, or else this.
fn advice(failed: &Failed, otherwise: &str) -> String {
    let advice = failed.text.lines().filter_map(|line| line.strip_prefix(ADVICE_MARK)).next_back();
    advice.unwrap_or(otherwise).to_owned()
}

/// How a worker ended, in one line of the log.
pub fn end_of(worker: &Worker, status: Ending) -> String {
    match &worker.phase {
        Phase::Failing(failed) => format!("{status}: {}", verdict(failed)),
        Phase::Overdue => format!("{status}: it was not ready within --startup-timeout"),
        _ => status.to_string(),
    }
}

/// Why a worker that ended was never READY.
pub fn never_ready(recipe: &Recipe<'_>, worker: &Worker, status: Ending) -> Fault {
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
        Phase::Overdue => overdue(recipe.config.lifecycle.startup_timeout, application),
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

fn overdue(timeout: Duration, application: &str) -> Fault {
    Fault::new(
        ExitCode::Application,
        format!("the application {application} was not ready within --startup-timeout {timeout:?}"),
        "where it hangs is in the log above; raise --startup-timeout if it only takes long",
    )
}

/// A worker's module is of another build than the server.
pub fn foreign_module(recipe: &Recipe<'_>, hello: &Hello) -> Fault {
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
