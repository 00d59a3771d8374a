//! The file of a Unix socket: its mode and owner, a stale one cleared away, its removal at exit.
//!
//! Step 0 of the walk of a request, for `listeners.rs`.
//!
//! Invariants: a file is taken over only if nobody answers there, and unlinked only if it is still
//! the one that was made here or handed over, and was not handed on. No link is followed: the
//! folder may belong to a plain user while the server is still root.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::sys::files;

/// How often, and how long apart, a listener is looked at again before it is called live.
const LAST_BREATH_TRIES: u32 = 10;
const LAST_BREATH: Duration = Duration::from_millis(50);
/// `EPROTOTYPE` on every Linux but MIPS, SPARC, PA-RISC and Alpha, which have no worker module.
const WRONG_TYPE: i32 = 91;

/// Mode and owner that a socket file is to have; `None`: as it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions.
    pub mode: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A socket file; unlinked at drop if it is ours and still that one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    is_ours: bool,
    attributes: Attributes,
}

impl SocketFile {
    /// The file of a socket that was bound just now.
    ///
    /// # Errors
    /// Somebody exchanged it, or its mode or owner cannot be set.
    pub fn made(path: &Path, attributes: Attributes) -> io::Result<SocketFile> {
        let mut file = SocketFile::at(path, attributes)?;
        // Ours to remove, whatever else fails from here on.
        file.is_ours = true;
        file.set_attributes()?;
        Ok(file)
    }

    /// The file of a socket that another server still holds; ours once it was
    /// [taken](SocketFile::take).
    ///
    /// # Errors
    /// There is none at the path.
    pub fn at(path: &Path, attributes: Attributes) -> io::Result<SocketFile> {
        let facts = fs::symlink_metadata(path)?;
        if !facts.file_type().is_socket() {
            return Err(io::Error::other("it is no socket any more"));
        }
        let (device, inode) = (facts.dev(), facts.ino());
        Ok(SocketFile { path: path.to_owned(), device, inode, is_ours: false, attributes })
    }

    /// From now on it is ours to remove, and as it was configured.
    pub fn take(&mut self) {
        self.is_ours = true;
        if let Err(error) = self.set_attributes() {
            tracing::warn!("cannot set mode and owner of {}: {error}", self.path.display());
        }
    }

    /// Somebody else will remove it.
    pub fn hand_on(&mut self) {
        self.is_ours = false;
    }

    fn set_attributes(&self) -> io::Result<()> {
        let Attributes { mode, uid, gid } = self.attributes;
        if self.attributes == Attributes::default() {
            return Ok(());
        }
        let handle = files::handle_of(&self.path)?;
        let facts = handle.metadata()?;
        if !self.is(&facts) {
            return Err(io::Error::other("somebody exchanged it"));
        }
        let other = |wanted: Option<u32>, has| wanted.filter(|wanted| *wanted != has);
        let (uid, gid) = (other(uid, facts.uid()), other(gid, facts.gid()));
        if uid.is_some() || gid.is_some() {
            files::change_owner(&handle, uid, gid)?;
        }
        match other(mode, facts.mode() & 0o777) {
            Some(mode) => files::change_mode(&handle, mode),
            None => Ok(()),
        }
    }

    fn is(&self, facts: &fs::Metadata) -> bool {
        (facts.dev(), facts.ino()) == (self.device, self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_still = fs::symlink_metadata(&self.path).is_ok_and(|facts| self.is(&facts));
        if !self.is_ours || !is_still {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// What is at a path where no socket can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file of another kind.
    NoSocket,
    /// A socket that somebody listens at.
    Live,
    /// A socket that nobody listens at: it was removed.
    Stale,
}

/// Removes a socket file at which nobody answers.
///
/// # Errors
/// It cannot be tried or removed.
pub fn clear_stale(path: &Path, address: &SockAddr) -> io::Result<Found> {
    if !fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket()) {
        return Ok(Found::NoSocket);
    }
    if still_answers(address)? {
        return Ok(Found::Live);
    }
    tracing::info!("taking over the stale socket file {}", path.display());
    fs::remove_file(path)?;
    Ok(Found::Stale)
}

/// Whether somebody goes on listening at a socket file: the kernel closes the sockets of a server
/// that was killed a moment after its process is gone (its rings are taken down first).
fn still_answers(address: &SockAddr) -> io::Result<bool> {
    for _ in 0..LAST_BREATH_TRIES {
        if !answers(address)? {
            return Ok(false);
        }
        std::thread::sleep(LAST_BREATH);
    }
    answers(address)
}

/// Whether somebody listens at a socket file.
fn answers(address: &SockAddr) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog would make a blocking connect wait.
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        // A datagram or seqpacket socket of somebody else.
        Err(error) if error.raw_os_error() == Some(WRONG_TYPE) => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    }
}
