//! The door: command line and environment in, exit code out.
//!
//! Errors are two lines on standard error: `error:` what failed, `hint:` what to do.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use crate::config::asking::{self, Asking, Read};
use crate::config::{Asked, Config, ConfigError, Environment, Options};
use crate::control::client::{self, Target};
use crate::control::{Answer, Request};
use crate::supervisor::{self, fault};

/// Runs the program on a command line, program name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // There is nobody left to tell if this fails.
            let mut out = std::io::stderr().lock();
            let _ = writeln!(out, "error: {}", fault.message);
            if !fault.hint.is_empty() {
                let _ = writeln!(out, "hint: {}", fault.hint);
            }
            ExitCode::from(fault.code as u8)
        }
    }
}

fn serve(arguments: impl IntoIterator<Item = OsString>) -> Result<(), fault::Fault> {
    // What is not UTF-8 is no option of ours, and workers inherit it untouched.
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match asking::read(&arguments)? {
        Some(Read::Ask(asking)) => return ask(asking, &environment),
        Some(Read::Print(text)) => return print(&text),
        None => {}
    }
    let options = match Options::read(arguments, &environment)? {
        Asked::Serve(options) => options,
        Asked::Print(text) => return print(&text),
    };
    let start_dir = std::env::current_dir().map_err(|error| {
        ConfigError::new(format!("no working directory: {error}"), "start the server in a folder")
    })?;
    let config = Config::resolve(&options, &environment, &start_dir)?;
    supervisor::run(&config, &environment, &options.warnings)
}

/// Asks a running server, and says what it answered.
fn ask(asking: Asking, environment: &Environment) -> Result<(), fault::Fault> {
    let Some(request) = Request::parse(asking.word) else {
        unreachable!("{} asks for nothing", asking.word)
    };
    let target = Target { socket: asking.socket, pid: asking.pid };
    match client::ask(&target, request, environment)? {
        Answer::Done(text) => print(&format!("{}\n", text.trim_end())),
        Answer::Refused { message, hint, text } => {
            if !text.is_empty() {
                // What stands behind the error belongs where the error goes.
                let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
            }
            Err(fault::Fault::new(fault::ExitCode::Runtime, message, hint))
        }
    }
}

fn print(text: &str) -> Result<(), fault::Fault> {
    write!(std::io::stdout(), "{text}").map_err(|error| {
        let message = format!("cannot write to standard output: {error}");
        fault::Fault::new(fault::ExitCode::Runtime, message, "")
    })
}
