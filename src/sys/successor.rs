//! How a server starts the one that is to follow it, and how that one finds what it was handed.
//!
//! Beside the walk of a request. Descriptors are handed over under the numbers that they have:
//! close-on-exec is taken off between `fork` and `exec`, in the child alone.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::process::{check, pidfd_open};
use super::rlimit::DescriptorLimit;
use super::worker_start::Started;

/// Starts a server that keeps these descriptors.
///
/// # Errors
/// What `fork`, the steps before `exec`, or `exec` say.
pub fn start_successor(
    mut command: Command,
    keeps: &[BorrowedFd<'_>],
    descriptor_limit: DescriptorLimit,
) -> io::Result<Started> {
    let numbers: Vec<RawFd> = keeps.iter().map(BorrowedFd::as_raw_fd).collect();
    // SAFETY: the closure runs between fork and exec: plain system calls on values made before the
    // fork, nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            descriptor_limit.apply()?;
            for number in &numbers {
                check(libc::fcntl(*number, libc::F_SETFD, 0))?;
            }
            Ok(())
        });
    }
    let pid = command.spawn()?.id();
    // The child is not waited for by anybody before this: its number is still its own.
    let pidfd = pidfd_open(pid)?;
    Ok(Started { pid, pidfd })
}

/// Takes over a descriptor that this process was started with, and closes it at the next exec.
///
/// # Errors
/// `EBADF` if none is open under that number.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // The standard streams belong to everybody.
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: fcntl sets a flag of an open number or refuses a closed one.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and named once by whoever started this process for it alone
    // (`supervisor/predecessor.rs` adopts each number of a hand-over once).
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
