//! Child processes: watched and signalled by descriptor, reaped by one place, waited for with a
//! bound.
//!
//! How a worker is started stands in `worker_start.rs`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Output};
use std::time::Duration;

/// Numbers of signals, the same on every Linux that io_uring runs on.
pub mod signals {
    /// An illegal instruction.
    pub const ILL: i32 = libc::SIGILL;
    /// `abort(3)`.
    pub const ABRT: i32 = libc::SIGABRT;
    /// A bus error.
    pub const BUS: i32 = libc::SIGBUS;
    /// An arithmetic error.
    pub const FPE: i32 = libc::SIGFPE;
    /// An end that cannot be handled.
    pub const KILL: i32 = libc::SIGKILL;
    /// An invalid reference to memory.
    pub const SEGV: i32 = libc::SIGSEGV;
    /// A forbidden system call.
    pub const SYS: i32 = libc::SIGSYS;
}

/// Waits for a child and its output; kills it when it takes longer.
///
/// # Errors
/// `TimedOut`, or what reading and waiting say.
pub fn output_within(child: Child, timeout: Duration) -> io::Result<Output> {
    let pidfd = pidfd_open(child.id())?;
    let (done, expired) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::Builder::new().name("probe-timeout".to_owned()).spawn(move || {
        let in_time = expired.recv_timeout(timeout).is_ok();
        if !in_time {
            // Gone already is as good.
            let _ = pidfd_kill(&pidfd, libc::SIGKILL);
        }
        in_time
    })?;
    let output = child.wait_with_output();
    // The receiver is gone only after its time ran out.
    let _ = done.send(());
    match watch.join() {
        Ok(true) => output,
        _ => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")),
    }
}

/// The user as whom the process acts.
pub fn effective_user() -> u32 {
    // SAFETY: a plain system call without arguments that cannot fail.
    unsafe { libc::geteuid() }
}

/// A descriptor for a child that was not reaped yet.
///
/// # Errors
/// As `pidfd_open(2)`.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; it returns a new close-on-exec descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    check(descriptor as i32)?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// Sends a signal to exactly that process: never to one that got its number later.
///
/// # Errors
/// As `pidfd_send_signal(2)`; `ESRCH` once it ended.
pub fn pidfd_kill(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a plain system call on a descriptor we own; a null siginfo is what kill(2) would
    // send.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, nothing, 0)
    };
    check(sent as i32).map(drop)
}

/// The process that a pidfd stands for, by its number here; `None`: it was reaped.
///
/// # Errors
/// The descriptor is none, or `/proc` cannot be read.
pub fn pid_of(pidfd: &OwnedFd) -> io::Result<Option<u32>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path)?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    let number = number.and_then(|number| number.parse::<i64>().ok());
    let number = number.ok_or_else(|| io::Error::other("the descriptor is no pidfd"))?;
    Ok(u32::try_from(number).ok().filter(|pid| *pid != 0))
}

/// Whether a process is the child of another. False once it ended and was reaped.
pub fn is_child_of(pid: u32, parent: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    number.and_then(|number| number.trim().parse().ok()) == Some(parent)
}

/// From now on, orphans among the descendants of this process become its children, not those of
/// PID 1.
///
/// # Errors
/// As `prctl(2)`.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: the call sets an attribute of this process.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Takes one ended child, whoever's it was (orphans too, as PID 1); `None`: none ended, or there is
/// none.
///
/// # Errors
/// As `waitpid(2)`, except `EINTR` and `ECHILD`.
pub fn reap() -> io::Result<Option<(u32, ExitStatus)>> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes the status of one ended child to `status`.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if pid > 0 {
            return Ok(Some((pid as u32, ExitStatus::from_raw(status))));
        }
        if pid == 0 {
            return Ok(None);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_hanging_child_is_killed() {
        let child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
        let error = output_within(child, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_pidfd_tells_whose_it_is_until_the_child_is_reaped() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        assert_eq!(pid_of(&pidfd).unwrap(), Some(child.id()));
        assert!(is_child_of(child.id(), std::process::id()));
        assert!(!is_child_of(std::process::id(), child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pid_of(&pidfd).unwrap(), None);
        assert!(!is_child_of(child.id(), std::process::id()));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(pid_of(&file).is_err());
    }

    #[test]
    fn a_quick_child_is_read() {
        let child = Command::new("echo").arg("hi").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(output_within(child, Duration::from_secs(30)).unwrap().stdout, b"hi\n");
    }
}
