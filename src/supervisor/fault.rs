//! Why a server does not start or ends: an exit code, one line of what failed, one of what to do.
//!
//! `docs/exit-codes.md` is the user's copy of [`ExitCode`].

use std::fmt;

use crate::config::ConfigError;

/// What the process exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Stopped as asked.
    Stopped = 0,
    /// Something broke at run time.
    Runtime = 1,
    /// The command line, the environment or a path in them is wrong.
    Configuration = 2,
    /// The application cannot be loaded.
    Application = 3,
    /// The interpreter or its runtime module cannot start.
    Worker = 4,
    /// The kernel refuses io_uring.
    IoUring = 5,
    /// An event loop ended, broke or hangs.
    EventLoop = 6,
}

/// A reason to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the process exits with.
    pub code: ExitCode,
    /// What failed, with the value.
    pub message: String,
    /// What to do, with the knob; may be empty where nothing can be done.
    pub hint: String,
}

impl Fault {
    /// A fault of its three parts.
    pub fn new(code: ExitCode, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), hint: hint.into() }
    }
}

/// What is said when an event loop is no more.
pub fn dead_loop(index: u16, what: &str) -> Fault {
    Fault::new(
        ExitCode::EventLoop,
        format!("event loop {index} {what}: the server ends"),
        "let the init system start it again; this is a fault of ringhorn or its kernel: please \
         report it with the log",
    )
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Fault {
        Fault::new(ExitCode::Configuration, error.message, error.hint)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
