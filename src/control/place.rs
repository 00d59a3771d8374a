//! Where a server's control socket is, and which servers have one.
//!
//! Without `--control-socket` it is `ringhorn-PID.ctl` in the first of `$RUNTIME_DIRECTORY` (which
//! systemd makes for a service), `$XDG_RUNTIME_DIR` (a user's own) and `/tmp/ringhorn-UID`, which
//! is made for the owner alone and refused if anybody else could have put something there.
//!
//! Invariant: a file is removed only if no server answers on it.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::config::Environment;
use crate::sys::process;

const PREFIX: &str = "ringhorn-";
const SUFFIX: &str = ".ctl";

/// The folder of sockets that nobody named.
pub fn default_dir(environment: &Environment) -> PathBuf {
    let said = |name: &str| environment.get(name).filter(|dir| dir.starts_with('/'));
    // systemd lists several folders with colons; the first is the service's own.
    let own = said("RUNTIME_DIRECTORY").and_then(|dirs| dirs.split(':').next());
    match own.or_else(|| said("XDG_RUNTIME_DIR").map(String::as_str)) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(format!("/tmp/ringhorn-{}", process::effective_user())),
    }
}

/// The socket of a server in such a folder.
pub fn of_server(dir: &Path, pid: u32) -> PathBuf {
    dir.join(format!("{PREFIX}{pid}{SUFFIX}"))
}

/// Makes the folder where it does not exist, for its owner alone, and removes what dead servers
/// left in it.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub fn prepare(dir: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let facts = std::fs::symlink_metadata(dir)?;
    let is_ours = facts.uid() == process::effective_user() || facts.uid() == 0;
    if !facts.is_dir() || !is_ours || facts.mode() & 0o022 != 0 {
        let what = "is not a folder that only its owner may write to";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    for (path, pid) in sockets(dir)? {
        remove_if_dead(&path, Some(pid));
    }
    Ok(())
}

/// Sockets in a folder with the process ids in their names.
///
/// # Errors
/// The folder cannot be read.
pub fn sockets(dir: &Path) -> io::Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        if let Some(pid) = pid.and_then(|pid| pid.parse().ok()) {
            found.push((path, pid));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a server answers there; the file of one that does not is removed, unless its process
/// lives: that may be about to listen.
pub fn remove_if_dead(path: &Path, pid: Option<u32>) -> bool {
    let lives = pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !lives => {
            // Somebody else may have removed it meanwhile, which is as good.
            let _ = std::fs::remove_file(path);
            false
        }
        Err(_) => false,
        Ok(_) => true,
    }
}
