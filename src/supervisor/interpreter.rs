//! Which interpreter the workers run on: chosen by flag or surroundings, probed once.
//!
//! `--python` takes a path, a version, a name on PATH or the folder of a virtual environment.
//! Without it: `$VIRTUAL_ENV`, then the interpreter that ran the `ringhorn` script, then `python3`.
//! The first log line says which one and why.
//!
//! The path is never resolved through symbolic links: a virtual environment's `python` is one, and
//! it is by that path that the interpreter finds the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::fault::{ExitCode, Fault};
use super::privileges::Privileges;
use crate::config::Environment;
use crate::config::said::LAUNCHED_BY;

/// Oldest CPython that the abi3 module loads in.
const CPYTHON_MINOR_MIN: u32 = 9;
/// A probe that takes longer hangs: an interpreter says its version in tens of milliseconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// One line a fact, so that whatever a `sitecustomize` prints before it does no harm.
const PROBE: &str = "\
import sys, sysconfig
gil = getattr(sys, '_is_gil_enabled', lambda: True)()
facts = [sys.implementation.name, '.'.join(map(str, sys.version_info[:3])),
    '1' if gil else '0', sysconfig.get_config_var('EXT_SUFFIX') or '', sys.prefix]
print('\\nringhorn-probe ' + '\\t'.join(facts))
";
const PROBE_MARK: &str = "ringhorn-probe ";

/// A probed interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// What to execute.
    pub executable: PathBuf,
    /// Why this one, in the user's words.
    pub reason: String,
    /// `sys.implementation.name`.
    pub implementation: String,
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
    /// One lock for all threads: false on a free-threaded build that runs without it.
    pub has_one_lock: bool,
    /// Suffix of native modules of exactly this version, such as
    /// `.cpython-311-x86_64-linux-gnu.so`.
    pub extension_suffix: String,
}

impl Interpreter {
    /// Chooses, probes and judges.
    ///
    /// # Errors
    /// None found, it cannot be run, or it is one that no runtime supports.
    pub fn find(
        said: Option<&str>,
        environment: &Environment,
        privileges: &Privileges,
    ) -> Result<Interpreter, Fault> {
        let (executable, reason) = choose(said, environment)?;
        let interpreter = probe(&executable, reason, privileges)?;
        interpreter.judge()?;
        Ok(interpreter)
    }

    fn judge(&self) -> Result<(), Fault> {
        let (major, minor, _) = self.version;
        if self.implementation != "cpython" {
            return Err(unfit(
                format!("{self} is not supported by this version"),
                "choose a CPython with --python, such as --python 3.12",
            ));
        }
        if (major, minor) < (3, CPYTHON_MINOR_MIN) {
            return Err(unfit(
                format!("{self} is too old"),
                format!("CPython 3.{CPYTHON_MINOR_MIN} or newer serves; choose it with --python"),
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, micro) = self.version;
        let name = match self.implementation.as_str() {
            "cpython" => "CPython",
            "pypy" => "PyPy",
            other => other,
        };
        write!(f, "{} ({name} {major}.{minor}.{micro}", self.executable.display())?;
        f.write_str(if self.has_one_lock { ")" } else { ", free-threaded)" })
    }
}

fn unfit(message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault::new(ExitCode::Worker, message, hint)
}

fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Fault {
    Fault::new(ExitCode::Configuration, message, hint)
}

fn choose(said: Option<&str>, environment: &Environment) -> Result<(PathBuf, String), Fault> {
    let search = environment.get("PATH").map(String::as_str).unwrap_or_default();
    let filled = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    if let Some(said) = said {
        return Ok((named(said, search)?, format!("--python {said}")));
    }
    if let Some(folder) = filled("VIRTUAL_ENV") {
        let executable = in_environment(Path::new(folder)).ok_or_else(|| {
            not_found(
                format!("VIRTUAL_ENV is {folder}, but there is no bin/python in it"),
                "activate an environment that exists, unset VIRTUAL_ENV, or say --python",
            )
        })?;
        return Ok((executable, "VIRTUAL_ENV".to_owned()));
    }
    let launched_by = filled(LAUNCHED_BY).map(PathBuf::from);
    if let Some(executable) = launched_by.filter(|path| is_executable(path)) {
        return Ok((executable, "it ran the ringhorn script".to_owned()));
    }
    let executable = on_path("python3", search).ok_or_else(|| {
        not_found("there is no python3 on PATH", "say which interpreter with --python PATH")
    })?;
    Ok((executable, "python3 on PATH".to_owned()))
}

/// What `--python` names.
fn named(said: &str, search: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(said);
    if path.is_dir() {
        return in_environment(path).ok_or_else(|| {
            not_found(
                format!("--python {said} is a folder without bin/python"),
                "give the folder of a virtual environment, or the interpreter itself",
            )
        });
    }
    if said.contains('/') {
        if is_executable(path) {
            return absolute(path, said);
        }
        let what = if path.exists() { "is not executable" } else { "does not exist" };
        return Err(not_found(
            format!("--python {said} {what}"),
            "give a path, a version (3.12), a name on PATH, or a virtual environment's folder",
        ));
    }
    let name = if said.starts_with(|c: char| c.is_ascii_digit()) {
        format!("python{said}")
    } else {
        said.to_owned()
    };
    on_path(&name, search).ok_or_else(|| {
        not_found(
            format!("--python {said}: there is no {name} on PATH"),
            "install it, or give the interpreter's path",
        )
    })
}

fn absolute(path: &Path, said: &str) -> Result<PathBuf, Fault> {
    std::path::absolute(path)
        .map_err(|error| not_found(format!("--python {said}: {error}"), "give an absolute path"))
}

fn in_environment(folder: &Path) -> Option<PathBuf> {
    let executable = std::path::absolute(folder).ok()?.join("bin/python");
    is_executable(&executable).then_some(executable)
}

fn on_path(name: &str, search: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(search).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

fn probe(executable: &Path, reason: String, privileges: &Privileges) -> Result<Interpreter, Fault> {
    let shown = executable.display();
    let cannot = |what: String| {
        unfit(format!("{shown} cannot be run: {what}"), "check it by hand, or choose with --python")
    };
    let mut command = Command::new(executable);
    command.args(["-c", PROBE]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // It runs the user's own code: `sitecustomize`, and what a virtual environment brings.
    privileges.assume_in_child(&mut command);
    let child = command.spawn().map_err(|error| cannot(error.to_string()))?;
    let output = crate::sys::process::output_within(child, PROBE_TIMEOUT)
        .map_err(|error| cannot(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let facts = text.lines().find_map(|line| line.strip_prefix(PROBE_MARK));
    match facts.and_then(|facts| read(facts, executable, &reason)) {
        Some(interpreter) => Ok(interpreter),
        None => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let last = complaint.trim().lines().last().unwrap_or("it says nothing of itself");
            Err(cannot(format!("{last} ({})", output.status)))
        }
    }
}

fn read(facts: &str, executable: &Path, reason: &str) -> Option<Interpreter> {
    let mut fields = facts.split('\t');
    let implementation = fields.next()?.to_owned();
    let mut numbers = fields.next()?.split('.').map(|number| number.parse().ok());
    let mut number = || numbers.next().flatten();
    let version = (number()?, number()?, number()?);
    let has_one_lock = fields.next()? == "1";
    let extension_suffix = fields.next()?.to_owned();
    Some(Interpreter {
        executable: executable.to_owned(),
        reason: reason.to_owned(),
        implementation,
        version,
        has_one_lock,
        extension_suffix,
    })
}

#[cfg(test)]
mod tests;
