//! The system calls of a worker process that neither std nor the exchange offers.
//!
//! Not on the walk of a request: pinning, the signal mask of the native thread, waiting for two
//! descriptors, names that `ps` shows, leaving without finalisation.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Takes over a descriptor whose number was given on the command line. None if it is not open.
pub fn adopt(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only looks. That nobody else in this process owns the number is the
    // supervisor's contract: it was made for this process and named to nobody else.
    unsafe {
        if number < 0 || libc::fcntl(number, libc::F_GETFD) < 0 {
            return None;
        }
        Some(OwnedFd::from_raw_fd(number))
    }
}

/// A non-blocking, close-on-exec pipe: (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the call writes both numbers when it succeeds; nobody else owns them.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Empties a non-blocking pipe.
pub fn drain(pipe: BorrowedFd<'_>) {
    let mut bytes = [0u8; 64];
    // SAFETY: reads into `bytes` only. Any failure (empty, interrupted) means there is nothing to
    // drain now.
    while unsafe { libc::read(pipe.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) } > 0 {}
}

/// Which of two descriptors have something to read (or an end of file); (false, false) after
/// `timeout`.
pub fn wait_for_either(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<(bool, bool)> {
    let entry = |descriptor: BorrowedFd<'_>| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries = [entry(first), entry(second)];
    let milliseconds = timeout.map_or(-1, |timeout| timeout.as_millis().min(60_000) as libc::c_int);
    // SAFETY: the array has the two entries that the call is told of.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), 2, milliseconds) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((entries[0].revents != 0, entries[1].revents != 0))
}

/// Which of some descriptors have something to read, or an end of file; waits for the first. A
/// signal that arrives is `Interrupted`.
pub fn wait_for_any(descriptors: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let entry = |descriptor: &BorrowedFd<'_>| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries: Vec<libc::pollfd> = descriptors.iter().map(entry).collect();
    // SAFETY: the pointer and the count are those of `entries`.
    if unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, -1) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}

/// A descriptor for a child that was not reaped yet: readable once it ended.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; it returns a new close-on-exec descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the descriptor is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// How an ended child ended, as `waitpid` says it, without reaping it. `None`: somebody else did.
pub fn status_of(pid: u32) -> Option<u32> {
    let mut facts = MaybeUninit::<libc::siginfo_t>::zeroed();
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid writes to `facts`, which is zeroed, a valid siginfo_t, when it writes nothing.
    let facts = unsafe {
        if libc::waitid(libc::P_PID, pid, facts.as_mut_ptr(), how) != 0 {
            return None;
        }
        facts.assume_init()
    };
    // SAFETY: the two fields are those of a child's end, which is what waitid reports.
    let (about, status) = unsafe { (facts.si_pid(), facts.si_status()) };
    if about == 0 {
        return None;
    }
    Some(match facts.si_code {
        libc::CLD_EXITED => (status as u32 & 0xff) << 8,
        libc::CLD_DUMPED => status as u32 | 0x80,
        _ => status as u32,
    })
}

/// Lets an ended child go.
pub fn reap(pid: u32) {
    // SAFETY: a null status is allowed. It fails when somebody else reaped it, which is as good.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::WNOHANG) };
}

/// Runs `spawn` with every signal blocked, so that a thread it starts never receives one: signals
/// are for the interpreter's threads.
pub fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are written before they are read; the mask is that of the calling thread.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let result = spawn();
    // SAFETY: `before` was written by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}

/// What the interpreter calls the calling thread: `threading.get_ident()`, which an application may
/// have replaced (gevent does).
pub fn thread_identifier() -> u64 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::pthread_self() as u64 }
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() }
}

/// Sends a signal to one thread of this process, if anybody handles it: its default would end the
/// process. True: it was sent.
pub fn signal_thread(thread: i32, signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is valid, and the call writes it; tgkill names a thread of this
    // very process and reaches no other, or fails.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut action) != 0
            || action.sa_sigaction == libc::SIG_DFL
            || action.sa_sigaction == libc::SIG_IGN
        {
            return false;
        }
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0
    }
}

/// Writes to the log (standard error) without the interpreter: one write, so that lines of threads
/// do not mix.
pub fn write_log(text: &str) {
    // SAFETY: reads `text` only. Standard error may be closed or full: then nobody listens.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// Pins the calling thread to one core.
pub fn pin_thread(core: usize) -> io::Result<()> {
    // SAFETY: a zeroed cpu_set_t is the empty set; CPU_SET refuses numbers beyond it.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &cores) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Names the calling thread (`/proc/PID/comm`, 15 bytes).
pub fn name_thread(name: &str) {
    let mut bytes = [0u8; 16];
    for (to, from) in bytes[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads the 16 bytes up to their zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// Where the arguments of this process are: first address and the one behind the last (fields 48
/// and 49 of `/proc/self/stat`, proc(5)).
pub fn arguments_place() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, the second field, may hold anything; the last parenthesis ends it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(48 - 3);
    let mut field = || fields.next()?.parse().ok();
    Some((field()?, field()?))
}

/// Ends the process at once: no destructors, no atexit handlers, no flushing.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return and touches nothing of ours.
    unsafe { libc::_exit(code) }
}
