//! A worker that scribbles random values over everything it can write: the loop survives and says
//! what it saw, the worker or its pool is replaced, and another pool on the same thread is
//! untouched.
//!
//! `RINGHORN_SCRIBBLES=200` runs longer, `RINGHORN_SEED` repeats the choices of a run.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::traffic::{Dice, MiniLoop, PROGRAM, Worker, attach, note, run_worker};
use ringhorn_exchange::control::{FromWorker, Ready};
use ringhorn_exchange::{Counts, Geometry, Impossible};

const THREADS: u16 = 2;

const GEOMETRY: Geometry = Geometry {
    slots: 16,
    seats: 4,
    request_ring_bytes: 16 * 1024,
    response_ring_bytes: 8 * 1024,
    large_rings: 2,
    large_ring_bytes: 16 * 1024,
};

/// Not a test: what a well-behaved child of this binary runs.
#[test]
fn worker() {
    if std::env::var(PROGRAM).is_ok_and(|program| program == "worker") {
        run_worker();
    }
}

/// Not a test: what a child that runs wild runs. It serves nothing and scribbles.
#[test]
fn scribbler() {
    if std::env::var(PROGRAM).is_ok_and(|program| program == "scribbler") {
        let (socket, setup, _end) = attach();
        let ready = Ready { threads: setup.threads, one_lock: false };
        socket.send(&FromWorker::Ready(ready), &[]).unwrap();
        scribble(&mut Dice::new(setup.worker.into()));
    }
}

/// A shared mapping of this process.
struct Region {
    start: usize,
    bytes: usize,
    writable: bool,
    name: String,
}

/// The exchange's segments as /proc/self/maps shows them.
fn regions() -> Vec<Region> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let access = words.next()?;
            let name = words.nth(3)?;
            if !name.starts_with("/memfd:ringhorn-") {
                return None;
            }
            let start = usize::from_str_radix(start, 16).ok()?;
            let end = usize::from_str_radix(end, 16).ok()?;
            let writable = access.contains('w');
            Some(Region { start, bytes: end - start, writable, name: name.to_owned() })
        })
        .collect()
}

/// Writes random words to random places of everything writable, for ever.
fn scribble(dice: &mut Dice) {
    let regions = regions();
    let down = regions.iter().find(|region| region.name.contains("down")).unwrap();
    // The end of this process would be noticed as a worker that ended by itself.
    assert!(!down.writable, "the loop's segment is writable for workers");
    let targets: Vec<_> = regions.iter().filter(|region| region.writable).collect();
    assert_eq!(targets.len(), 2, "up and seats");
    loop {
        let target = targets[dice.below(targets.len() as u64) as usize];
        // Most of the damage is done where the control lines are.
        let span = if dice.below(4) > 0 { target.bytes.min(8192) } else { target.bytes };
        let at = dice.below(span as u64 / 8) as usize * 8;
        let value = match dice.below(6) {
            0 => dice.next(),
            1 => dice.below(16),
            2 => u64::MAX,
            // Shaped like a claim word of an early use.
            3 => dice.below(40) << 24 | dice.below(5) << 8 | dice.below(6),
            4 => 1 << dice.below(64),
            // A word from elsewhere: plausible values in wrong places.
            _ => {
                let other = dice.below(span as u64 / 8) as usize * 8;
                // SAFETY: inside the mapping; the whole point is to break every rule but that one.
                unsafe { std::ptr::read_volatile((target.start + other) as *const u64) }
            }
        };
        // SAFETY: as above.
        unsafe { std::ptr::write_volatile((target.start + at) as *mut u64, value) };
        if dice.below(64) == 0 {
            std::thread::sleep(Duration::from_micros(dice.below(200)));
        }
    }
}

fn kill(worker: &mut Worker) {
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
}

/// A pool whose second worker runs wild, until the loop says that something is impossible, or a
/// while has passed. Gives what it said.
fn run_wild(good: &mut MiniLoop, seed: u64) -> Option<Impossible> {
    let mut pool = MiniLoop::new(GEOMETRY, seed);
    (pool.load, pool.is_rough, pool.is_checked) = (8, true, false);
    let mut honest = pool.spawn(1, 0, THREADS, "worker");
    let mut wild = pool.spawn(2 + seed as u32 * 2, THREADS, THREADS, "scribbler");
    let until = Instant::now() + Duration::from_millis(400);
    let mut seen = None;
    while seen.is_none() && Instant::now() < until {
        good.turn(Duration::from_micros(200)).unwrap();
        // Whatever the scribbler made of the honest worker's responses is its pool's loss: only
        // what the loop's end itself says counts here.
        seen = pool.turn(Duration::from_micros(200)).err();
    }
    assert!(wild.child.try_wait().unwrap().is_none(), "the scribbler ended by itself");
    kill(&mut wild);
    kill(&mut honest);
    // The books stay in order whatever the words say: deaths are noted or the pool is condemned.
    for worker in [1, 2 + seed as u32 * 2] {
        let _ = pool.end.worker_died(worker, &mut Vec::new());
    }
    seen
}

#[test]
fn a_worker_that_scribbles_harms_its_pool_only() {
    if std::env::var(PROGRAM).is_ok() {
        return;
    }
    let number = |name, default| {
        std::env::var(name).ok().map_or(default, |value: String| value.parse::<u64>().unwrap())
    };
    let rounds = number("RINGHORN_SCRIBBLES", 20);
    let seed = number("RINGHORN_SEED", u64::from(std::process::id()) & 0xffff);
    note(&format!("RINGHORN_SEED={seed} RINGHORN_SCRIBBLES={rounds}"));
    let mut good = MiniLoop::new(GEOMETRY, seed);
    (good.load, good.is_rough) = (8, true);
    let mut worker = good.spawn(1, 0, THREADS, "worker");
    let mut seen = Vec::new();
    for round in 0..rounds {
        seen.extend(run_wild(&mut good, seed.wrapping_add(round)));
    }
    good.run_dry().unwrap();
    note(&format!("the other pool: {:?}", good.tally));
    for impossible in &seen {
        note(&format!("  {impossible}"));
    }
    assert!(seen.len() as u64 * 2 > rounds, "scribbles are hardly ever noticed");
    assert!(good.tally.whole > rounds, "the other pool was not served");
    kill(&mut worker);
    good.note_death(1).unwrap();
    assert_eq!(good.end.counts(), Counts { free: GEOMETRY.slots, ..Counts::default() });
}
