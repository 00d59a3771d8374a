//! Which signals a thread takes: all of them on the supervisor's, none on any other.

use std::io;

/// `SIGTTIN`: by gunicorn's custom, one more worker.
pub const TTIN: i32 = libc::SIGTTIN;
/// `SIGTTOU`: one less.
pub const TTOU: i32 = libc::SIGTTOU;

/// Blocks every signal on this thread and those it starts while the guard lives.
#[derive(Debug)]
pub struct Blocked {
    before: libc::sigset_t,
}

impl Blocked {
    /// Blocks now.
    ///
    /// # Errors
    /// As `pthread_sigmask(3)`.
    pub fn all() -> io::Result<Blocked> {
        // SAFETY: both sets are plain data that the calls fill; an all-zero one is valid to fill.
        let (result, before) = unsafe {
            let mut every: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut every);
            (libc::pthread_sigmask(libc::SIG_SETMASK, &every, &mut before), before)
        };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        Ok(Blocked { before })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: `before` was filled by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Unblocks every signal on this thread: whoever started the server may have blocked some.
///
/// # Errors
/// As `pthread_sigmask(3)`.
pub fn unblock_all() -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is the empty set on Linux.
    let result = unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    };
    if result != 0 { Err(io::Error::from_raw_os_error(result)) } else { Ok(()) }
}
