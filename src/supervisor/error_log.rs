//! The server's own log: lines on standard error, or in `--error-logfile`.
//!
//! The file *becomes* standard error, so that a panic, a library's complaint and everything that
//! workers write there land in it too. Only the supervisor's thread logs: an event loop reports
//! incidents, since a full pipe would block it.
//!
//! Invariants: a target that takes nothing (a full disk, a pipe that nobody reads any more) costs
//! lines, never the server: what is lost is counted, and said in the log once it takes lines again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

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
        .with_writer(Mutex::new(Unfailing::new(io::stderr())))
        .with_ansi(false)
        .with_target(false)
        .with_max_level(level(&config.log_level))
        .finish();
    // Refused only if one is installed already, which then serves as well.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// Writes lines to a target that may fail. An error that came back from here would be printed by
/// the subscriber to standard error, the same target, and the failure of that is a panic.
#[derive(Debug)]
struct Unfailing<W> {
    target: W,
    /// Lines lost since the last one that was written.
    lost: u64,
    /// Why, the first time.
    error: Option<io::Error>,
    /// A line was cut in the middle: the next one begins on a line of its own.
    is_cut: bool,
}

impl<W: Write> Unfailing<W> {
    fn new(target: W) -> Unfailing<W> {
        Unfailing { target, lost: 0, error: None, is_cut: false }
    }

    /// Writes all of a line, or counts it.
    fn write_line(&mut self, line: &[u8]) {
        if self.lost > 0 {
            let cut = if self.is_cut { "\n" } else { "" };
            let (lost, error) = (self.lost, &self.error);
            let why = error.as_ref().map_or_else(String::new, ToString::to_string);
            let note = format!("{cut}ringhorn: {lost} lines of this log are lost: {why}\n");
            if !self.write_or_note(note.as_bytes()) {
                self.lost += 1;
                return;
            }
            (self.lost, self.error, self.is_cut) = (0, None, false);
        }
        if !self.write_or_note(line) {
            self.lost += 1;
        }
    }

    /// Whether all of it was written.
    fn write_or_note(&mut self, text: &[u8]) -> bool {
        let mut left = text;
        while !left.is_empty() {
            match self.target.write(left) {
                Ok(0) => return false,
                Ok(bytes) => left = &left[bytes..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.error.get_or_insert(error);
                    // Of a note that was cut itself, the next one tells again.
                    self.is_cut |= left.len() < text.len();
                    return false;
                }
            }
        }
        true
    }
}

impl<W: Write> Write for Unfailing<W> {
    /// One call is one line: the subscriber formats an event whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then nothing.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.text.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn full_after(room: usize) -> Unfailing<Disk> {
        Unfailing::new(Disk { room, text: Vec::new() })
    }

    fn text(log: &Unfailing<Disk>) -> &str {
        std::str::from_utf8(&log.target.text).unwrap()
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_and_told() {
        let mut log = full_after(4);
        for line in ["one\n", "two\n", "three\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        log.target.room = 1000;
        log.write_all(b"four\n").unwrap();
        log.write_all(b"five\n").unwrap();
        let why = io::Error::from(io::ErrorKind::StorageFull);
        let told = format!("one\nringhorn: 2 lines of this log are lost: {why}\nfour\nfive\n");
        assert_eq!(text(&log), told);
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next() {
        let mut log = full_after(5);
        log.write_all(b"cut here\n").unwrap();
        log.target.room = 20;
        // The note itself is cut.
        log.write_all(b"lost\n").unwrap();
        log.target.room = 1000;
        log.write_all(b"whole\n").unwrap();
        let lines: Vec<_> = text(&log).lines().collect();
        assert_eq!(lines[..2], ["cut h", "ringhorn: 1 lines o"]);
        assert!(lines[2].starts_with("ringhorn: 2 lines of this log are lost"), "{lines:?}");
        assert_eq!(lines[3..], ["whole"]);
    }
}
