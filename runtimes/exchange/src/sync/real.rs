//! Futex and bell of production: thin over the system calls.
//!
//! The futex is the shared kind (no `FUTEX_PRIVATE_FLAG`): waker and sleeper are different
//! processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{AtomicU32, FutexWake, Ordering};

/// A 32-bit word in shared memory that one thread may sleep on.
#[repr(transparent)]
#[derive(Debug)]
pub struct FutexWord {
    word: AtomicU32,
}

impl FutexWord {
    /// A word of its own, for tests; in a segment it lies in zeroed memory.
    #[cfg(test)]
    pub const fn new(value: u32) -> FutexWord {
        FutexWord { word: AtomicU32::new(value) }
    }

    /// The word.
    #[inline]
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Sleeps while the word is `expected`, at most `timeout`.
    pub fn wait(&self, expected: u32, timeout: Option<Duration>) -> FutexWake {
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let time_pointer = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the word is alive as long as `self`, the time as long as this frame; the kernel
        // only reads both.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                time_pointer,
            )
        };
        if result == 0 {
            return FutexWake::Woken;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => FutexWake::Signal,
            Some(libc::ETIMEDOUT) => FutexWake::TimedOut,
            // EAGAIN: the word had changed. Nothing else is possible for an aligned, mapped word,
            // and the caller looks at its conditions again in any case.
            _ => FutexWake::Woken,
        }
    }

    /// Wakes the sleeper, if there is one.
    pub fn wake(&self) {
        // SAFETY: the word is alive as long as `self`; waking touches no memory of ours. A result
        // below zero is impossible for a mapped word; zero means that the sleeper was not there
        // yet, and then its own wait sees the changed word.
        unsafe { libc::syscall(libc::SYS_futex, self.word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    /// Stores `value`; only for words that nobody sleeps on.
    pub fn reset(&self, value: u32) {
        self.word.store(value, Ordering::Relaxed);
    }
}

/// The eventfd of a loop. Never read in the course of things: each write is one completion of the
/// loop's poll.
#[derive(Debug)]
pub struct Bell {
    descriptor: OwnedFd,
}

impl Bell {
    /// Takes over the eventfd.
    pub fn new(descriptor: OwnedFd) -> Bell {
        Bell { descriptor }
    }

    /// Wakes the loop. Wait-free unless a worker that ran wild has filled the counter: then it is
    /// emptied first, because a write that is refused wakes nobody.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // Bounded: a counter that is full twice in a row is being filled on purpose.
        for _ in 0..4 {
            // SAFETY: writes eight bytes from `one` to a descriptor we own.
            let written =
                unsafe { libc::write(self.descriptor.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            if written >= 0 {
                return;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => self.empty(),
                // The server passed an eventfd: no other error exists for eight bytes.
                _ => return,
            }
        }
    }

    fn empty(&self) {
        let mut counter = [0u8; 8];
        // SAFETY: reads eight bytes into `counter` from a descriptor we own. A failure only means
        // that somebody else emptied it first.
        unsafe {
            libc::read(self.descriptor.as_raw_fd(), counter.as_mut_ptr().cast(), counter.len())
        };
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
