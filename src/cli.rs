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
use crate::supervisor::predecessor::Predecessor;
use crate::supervisor::upgrade::Invocation;
use crate::supervisor::{self, Start, fault};

/// Runs the program on a command line, program name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // What is not UTF-8 is no option of ours, and workers inherit it untouched.
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut predecessor = match Predecessor::from_environment(&environment) {
        Ok(predecessor) => predecessor,
        Err(fault) => return end(&fault),
    };
    match serve(arguments, &environment, predecessor.as_mut()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let code = end(&fault);
            if let Some(predecessor) = &mut predecessor {
                predecessor.refuse(&fault);
            }
            code
        }
    }
}

fn end(fault: &fault::Fault) -> ExitCode {
    let mut text = format!("error: {}\n", fault.message);
    if !fault.hint.is_empty() {
        text.push_str(&format!("hint: {}\n", fault.hint));
    }
    // In one piece: others may write to the same log. Nobody is left to tell if it fails.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(fault.code as u8)
}

fn serve(
    arguments: Vec<OsString>,
    environment: &Environment,
    predecessor: Option<&mut Predecessor>,
) -> Result<(), fault::Fault> {
    match asking::read(&arguments)? {
        Some(Read::Ask(asking)) => return ask(asking, environment),
        Some(Read::Print(text)) => return print(&text),
        None => {}
    }
    let search = environment.get("PATH").map(String::as_str).unwrap_or_default();
    let invocation = Invocation::of(&arguments, search).map_err(|error| {
        let message = format!("cannot tell which program this is: {error}");
        fault::Fault::new(fault::ExitCode::Runtime, message, "mount /proc")
    })?;
    let options = match Options::read(arguments, environment)? {
        Asked::Serve(options) => options,
        Asked::Print(text) => return print(&text),
    };
    let start_dir = std::env::current_dir().map_err(|error| {
        ConfigError::new(format!("no working directory: {error}"), "start the server in a folder")
    })?;
    let config = Config::resolve(&options, environment, &start_dir)?;
    let start = Start { environment, invocation: &invocation, predecessor };
    supervisor::run(&config, start, &options.warnings)
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
