//! Descriptors that came from outside: duplicates of inherited ones, standard error turned to a
//! file.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A close-on-exec duplicate of an inherited descriptor, above the first ten numbers.
///
/// # Errors
/// `EBADF` if none is open under that number.
pub fn duplicate_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl duplicates an open number or refuses a closed one.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 10) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the duplicate is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Puts `/dev/null` under a number, so that what was there lives only in its duplicates.
///
/// # Errors
/// As `open(2)` and `dup3(2)`.
pub fn replace_by_null(number: RawFd) -> io::Result<()> {
    replace(&File::open("/dev/null")?, number, libc::O_CLOEXEC)
}

/// Makes a file the standard error of this process and of workers started from now on.
///
/// # Errors
/// As `dup3(2)`.
pub fn become_standard_error(file: &File) -> io::Result<()> {
    replace(file, libc::STDERR_FILENO, 0)
}

fn replace(by: &File, number: RawFd, flags: i32) -> io::Result<()> {
    // SAFETY: dup3 replaces atomically what is open under the number. Callers pass numbers that
    // nobody holds as an `OwnedFd`: the standard streams, and inherited ones that were duplicated.
    if unsafe { libc::dup3(by.as_raw_fd(), number, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
