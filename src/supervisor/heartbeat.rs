//! Whether the event loops still turn: each is rung every [`PERIOD`], and one that does not turn
//! for [`SILENCE_MAX`] after a ring hangs.
//!
//! Beside the walk of a request. A loop that hangs holds its connections and its share of new ones
//! for ever, and nobody else would notice: the server ends instead, and its init system starts it
//! again.
//!
//! Invariants: only a loop's own silence counts, in monotonic time. A supervisor that was itself
//! stopped (SIGSTOP, a debugger, a host that slept) begins to listen anew: the loops were stopped
//! with it.

use std::time::{Duration, Instant};

/// How often loops are rung. By taste: two wake-ups a loop in four seconds are no load.
const PERIOD: Duration = Duration::from_secs(2);
/// A loop's turn takes milliseconds. By taste: far beyond what a host that swaps or is overbooked
/// does to a thread that would run.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A beat this late says that the supervisor did not run either.
const LATE: Duration = Duration::from_secs(1);

/// What was heard of each loop.
#[derive(Debug)]
pub struct Heartbeat {
    next: Instant,
    loops: Vec<Heard>,
}

/// How often a loop had turned when it was last seen to have turned on, and when that was.
#[derive(Clone, Copy, Debug)]
struct Heard {
    turns: u64,
    at: Instant,
}

impl Heartbeat {
    /// So many loops, all heard now.
    pub fn new(loops: u16, now: Instant) -> Heartbeat {
        Heartbeat { next: now + PERIOD, loops: vec![Heard { turns: 0, at: now }; loops.into()] }
    }

    /// When the next beat is due.
    pub fn next_due(&self) -> Instant {
        self.next
    }

    /// A beat: `turns` are the loops' counts now; each loop is to be rung behind it. Returns the
    /// first loop that hangs.
    pub fn beat(&mut self, now: Instant, turns: impl Iterator<Item = u64>) -> Option<u16> {
        let was_asleep = now > self.next + LATE;
        self.next = now + PERIOD;
        let mut hanging = None;
        for (index, (heard, turns)) in self.loops.iter_mut().zip(turns).enumerate() {
            if turns != heard.turns || was_asleep {
                *heard = Heard { turns, at: now };
            } else if now.duration_since(heard.at) >= SILENCE_MAX && hanging.is_none() {
                hanging = Some(index as u16);
            }
        }
        hanging
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beats every period until one finds a loop that hangs, or for so many seconds.
    fn hangs_within(
        heartbeat: &mut Heartbeat,
        seconds: u64,
        turns: impl Fn(u64) -> [u64; 2],
    ) -> Option<(u64, u16)> {
        let start = heartbeat.next_due() - PERIOD;
        (PERIOD.as_secs()..=seconds).step_by(PERIOD.as_secs() as usize).find_map(|second| {
            let now = start + Duration::from_secs(second);
            heartbeat.beat(now, turns(second).into_iter()).map(|index| (second, index))
        })
    }

    #[test]
    fn a_loop_that_turns_now_and_then_lives() {
        let mut heartbeat = Heartbeat::new(2, Instant::now());
        assert_eq!(hangs_within(&mut heartbeat, 600, |second| [second, second / 8]), None);
    }

    #[test]
    fn a_loop_that_does_not_turn_hangs() {
        let mut heartbeat = Heartbeat::new(2, Instant::now());
        // It turned 30 times, last before the beat at the sixth second.
        let found = hangs_within(&mut heartbeat, 60, |second| [second, 30 + second.min(6)]);
        assert_eq!(found, Some((16, 1)));
    }

    #[test]
    fn who_was_stopped_himself_accuses_nobody() {
        let mut heartbeat = Heartbeat::new(2, Instant::now());
        assert_eq!(hangs_within(&mut heartbeat, 8, |_| [1, 1]), None);
        let woken = heartbeat.next_due() + Duration::from_secs(3600);
        assert_eq!(heartbeat.beat(woken, [1, 1].into_iter()), None);
        assert_eq!(hangs_within(&mut heartbeat, 8, |_| [1, 1]), None);
        assert_eq!(hangs_within(&mut heartbeat, 4, |_| [1, 1]).map(|(_, index)| index), Some(0));
    }
}
