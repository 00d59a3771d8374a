//! `ringhorn reload` and `ringhorn status`: finds a running server and asks it.
//!
//! Waits as long as the server takes: a reload imports an application, and the server bounds that
//! itself (`--startup-timeout`).

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::place;
use super::wire::{ANSWER_BYTES_MAX, Answer, Request};
use crate::config::{ConfigError, Environment};

/// Which server is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `--control-socket`.
    pub socket: Option<PathBuf>,
    /// `--server-pid`.
    pub pid: Option<u32>,
}

/// Asks the server.
///
/// # Errors
/// No such server, several of them, or it does not answer.
pub fn ask(
    target: &Target,
    request: Request,
    environment: &Environment,
) -> Result<Answer, ConfigError> {
    let path = find(target, environment)?;
    let bytes = exchange(&path, request).map_err(|error| {
        ConfigError::new(
            format!("no server answers on {}: {error}", path.display()),
            "is it running, and do you have the right to open its socket?",
        )
    })?;
    Answer::decode(&bytes).ok_or_else(|| {
        ConfigError::new(
            format!("the server behind {} ended before it answered", path.display()),
            "its log says why",
        )
    })
}

fn find(target: &Target, environment: &Environment) -> Result<PathBuf, ConfigError> {
    if let Some(path) = &target.socket {
        return Ok(path.clone());
    }
    let dir = place::default_dir(environment);
    if let Some(pid) = target.pid {
        return Ok(place::of_server(&dir, pid));
    }
    let mut living = place::sockets(&dir).unwrap_or_default();
    living.retain(|(path, pid)| place::remove_if_dead(path, Some(*pid)));
    match &living[..] {
        [(path, _)] => Ok(path.clone()),
        [] => Err(ConfigError::new(
            format!("no server has a control socket in {}", dir.display()),
            "say --control-socket PATH as the server did; a service's is in its runtime directory",
        )),
        several => {
            let pids: Vec<String> = several.iter().map(|(_, pid)| pid.to_string()).collect();
            Err(ConfigError::new(
                format!("{} servers have a control socket in {}", several.len(), dir.display()),
                format!("say which one by --server-pid: {}", pids.join(", ")),
            ))
        }
    }
}

fn exchange(path: &Path, request: Request) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("{}\n", request.word()).as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}
