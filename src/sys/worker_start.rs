//! How a worker process starts.
//!
//! Between `fork` and `exec` is the one place in the server where only async-signal-safe calls are
//! allowed: other threads exist, and any lock may be held for ever in the child. `Command` does the
//! rest (arguments, environment, `/dev/null`, process group, reporting a failed `exec`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::process::{check, pidfd_open};
use super::rlimit::DescriptorLimit;

/// The descriptor that a worker finds its control socket under.
pub const CONTROL_DESCRIPTOR: RawFd = 3;

/// How a worker starts.
#[derive(Debug)]
pub struct Start<'a> {
    /// What to execute, with its arguments and environment.
    pub command: Command,
    /// Becomes [`CONTROL_DESCRIPTOR`] of the child.
    pub control: BorrowedFd<'a>,
    /// The limit that the server itself was started with.
    pub descriptor_limit: DescriptorLimit,
    /// Added to the server's own `oom_score_adj`, so that the kernel takes a worker first.
    pub oom_score_more: i32,
}

/// A started child and the descriptor that watches it.
#[derive(Debug)]
pub struct Started {
    /// Its process id; valid until it was reaped.
    pub pid: u32,
    /// Readable once it ended.
    pub pidfd: OwnedFd,
}

/// Starts a worker: own process group, default signals, nothing blocked, standard input from
/// `/dev/null`, standard output and error inherited, every other descriptor but the control socket
/// closed at exec.
///
/// # Errors
/// What `fork`, the steps before `exec`, or `exec` say.
pub fn start(start: Start<'_>) -> io::Result<Started> {
    let Start { mut command, control, descriptor_limit, oom_score_more } = start;
    reserve_control_descriptor()?;
    let control = control.as_raw_fd();
    let oom_score = own_oom_score()?.saturating_add(oom_score_more).min(1000);
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec; everything in it is async-signal-safe and
    // allocates nothing: plain system calls on values made before the fork.
    unsafe {
        command.pre_exec(move || {
            default_signals();
            descriptor_limit.apply()?;
            keep_only_control(control)
        });
    }
    let child = command.spawn()?;
    let pid = child.id();
    // After its exec: before that its `/proc` may be root's (a server with `--user`). Best effort:
    // `/proc` may be read-only, and a worker serves as well without.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), format!("{oom_score}"));
    // The child is not waited for by anybody before this: its number is still its own.
    let pidfd = pidfd_open(pid)?;
    Ok(Started { pid, pidfd })
}

/// Gives a short-lived process that runs the application's code what a worker gets: default
/// signals, nothing blocked, the limit that the server was started with, and no descriptor but the
/// standard ones, which the caller arranges.
pub fn start_like_a_worker(command: &mut Command, descriptor_limit: DescriptorLimit) {
    // SAFETY: as in `start`.
    unsafe {
        command.pre_exec(move || {
            default_signals();
            descriptor_limit.apply()?;
            close_at_exec(CONTROL_DESCRIPTOR)
        });
    }
}

/// Sees to it that descriptor 3 is taken, so that the pipe by which a failed `exec` is reported,
/// opened inside `Command::spawn`, is never the one that the control socket replaces in the child.
///
/// # Errors
/// As `open(2)` and `dup3(2)`.
pub fn reserve_control_descriptor() -> io::Result<()> {
    // SAFETY: fcntl with F_GETFD reads a flag of a number, open or not.
    if unsafe { libc::fcntl(CONTROL_DESCRIPTOR, libc::F_GETFD) } >= 0 {
        return Ok(());
    }
    let null = std::fs::File::open("/dev/null")?;
    if null.as_raw_fd() == CONTROL_DESCRIPTOR {
        std::mem::forget(null);
        return Ok(());
    }
    // SAFETY: descriptor 3 is closed (checked above; only this thread opens any), so nobody's is
    // replaced.
    check(unsafe { libc::dup3(null.as_raw_fd(), CONTROL_DESCRIPTOR, libc::O_CLOEXEC) }).map(drop)
}

/// Reads `oom_score_adj` of this process.
fn own_oom_score() -> io::Result<i32> {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim().parse().map_err(|_| io::Error::other("oom_score_adj is not a number"))
}

/// Every signal back to its default, none blocked: `exec` does that for caught ones, but an ignored
/// one stays ignored. By the kernel's own calls, since libc keeps two signals of its own out of
/// reach and `posix_spawn` leaves those ignored in whoever it started.
fn default_signals() {
    /// Bytes of the kernel's signal set.
    const SET_BYTES: usize = 8;
    /// All zero: SIG_DFL, no flags, nothing blocked. Larger than the kernel's sigaction anywhere.
    const DEFAULT: [u64; 8] = [0; 8];
    let nowhere = std::ptr::null_mut::<u64>();
    for signal in 1..=64 {
        // SAFETY: the kernel only reads DEFAULT, which is larger than its struct. KILL and STOP are
        // refused and are at their default anyway.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), nowhere, SET_BYTES);
        }
    }
    let how = libc::SIG_SETMASK;
    // SAFETY: the kernel only reads the first SET_BYTES of DEFAULT: the empty set.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, DEFAULT.as_ptr(), nowhere, SET_BYTES);
    }
}

fn keep_only_control(control: RawFd) -> io::Result<()> {
    if control == CONTROL_DESCRIPTOR {
        // SAFETY: fcntl on an open descriptor; clears close-on-exec.
        check(unsafe { libc::fcntl(control, libc::F_SETFD, 0) })?;
    } else {
        // SAFETY: dup2 onto 3, which is reserved for this (`reserve_control_descriptor`).
        check(unsafe { libc::dup2(control, CONTROL_DESCRIPTOR) })?;
    }
    close_at_exec(CONTROL_DESCRIPTOR + 1)
}

/// All descriptors from this one on. Marks instead of closing: the pipe that reports a failed exec
/// must live until then.
fn close_at_exec(first: RawFd) -> io::Result<()> {
    let (first, last) = (first as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: close_range with CLOEXEC only sets flags.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    check(marked as i32).map(drop)
}
