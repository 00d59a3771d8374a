//! A worker is killed with SIGKILL at random instants under load, many hundred times: no hang, no
//! lost slot, no other request harmed, nothing delivered to the wrong client.
//!
//! `RINGHORN_KILLS=10000` runs longer, `RINGHORN_SEED` repeats a run as far as the machine lets it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::traffic::{Dice, MiniLoop, PROGRAM, Worker, note, run_worker};
use ringhorn_exchange::control::{FromWorker, Received};
use ringhorn_exchange::{Counts, Geometry};

const WORKERS: u16 = 3;
const THREADS: u16 = 2;

/// Rings small enough that most requests go around them.
const GEOMETRY: Geometry = Geometry {
    slots: 24 + 2 * (WORKERS * THREADS) as u32,
    seats: (WORKERS * THREADS) as u32,
    request_ring_bytes: 16 * 1024,
    response_ring_bytes: 8 * 1024,
    large_rings: 2,
    large_ring_bytes: 16 * 1024,
};

/// Not a test: what a child of this binary runs.
#[test]
fn worker() {
    if std::env::var(PROGRAM).is_ok_and(|program| program == "worker") {
        run_worker();
    }
}

#[test]
fn workers_killed_at_random_instants_harm_nobody_else() {
    if std::env::var(PROGRAM).is_ok() {
        return;
    }
    let number = |name, default| {
        std::env::var(name).ok().map_or(default, |value| value.parse::<u64>().unwrap())
    };
    let kills = number("RINGHORN_KILLS", 1500);
    let seed = number("RINGHORN_SEED", std::process::id().into());
    note(&format!("RINGHORN_SEED={seed} RINGHORN_KILLS={kills}"));
    let mut dice = Dice::new(seed);
    let mut mini = MiniLoop::new(GEOMETRY, dice.next() >> 32);
    (mini.load, mini.is_rough) = (24, true);
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|place| mini.spawn(u32::from(place), place * THREADS, THREADS, "worker"))
        .collect();
    let (mut killed, mut next) = (0, u32::from(WORKERS));
    let began = Instant::now();
    while killed < kills {
        mini.turn(Duration::from_millis(1)).unwrap();
        for worker in &mut workers {
            look_at(worker, &mut dice);
            if worker.doomed_at.is_some_and(|at| at <= Instant::now()) {
                worker.child.kill().unwrap();
                worker.child.wait().unwrap();
                mini.note_death(worker.number).unwrap();
                *worker = mini.spawn(next, worker.first_seat, THREADS, "worker");
                next += 1;
                killed += 1;
            }
        }
        if killed % 64 == 0 {
            mini.end.give_back_pages(common::traffic::now_ns());
        }
    }
    // Those that live answer everything that is left.
    mini.run_dry().unwrap();
    for worker in &mut workers {
        worker.child.kill().unwrap();
        worker.child.wait().unwrap();
        mini.note_death(worker.number).unwrap();
    }
    note(&format!("{killed} kills in {:.1?}: {:?}", began.elapsed(), mini.tally));
    let free = Counts { free: GEOMETRY.slots, ..Counts::default() };
    assert_eq!(mini.end.counts(), free, "a slot is lost");
    assert!(mini.tally.whole > kills, "hardly anything was served");
    assert!(mini.tally.lost_with_worker > kills / 20, "hardly a kill met a request");
    assert!(mini.tally.withdrawn > 0 && mini.tally.given_up > 0);
}

/// Notes that a worker is ready, and dooms it.
fn look_at(worker: &mut Worker, dice: &mut Dice) {
    if worker.is_ready {
        return;
    }
    match worker.socket.receive::<FromWorker>().unwrap() {
        Received::Message(FromWorker::Hello(hello), _) => assert!(hello.is_compatible()),
        Received::Message(FromWorker::Ready(_), _) => {
            worker.is_ready = true;
            // Microseconds to a few milliseconds of work, most of them short.
            let longest = 1 << (6 + dice.below(8));
            let life = Duration::from_micros(dice.below(longest));
            worker.doomed_at = Some(Instant::now() + life);
        }
        Received::Message(FromWorker::Failed(failed), _) => panic!("{}", failed.text),
        Received::Message(message, _) => panic!("{message:?} from a worker that has no such wish"),
        Received::Nothing => {}
        Received::Closed => panic!("worker {} ended by itself", worker.number),
    }
}
