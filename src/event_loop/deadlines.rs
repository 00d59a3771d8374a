//! Deadlines of connections: a user-space timer wheel, linked through the connections themselves.
//!
//! Where it stands in the walk of a request: beside it. Each connection has one deadline at a time;
//! what it means depends on what the connection waits for (`event_loop/expiry.rs`).
//!
//! Invariants:
//! - Setting a later deadline only stores it: the link stays where it is and moves when its bucket
//!   comes round. Only an earlier one relinks, so a keep-alive request touches no bucket.
//! - A retired connection is unlinked at once: the wheel never holds a number that is free, and
//!   never grows.
//! - Deadlines are kept to [`TICK_MS`]; none fires early, each at most one tick late.
//! - The loop is not woken for empty buckets: a fine tick costs a loop nothing that has only far
//!   deadlines.

use std::time::Duration;

use super::table::Table;
use crate::connection::TimerLink;
use crate::driver::ConnectionIndex;

/// Resolution of deadlines, in milliseconds. A request's 504 is promised within 100 ms of its
/// deadline (docs/promises.md): a tick late by rounding leaves most of that to the machine.
pub const TICK_MS: u64 = 25;

/// Buckets of the wheel; a deadline beyond them (51 s) waits in the last one and is linked again
/// from there.
const BUCKETS: u32 = 2048;

/// The wheel. Times are nanoseconds of the monotonic clock.
#[derive(Debug)]
pub struct TimerWheel {
    buckets: Vec<ConnectionIndex>,
    /// Bit a bucket: it is not empty.
    occupied: [u64; BUCKETS as usize / 64],
    start_ns: u64,
    /// The first tick whose bucket was not looked at yet.
    next_tick: u32,
    linked: usize,
}

impl TimerWheel {
    /// An empty wheel that starts now.
    pub fn new(now_ns: u64) -> TimerWheel {
        TimerWheel {
            buckets: vec![TimerLink::NEVER; BUCKETS as usize],
            occupied: [0; BUCKETS as usize / 64],
            start_ns: now_ns,
            next_tick: 1,
            linked: 0,
        }
    }

    /// Sets the connection's one deadline to `after` from now, whatever it was before.
    pub fn set(&mut self, table: &mut Table, index: ConnectionIndex, now_ns: u64, after: Duration) {
        // Rounded up twice, into the tick and out of it: never early.
        let tick = self.tick_at(now_ns.saturating_add(after.as_nanos() as u64)) + 1;
        table[index].timer.deadline_tick = tick;
        if table[index].timer.linked_tick > tick {
            self.unlink(table, index);
            self.link(table, index);
        }
    }

    /// Takes the deadline away. The link stays and finds nothing when its bucket comes round.
    pub fn clear(&mut self, table: &mut Table, index: ConnectionIndex) {
        table[index].timer.deadline_tick = TimerLink::NEVER;
    }

    /// Takes the connection off the wheel: before its number is given back.
    pub fn remove(&mut self, table: &mut Table, index: ConnectionIndex) {
        table[index].timer.deadline_tick = TimerLink::NEVER;
        if table[index].timer.linked_tick != TimerLink::NEVER {
            self.unlink(table, index);
        }
    }

    /// How long the loop may sleep before the next bucket with something in it is due; `None`: no
    /// deadline is linked.
    pub fn sleep(&self, now_ns: u64) -> Option<Duration> {
        if self.linked == 0 {
            return None;
        }
        let tick = u64::from(self.next_tick) + u64::from(self.empty_buckets());
        let due_ns = self.start_ns + tick * TICK_MS * 1_000_000;
        Some(Duration::from_nanos(due_ns.saturating_sub(now_ns)))
    }

    /// How many buckets from the next one on are empty.
    fn empty_buckets(&self) -> u32 {
        let words = self.occupied.len();
        let from = self.next_tick % BUCKETS;
        let (word, bit) = ((from / 64) as usize, from % 64);
        let here = self.occupied[word] >> bit;
        if here != 0 {
            return here.trailing_zeros();
        }
        // The last step is the first word again, for its bits below `bit`.
        for step in 1..=words {
            let bits = self.occupied[(word + step) % words];
            if bits != 0 {
                return step as u32 * 64 - bit + bits.trailing_zeros();
            }
        }
        0
    }

