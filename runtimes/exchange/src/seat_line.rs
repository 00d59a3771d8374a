//! A seat's futex word and the bitmap of idle seats: how a seat sleeps and who wakes it.
//!
//! Where it stands in the walk of a request: a seat without work sleeps here until the loop queued
//! some; a seat within a request sleeps here until body bytes came, room was made, or the loop gave
//! it up. One word for everything it waits for.
//!
//! ```text
//!   AWAKE ──seat──▶ IDLE or WAITING ──waker, by swap──▶ NOTIFIED ──seat──▶ AWAKE
//!                          └──────────────seat────────────────────────────▶ ┘
//! ```
//!
//! Orderings: the sleeper stores its state, fences, looks at everything it waits for once more, and
//! only then sleeps. The waker publishes, fences, and swaps the state to NOTIFIED; the winner of
//! the swap makes the one wake-up call. By the two fences either the sleeper's last look or the
//! waker's swap succeeds.
//!
//! The idle bitmap is a hint that saves looking at every word. Only the seat itself sets and clears
//! its bit (set before IDLE, cleared after), so that a set bit covers every idle seat. Were the
//! waker to clear the bit it used, a slow one could clear it after the seat had gone to sleep
//! again, and that seat would be invisible. A bit left behind by a dead seat is cleared when its
//! death is noted.

use std::time::Duration;

use crate::sync::{AtomicU64, FutexWake, FutexWord, Ordering, fence};

/// Runs; nobody need wake it.
pub const AWAKE: u32 = 0;
/// Sleeps, or is about to, for want of work.
pub const IDLE: u32 = 1;
/// Sleeps, or is about to, within a request.
pub const WAITING: u32 = 2;
/// Was asleep and has been woken.
pub const NOTIFIED: u32 = 3;

/// One seat's line in the seats segment. 128 bytes, because processors fetch lines in pairs.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct SeatLine {
    /// One of the states above.
    pub word: FutexWord,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepEnd {
    /// The last look found a reason not to sleep.
    NotSlept,
    /// A waker chose this seat, or the kernel woke it for no reason: look again.
    Woken,
    /// A signal handler ran on this thread.
    Signal,
    /// The time passed and no waker chose this seat.
    TimedOut,
}

impl SeatLine {
    /// Seat: sleeps as `state` (IDLE or WAITING) unless `has_reason` finds something to do after
    /// the state was stored. One thread of one process at a time.
    #[inline]
    pub fn sleep(
        &self,
        state: u32,
        has_reason: impl FnOnce() -> bool,
        timeout: Option<Duration>,
    ) -> SleepEnd {
        self.word.word().store(state, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if has_reason() {
            self.word.word().store(AWAKE, Ordering::Relaxed);
            return SleepEnd::NotSlept;
        }
        let wake = self.word.wait(state, timeout);
        // A swap and not a store: a waker may have chosen this seat while the time ran out.
        let before = self.word.word().swap(AWAKE, Ordering::Acquire);
        match wake {
            FutexWake::TimedOut if before == NOTIFIED => SleepEnd::Woken,
            FutexWake::TimedOut => SleepEnd::TimedOut,
            FutexWake::Signal => SleepEnd::Signal,
            FutexWake::Woken => SleepEnd::Woken,
        }
    }

    /// Seat: sleeps for want of work unless `has_reason` finds some, with its idle bit set
    /// meanwhile.
    #[inline]
    pub fn sleep_for_work(
        &self,
        idle: IdleSeats<'_>,
        number: u16,
        has_reason: impl FnOnce() -> bool,
        timeout: Option<Duration>,
    ) -> SleepEnd {
        idle.set(number);
        let end = self.sleep(IDLE, has_reason, timeout);
        idle.clear(number);
        end
    }

    /// Waker, after it published and fenced: wakes the seat if it sleeps as `state`. True: this
    /// call did.
    #[inline]
    pub fn notify(&self, state: u32) -> bool {
        let word = self.word.word();
        if word.load(Ordering::Relaxed) != state {
            return false;
        }
        let swapped =
            word.compare_exchange(state, NOTIFIED, Ordering::Release, Ordering::Relaxed).is_ok();
        if swapped {
            self.word.wake();
        }
        swapped
    }
}

/// Views of the idle bitmap: bit `n % 64` of word `n / 64` is seat `n`.
#[derive(Clone, Copy, Debug)]
pub struct IdleSeats<'a> {
    /// The words.
    pub words: &'a [AtomicU64],
}

impl IdleSeats<'_> {
    /// Seat: before it sleeps for want of work. Relaxed: the fence in [`SeatLine::sleep`] follows.
    #[inline]
    pub fn set(&self, seat: u16) {
        self.words[seat as usize / 64].fetch_or(1 << (seat % 64), Ordering::Relaxed);
    }

    /// Seat: when it woke. Loop: when the seat's process is dead.
    #[inline]
    pub fn clear(&self, seat: u16) {
        self.words[seat as usize / 64].fetch_and(!(1 << (seat % 64)), Ordering::Relaxed);
    }

    /// Whether the seat's bit is set.
    #[inline]
    pub fn has(&self, seat: u16) -> bool {
        self.words[seat as usize / 64].load(Ordering::Relaxed) & (1 << (seat % 64)) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    //! One thread, then two real ones; the races are in the loom models.

    use super::*;
    use crate::sync::AtomicU32;

    fn line() -> SeatLine {
        SeatLine { word: FutexWord::new(AWAKE) }
    }

    #[test]
    fn a_reason_keeps_it_awake() {
        let line = line();
        assert_eq!(line.sleep(IDLE, || true, None), SleepEnd::NotSlept);
        assert!(!line.notify(IDLE));
    }

    #[test]
    fn a_waker_between_the_look_and_the_sleep_is_not_lost() {
        let line = line();
        let end = line.sleep(IDLE, || !line.notify(IDLE), None);
        assert_eq!(end, SleepEnd::Woken);
    }

    #[test]
    fn time_passes_and_only_the_right_state_is_woken() {
        let line = line();
        let end = line.sleep(WAITING, || line.notify(IDLE), Some(Duration::from_millis(1)));
        assert_eq!(end, SleepEnd::TimedOut);
    }

    #[test]
    fn a_sleeper_is_woken_by_another_thread() {
        let line = line();
        let asleep = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while asleep.load(Ordering::Acquire) == 0 || !line.notify(IDLE) {
                    std::thread::yield_now();
                }
            });
            let look = || {
                asleep.store(1, Ordering::Release);
                false
            };
            assert_eq!(line.sleep(IDLE, look, None), SleepEnd::Woken);
        });
        assert_eq!(line.word.word().load(Ordering::Relaxed), AWAKE);
    }

    #[test]
    fn idle_bits_are_per_seat() {
        let words: Vec<AtomicU64> = (0..2).map(|_| AtomicU64::new(0)).collect();
        let idle = IdleSeats { words: &words };
        idle.set(63);
        idle.set(64);
        assert!(idle.has(63) && idle.has(64) && !idle.has(0));
        idle.clear(63);
        assert!(!idle.has(63) && idle.has(64));
    }
}
