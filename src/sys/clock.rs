//! The monotonic clock as one number.
//!
//! Where it stands in the walk of a request: read once a turn by each event loop. Workers stamp
//! claims and first bytes with the same clock, so that phases of one request can be subtracted.

/// Nanoseconds of `CLOCK_MONOTONIC`; never 0.
#[inline]
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call's duration; the clock always exists on Linux,
    // so the call cannot fail (clock_gettime(2)).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64).max(1)
}