    /// Moves on to now and appends the connections whose deadline passed; their deadline is
    /// cleared.
    pub fn advance(&mut self, table: &mut Table, now_ns: u64, due: &mut Vec<ConnectionIndex>) {
        let now_tick = self.tick_at(now_ns);
        // After a long sleep with nothing linked each bucket is looked at once at most.
        if now_tick.saturating_sub(self.next_tick) >= BUCKETS {
            self.next_tick = now_tick - BUCKETS + 1;
        }
        while self.next_tick <= now_tick {
            let bucket = (self.next_tick % BUCKETS) as usize;
            let mut index = std::mem::replace(&mut self.buckets[bucket], TimerLink::NEVER);
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            self.next_tick += 1;
            while index != TimerLink::NEVER {
                let timer = table[index].timer;
                self.linked -= 1;
                table[index].timer =
                    TimerLink { deadline_tick: timer.deadline_tick, ..TimerLink::UNLINKED };
                if timer.deadline_tick <= now_tick {
                    table[index].timer.deadline_tick = TimerLink::NEVER;
                    due.push(index);
                } else if timer.deadline_tick != TimerLink::NEVER {
                    self.link(table, index);
                }
                index = timer.next;
            }
        }
    }

    fn tick_at(&self, at_ns: u64) -> u32 {
        let ticks = at_ns.saturating_sub(self.start_ns) / (TICK_MS * 1_000_000);
        // 2^32 ticks are thirteen years of uptime; the last value is NEVER's.
        u32::try_from(ticks).unwrap_or(TimerLink::NEVER - 2).min(TimerLink::NEVER - 2)
    }

    fn link(&mut self, table: &mut Table, index: ConnectionIndex) {
        let farthest = self.next_tick + BUCKETS - 1;
        let tick = table[index].timer.deadline_tick.clamp(self.next_tick, farthest);
        let bucket = (tick % BUCKETS) as usize;
        let head = self.buckets[bucket];
        let timer = &mut table[index].timer;
        timer.linked_tick = tick;
        timer.next = head;
        timer.previous = TimerLink::NEVER;
        if head != TimerLink::NEVER {
            table[head].timer.previous = index;
        }
        self.buckets[bucket] = index;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.linked += 1;
    }

