//! Files beside the walk of a request: created for another user, locked, made under a mask.
//!
//! Invariants: nothing here follows a link that somebody else may have put in place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::process::check;

/// Creates an empty file for somebody else; refuses whatever is there already, a link too.
///
/// # Errors
/// As `open(2)` and `fchown(2)`.
pub fn create_for(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    // With O_EXCL a link at the end of the path is not followed.
    let file = OpenOptions::new().append(true).create_new(true).open(path)?;
    // SAFETY: a plain system call on a descriptor that lives.
    check(unsafe { libc::fchown(file.as_raw_fd(), uid, gid) }).map(drop)
}

/// Creates a file of this process, to be read by everybody; refuses whatever is there.
///
/// # Errors
/// As `open(2)`.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(path)
}

/// Opens a file to look at and lock, not through a link.
///
/// # Errors
/// As `open(2)`.
pub fn open_to_lock(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Tries to lock a file (flock(2)) for as long as it, or a child's copy before `exec`, is open.
/// Returns whether it did: otherwise somebody else holds it.
///
/// # Errors
/// As `flock(2)`, except `EWOULDBLOCK`.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: a plain system call on a descriptor that lives.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// A handle of what a path names, a link itself if it is one: to look at it and to change it
/// without anybody exchanging it in between.
///
/// # Errors
/// As `open(2)`.
pub fn handle_of(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// Changes the mode behind a handle.
///
/// # Errors
/// As `chmod(2)`; `/proc` is needed.
pub fn change_mode(handle: &File, mode: u32) -> io::Result<()> {
    // chmod(2) on the handle's entry in /proc leads to exactly that file; fchmod refuses handles.
    let entry = format!("/proc/self/fd/{}", handle.as_raw_fd());
    std::fs::set_permissions(entry, std::fs::Permissions::from_mode(mode))
}

/// Changes the owner behind a handle; `None` stays as it is.
///
/// # Errors
/// As `chown(2)`.
pub fn change_owner(handle: &File, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    const AS_IT_IS: u32 = u32::MAX;
    let (uid, gid) = (uid.unwrap_or(AS_IT_IS), gid.unwrap_or(AS_IT_IS));
    let descriptor = handle.as_raw_fd();
    // SAFETY: a plain system call on a descriptor that lives, with an empty path.
    let changed =
        unsafe { libc::fchownat(descriptor, c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) };
    check(changed).map(drop)
}

/// Sets the mask of what this process creates, and returns the one before.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask only exchanges a number of the process.
    unsafe { libc::umask(mask & 0o777) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = create_new(&path).unwrap();
        assert!(try_lock(&first).unwrap());
        let second = open_to_lock(&path).unwrap();
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }

    #[test]
    fn a_handle_changes_exactly_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let handle = handle_of(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        create_new(&path).unwrap();
        change_mode(&handle, 0o640).unwrap();
        change_owner(&handle, None, None).unwrap();
        assert_eq!(handle.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let other = std::fs::metadata(&path).unwrap();
        assert_ne!(other.permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(create_for(&link, 0, 0).is_err() && create_new(&link).is_err());
        assert!(open_to_lock(&link).is_err());
        assert!(!target.exists());
    }
}
