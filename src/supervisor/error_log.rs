//! The server's own log: lines on standard error, or in `--error-logfile`.
//!
//! The file *becomes* standard error, so that a panic, a library's complaint and everything that
//! workers write there land in it too. Only the supervisor's thread logs: an event loop reports
//! incidents, since a full pipe would block it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use tracing::Level;

use super::fault::{ExitCode, Fault};
use crate::config::{Config, LogTarget};
use crate::sys::descriptors;

/// Opens the log and installs the one subscriber.
///
/// # Errors
/// The file cannot be opened.
pub fn open(config: &Config) -> Result<(), Fault> {
    redirect(&config.error_log)?;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(level(&config.log_level))
        .finish();
    // Refused only if one is installed already, which then serves as well.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Opens the file again, after a log rotation moved it away (USR1).
///
/// # Errors
/// The file cannot be opened; the old one stays in use.
pub fn reopen(config: &Config) -> Result<(), Fault> {
    redirect(&config.error_log)
}

fn redirect(target: &LogTarget) -> Result<(), Fault> {
    let LogTarget::File(path) = target else { return Ok(()) };
    append(path)
        .and_then(|file| descriptors::become_standard_error(&file))
        .map_err(|error| cannot_open("error-logfile", path, &error))
}

/// A log file, created if missing, written at its end.
///
/// # Errors
/// As `open(2)`.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// What is said when a log cannot be opened.
pub fn cannot_open(option: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        ExitCode::Configuration,
        format!("--{option}: cannot open {}: {error}", path.display()),
        "create its folder, and let the server's user write there",
    )
}

fn level(word: &str) -> Level {
    match word {
        "error" => Level::ERROR,
        "warning" => Level::WARN,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        // The option's row admits these words and `info`.
        _ => Level::INFO,
    }
}
