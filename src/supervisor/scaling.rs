//! The number of workers follows the load, between `--workers-min` and `--workers-max`.
//!
//! Beside the walk of a request. Twice a second each loop is asked how much waits and runs. A
//! worker is added when a request has waited long, one at a time, so that an application which
//! imports slowly is not started many times for one peak; one is taken away when half of the seats
//! would have done for a while.
//!
//! Invariant: without a range between the two bounds nothing is asked and nothing changes.

use std::time::{Duration, Instant};

use super::fault::Fault;
use super::loops::Loops;
use super::pool::{POOL, Pool};
use crate::config::Concurrency;
use crate::event_loop::{Command, Load};

/// How often loops are asked.
const STEP: Duration = Duration::from_millis(500);
/// A request that waits so long wants another worker. By taste: what a user notices.
const LONG_WAIT: Duration = Duration::from_millis(100);
/// How long a pool must have had seats to spare before one worker leaves. By taste: minutes-long
/// valleys are used, short ones are not.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Scaling {
    range: Option<(usize, usize)>,
    threads: u32,
    due: Instant,
    /// What loops said since they were last asked.
    load: Load,
    /// Since when half of the seats would have done.
    idle_since: Option<Instant>,
}

impl Scaling {
    /// Follows the load between the bounds, if they differ.
    pub fn new(concurrency: Concurrency) -> Scaling {
        let (lowest, highest) = concurrency.workers_range;
        Scaling {
            range: (lowest < highest).then_some((lowest as usize, highest as usize)),
            threads: concurrency.threads,
            due: Instant::now() + STEP,
            load: Load::default(),
            idle_since: None,
        }
    }

    /// Changes nothing any more: a hand took over.
    pub fn stop(&mut self) {
        self.range = None;
    }

    /// When [`step`](Scaling::step) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        self.range.map(|_| self.due)
    }

    /// A loop answered.
    pub fn heard(&mut self, load: Load) {
        self.load.queued += load.queued;
        self.load.running += load.running;
        self.load.longest_wait = self.load.longest_wait.max(load.longest_wait);
    }

    /// Acts on what loops said, and asks again.
    ///
    /// # Errors
    /// A loop takes no commands.
    pub fn step(&mut self, now: Instant, loops: &Loops, pool: &mut Pool<'_>) -> Result<(), Fault> {
        let Some(range) = self.range else { return Ok(()) };
        if now < self.due {
            return Ok(());
        }
        self.due = now + STEP;
        let load = std::mem::take(&mut self.load);
        let size = pool.size();
        let wanted = self.wanted(range, size, load, pool.is_booting(), now);
        if wanted != size {
            let Load { queued, running, longest_wait } = load;
            tracing::info!(
                "workers: {size} before, {wanted} from now on ({queued} requests wait, the oldest \
                 for {longest_wait:?}; {running} run)"
            );
            pool.resize(wanted, now, Some(loops))?;
        }
        loops.command(|_| Command::Measure { pool: POOL })
    }

    /// How many workers there are to be.
    fn wanted(
        &mut self,
        (lowest, highest): (usize, usize),
        size: usize,
        load: Load,
        is_booting: bool,
        now: Instant,
    ) -> usize {
        if load.longest_wait >= LONG_WAIT && size < highest && !is_booting {
            self.idle_since = None;
            return size + 1;
        }
        let busy = u64::from(load.queued) + u64::from(load.running);
        let seats_without_one = (size.saturating_sub(1) as u64) * u64::from(self.threads);
        if size <= lowest || is_booting || 2 * busy > seats_without_one {
            self.idle_since = None;
            return size;
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.saturating_duration_since(since) < IDLE_FOR {
            return size;
        }
        self.idle_since = None;
        size - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling() -> Scaling {
        let workers_range = (1, 4);
        let concurrency =
            Concurrency { workers: 1, workers_range, workers_room: 8, threads: 2, event_loops: 1 };
        Scaling::new(concurrency)
    }

    fn load(queued: u32, running: u32, wait_ms: u64) -> Load {
        Load { queued, running, longest_wait: Duration::from_millis(wait_ms) }
    }

    #[test]
    fn grows_by_one_while_requests_wait_and_nobody_boots() {
        let (mut scaling, now) = (scaling(), Instant::now());
        assert_eq!(scaling.wanted((1, 4), 1, load(9, 2, 99), false, now), 1);
        assert_eq!(scaling.wanted((1, 4), 1, load(9, 2, 100), false, now), 2);
        assert_eq!(scaling.wanted((1, 4), 2, load(9, 2, 900), true, now), 2);
        assert_eq!(scaling.wanted((1, 4), 4, load(9, 8, 900), false, now), 4);
    }

    #[test]
    fn shrinks_by_one_after_a_while_of_half_the_seats() {
        let (mut scaling, start) = (scaling(), Instant::now());
        let mut at = |seconds, busy| {
            let now = start + Duration::from_secs(seconds);
            scaling.wanted((1, 4), 3, load(0, busy, 0), false, now)
        };
        assert_eq!(at(0, 2), 3);
        assert_eq!(at(29, 2), 3);
        // More than half of what two workers have: counted from anew.
        assert_eq!(at(30, 3), 3);
        assert_eq!(at(31, 2), 3);
        assert_eq!(at(61, 2), 2);
    }

    #[test]
    fn keeps_the_fewest() {
        let (mut scaling, start) = (scaling(), Instant::now());
        for seconds in 0..100 {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(scaling.wanted((1, 4), 1, load(0, 0, 0), false, now), 1);
        }
    }
}
