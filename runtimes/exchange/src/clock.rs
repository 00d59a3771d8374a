//! The two clocks of the worker's end: when something happened, and the date.
//!
//! Both are answered by the vDSO without a system call.

use crate::framing::{DATE_BYTES, format_date};

/// `CLOCK_MONOTONIC` in nanoseconds: comparable between processes of one machine.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec to `time`. Both clocks exist on every Linux, so it cannot fail.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time
}

/// The value of the Date field, formatted once a second.
#[derive(Debug)]
pub(crate) struct DateCache {
    second: u64,
    text: [u8; DATE_BYTES],
}

impl DateCache {
    pub fn new() -> DateCache {
        DateCache { second: 0, text: format_date(0) }
    }

    /// The date now. The coarse clock is at most one timer tick late, which a date in seconds
    /// bears.
    #[inline]
    pub fn now(&mut self) -> &[u8; DATE_BYTES] {
        let second = read(libc::CLOCK_REALTIME_COARSE).tv_sec.max(0) as u64;
        if second != self.second {
            self.second = second;
            self.text = format_date(second);
        }
        &self.text
    }
}