    fn unlink(&mut self, table: &mut Table, index: ConnectionIndex) {
        let timer = table[index].timer;
        if timer.linked_tick == TimerLink::NEVER {
            return;
        }
        match timer.previous {
            TimerLink::NEVER => {
                let bucket = (timer.linked_tick % BUCKETS) as usize;
                self.buckets[bucket] = timer.next;
                if timer.next == TimerLink::NEVER {
                    self.occupied[bucket / 64] &= !(1 << (bucket % 64));
                }
            }
            previous => table[previous].timer.next = timer.next,
        }
        if timer.next != TimerLink::NEVER {
            table[timer.next].timer.previous = timer.previous;
        }
        table[index].timer =
            TimerLink { deadline_tick: timer.deadline_tick, ..TimerLink::UNLINKED };
        self.linked -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn wheel_with(count: usize) -> (TimerWheel, Table) {
        let mut table = Table::new(count);
        for _ in 0..count {
            table.arm(0).unwrap();
        }
        (TimerWheel::new(0), table)
    }

    fn due_at(wheel: &mut TimerWheel, table: &mut Table, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(table, now_ms * MS, &mut due);
        due
    }

    #[test]
    fn fires_never_early_and_at_most_a_tick_late() {
        let (mut wheel, mut table) = wheel_with(1);
        wheel.set(&mut table, 0, 50 * MS, Duration::from_millis(1000));
        assert!(due_at(&mut wheel, &mut table, 1049).is_empty());
        assert_eq!(due_at(&mut wheel, &mut table, 1050 + TICK_MS), [0]);
        assert!(due_at(&mut wheel, &mut table, 5000).is_empty());
        assert_eq!(wheel.sleep(5000 * MS), None);
    }

    /// Sleeps as told until something is due; when that was, and how often the loop woke.
    fn sleep_until_due(wheel: &mut TimerWheel, table: &mut Table, from_ms: u64) -> (u64, u32) {
        let (mut now_ns, mut wakes) = (from_ms * MS, 0);
        loop {
            now_ns += wheel.sleep(now_ns).expect("a deadline is linked").as_nanos() as u64;
            wakes += 1;
            let mut due = Vec::new();
            wheel.advance(table, now_ns, &mut due);
            if !due.is_empty() {
                return (now_ns, wakes);
            }
        }
    }

    /// A loop that sleeps as the wheel says is on time, whatever the deadline and the moment.
    #[test]
    fn a_loop_that_sleeps_as_told_is_on_time_and_is_not_woken_in_between() {
        for (at_us, after_us) in [
            (0, 1),
            (0, 25_000),
            (24_999, 1),
            (1, 1_000_000),
            (77_777, 30_000_000),
            (60_012_345, 51_190_000),
        ] {
            let (mut wheel, mut table) = wheel_with(1);
            let at_ns = at_us * 1000;
            wheel.advance(&mut table, at_ns, &mut Vec::new());
            wheel.set(&mut table, 0, at_ns, Duration::from_micros(after_us));
            let (due_ns, wakes) = sleep_until_due(&mut wheel, &mut table, at_ns / MS);
            let late_ns = due_ns.checked_sub(at_ns + after_us * 1000).expect("early");
            assert!(late_ns <= TICK_MS * MS, "{at_us} + {after_us}: {late_ns} ns late");
            assert!(wakes <= 2, "{at_us} + {after_us}: woken {wakes} times");
        }
    }

    #[test]
    fn a_bucket_that_was_emptied_wakes_nobody() {
        let (mut wheel, mut table) = wheel_with(2);
        wheel.set(&mut table, 0, 0, Duration::from_secs(1));
        wheel.set(&mut table, 1, 0, Duration::from_secs(20));
        wheel.remove(&mut table, 0);
        let (due_ns, wakes) = sleep_until_due(&mut wheel, &mut table, 0);
        assert!((20_000 * MS..=20_000 * MS + TICK_MS * MS).contains(&due_ns), "{due_ns}");
        assert_eq!(wakes, 1);
    }

    #[test]
    fn keeps_deadlines_beyond_its_buckets() {
        let (mut wheel, mut table) = wheel_with(1);
        wheel.set(&mut table, 0, 0, Duration::from_secs(75));
        for second in 1..75 {
            assert!(due_at(&mut wheel, &mut table, second * 1000).is_empty(), "{second}");
        }
        assert_eq!(due_at(&mut wheel, &mut table, 75_200), [0]);
    }

    #[test]
    fn moves_a_deadline_both_ways() {
        let (mut wheel, mut table) = wheel_with(3);
        for index in 0..3 {
            wheel.set(&mut table, index, 0, Duration::from_secs(10));
        }
        wheel.set(&mut table, 1, 0, Duration::from_secs(1));
        wheel.set(&mut table, 2, 0, Duration::from_secs(20));
        assert_eq!(due_at(&mut wheel, &mut table, 1_200), [1]);
        assert_eq!(due_at(&mut wheel, &mut table, 10_200), [0]);
        assert_eq!(due_at(&mut wheel, &mut table, 20_200), [2]);
    }

    #[test]
    fn forgets_what_was_removed() {
        let (mut wheel, mut table) = wheel_with(3);
        for index in 0..3 {
            wheel.set(&mut table, index, 0, Duration::from_secs(1));
        }
        wheel.remove(&mut table, 1);
        wheel.remove(&mut table, 1);
        let mut due = due_at(&mut wheel, &mut table, 60_000_000);
        due.sort_unstable();
        assert_eq!(due, [0, 2]);
    }
}
