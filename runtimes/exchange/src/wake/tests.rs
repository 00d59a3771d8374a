//! The wake rule as a table: who sleeps, who is woken. No threads: states are set by hand.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::seat_line::{AWAKE, NOTIFIED, WAITING};
use crate::seats::SeatTable;

/// Two workers of two seats each, seats as given.
struct Fixture {
    table: SeatTable,
    workers: Workers,
    now_ns: u64,
}

impl Fixture {
    fn new(one_lock: bool, paired: Option<u32>, words: [u32; 4]) -> Fixture {
        let table = SeatTable::create(4).unwrap();
        let mut workers = Workers::new(0);
        workers.set_generations(1, 1);
        for worker in 0..2u32 {
            let first = worker as u16 * 2;
            workers.join(WorkerSeats {
                worker,
                seats: first..first + 2,
                generation: 1,
                one_lock,
                paired: paired == Some(worker),
            });
        }
        for (seat, word) in words.into_iter().enumerate() {
            table.view().line(seat as u16).word.reset(word);
            if word == IDLE {
                table.view().idle().set(seat as u16);
            }
        }
        Fixture { table, workers, now_ns: 0 }
    }

    /// Wakes one and says which seat it was. The woken seat takes its bit down and runs.
    fn wake(&mut self, wake: Wake) -> Option<u16> {
        let view = self.table.view();
        if !self.workers.wake_one(view, wake, self.now_ns) {
            return None;
        }
        let word = |seat| view.line(seat).word.word();
        let woken = (0..4).find(|&seat| word(seat).load(Ordering::Relaxed) == NOTIFIED).unwrap();
        word(woken).store(AWAKE, Ordering::Relaxed);
        view.idle().clear(woken);
        Some(woken)
    }
}

/// One row: the four seats, then whom each wake in turn picks.
fn check(one_lock: bool, paired: Option<u32>, words: [u32; 4], wakes: &[(Wake, Option<u16>)]) {
    let mut fixture = Fixture::new(one_lock, paired, words);
    for (at, (wake, expected)) in wakes.iter().enumerate() {
        assert_eq!(fixture.wake(*wake), *expected, "wake {at} of {words:?}");
    }
}

const FRESH: Wake = Wake::Fresh;
const WAITED: Wake = Wake::Waited;

#[test]
fn a_worker_at_rest_comes_first_and_the_paired_one_before_the_others() {
    check(true, None, [IDLE; 4], &[(FRESH, Some(0)), (FRESH, Some(2)), (FRESH, None)]);
    check(true, Some(1), [IDLE; 4], &[(FRESH, Some(2)), (FRESH, Some(0)), (FRESH, None)]);
    check(true, Some(1), [IDLE, IDLE, AWAKE, IDLE], &[(FRESH, Some(0)), (FRESH, None)]);
}

#[test]
fn under_one_lock_a_second_seat_is_woken_only_for_work_that_waited() {
    check(true, None, [AWAKE, IDLE, AWAKE, IDLE], &[(FRESH, None), (WAITED, Some(1))]);
    check(
        true,
        None,
        [IDLE; 4],
        &[
            (FRESH, Some(0)),
            (FRESH, Some(2)),
            (WAITED, Some(1)), // another worker than the one woken last
            (WAITED, Some(3)),
            (WAITED, None),
        ],
    );
    // A seat that waits within its request does not hold the lock; one that was notified will.
    check(true, None, [WAITING, IDLE, AWAKE, IDLE], &[(FRESH, Some(1)), (FRESH, None)]);
    check(true, None, [NOTIFIED, IDLE, NOTIFIED, AWAKE], &[(FRESH, None)]);
}

#[test]
fn without_one_lock_any_idle_seat_will_do() {
    check(
        false,
        None,
        [AWAKE, IDLE, AWAKE, IDLE],
        &[(FRESH, Some(1)), (FRESH, Some(3)), (FRESH, None)],
    );
}

#[test]
fn nobody_is_woken_when_all_run_or_none_may_pull() {
    check(false, None, [AWAKE; 4], &[(FRESH, None), (WAITED, None)]);
    let mut fixture = Fixture::new(false, None, [IDLE; 4]);
    fixture.workers.set_generations(2, 3);
    assert_eq!(fixture.wake(Wake::Waited), None);
    fixture.workers.set_generations(0, 1);
    assert_eq!(fixture.wake(Wake::Fresh), Some(0));
}

#[test]
fn a_bit_left_behind_wakes_nobody_in_its_place() {
    let mut fixture = Fixture::new(true, None, [AWAKE, AWAKE, IDLE, IDLE]);
    fixture.table.view().idle().set(0);
    assert_eq!(fixture.wake(Wake::Fresh), Some(2));
    fixture.workers.leave(1).unwrap();
    assert_eq!(fixture.wake(Wake::Waited), None);
}

#[test]
fn a_second_seat_is_woken_at_once_beside_a_silent_one() {
    // Both workers have one seat that runs and one that sleeps.
    let mut fixture = Fixture::new(true, None, [AWAKE, IDLE, AWAKE, IDLE]);
    fixture.now_ns = 10 * SILENT_NS;
    for seat in [0, 2] {
        fixture.workers.hear(seat, fixture.now_ns);
    }
    assert_eq!(fixture.wake(FRESH), None, "both were heard of just now");
    fixture.now_ns += SILENT_NS / 2;
    fixture.workers.hear(2, fixture.now_ns);
    fixture.now_ns += SILENT_NS / 2;
    assert_eq!(fixture.wake(FRESH), Some(1), "beside the first, which is silent");
    assert_eq!(fixture.wake(FRESH), None, "its second runs now, and the other worker works");
    // The woken seat went back to sleep; the one beside it is silent still.
    fixture.table.view().line(1).word.reset(IDLE);
    fixture.table.view().idle().set(1);
    assert_eq!(fixture.wake(FRESH), Some(1), "that it worked a moment ago does not hold it back");
}
