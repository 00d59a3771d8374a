//! Nanoseconds for one hand-over: a request with 25 variables there, a head and 200 bytes back.
//!
//! Three settings: both ends on one thread (the instructions alone), two threads of one process,
//! two processes. In the last two 64 requests are in flight, as under load: nobody sleeps for long,
//! and the figure is the loop's and the seat's work where they overlap, cache misses between cores
//! included.
//!
//! `cargo bench -p ringhorn-exchange`. Pin the processes for steady figures: `taskset -c 0,1 cargo
//! bench …`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::traffic::{PROGRAM, attach};
use common::{GET, Pool};
use criterion::{Criterion, criterion_group};
use ringhorn_exchange::{
    BodyEnd, Claim, Geometry, KeyId, LoopEnd, ResponseEnd, Seat, SlotIndex, Wake, WorkWake,
};

const GEOMETRY: Geometry = Geometry {
    slots: 128,
    seats: 8,
    request_ring_bytes: Geometry::REQUEST_RING_BYTES,
    response_ring_bytes: Geometry::RESPONSE_RING_BYTES,
    large_rings: 8,
    large_ring_bytes: Geometry::LARGE_RING_BYTES,
};
const IN_FLIGHT: u32 = 64;
const VALUE: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0)";
const BODY: [u8; 200] = [b'x'; 200];

/// Fills and queues one request.
fn dispatch(end: &mut LoopEnd) {
    let slot = end.reserve().unwrap();
    let mut record = end.record(slot);
    record.begin(GET);
    for key in &KeyId::ALL[..25] {
        record.known(*key, VALUE);
    }
    record.finish().unwrap();
    end.finish_body(slot, BodyEnd::Complete);
    end.enqueue(slot, 1).unwrap();
}

/// Takes one reply. False: it is not whole yet.
fn reply(end: &mut LoopEnd, slot: SlotIndex) -> bool {
    let progress = end.progress(slot).unwrap();
    if progress.end.is_none() {
        return false;
    }
    std::hint::black_box(end.unsent(slot));
    end.sent(slot, progress.unsent);
    end.release(slot).unwrap()
}

fn answer(mut claim: Claim) {
    let bytes: usize = claim.variables().map(|variable| variable.value.len()).sum();
    std::hint::black_box(bytes);
    let writer = claim.writer();
    writer.begin_head(b"200 OK").unwrap();
    writer.header(b"Content-Type", b"text/plain; charset=utf-8").unwrap();
    writer.state_length(BODY.len() as u64);
    writer.write(&BODY).unwrap();
    claim.finish(ResponseEnd::Complete);
}

fn serve(mut seat: Seat) {
    loop {
        while let Some(claim) = seat.try_claim() {
            answer(claim);
        }
        if seat.wait_for_work(None) == WorkWake::Stop {
            return;
        }
    }
}

/// Time for `requests` with [`IN_FLIGHT`] of them at a time, served by somebody else.
fn drive(end: &mut LoopEnd, requests: u64) -> Duration {
    let mut news = Vec::new();
    let (mut started, mut done) = (0, 0);
    let began = Instant::now();
    while done < requests {
        while started < requests && end.in_flight() < IN_FLIGHT {
            dispatch(end);
            started += 1;
        }
        end.wake_one(Wake::Fresh);
        news.clear();
        end.sweep(&mut news);
        for &slot in &news {
            done += u64::from(reply(end, slot));
        }
        std::hint::spin_loop();
    }
    began.elapsed()
}

fn one_thread(criterion: &mut Criterion) {
    let mut pool = Pool::new(1, GEOMETRY);
    let mut seat = pool.attach(1).seat(0, Some(0));
    let mut news = Vec::new();
    criterion.bench_function("hand_over/one_thread", |bencher| {
        bencher.iter(|| {
            let end = &mut pool.loops[0];
            dispatch(end);
            answer(seat.try_claim().unwrap());
            news.clear();
            end.sweep(&mut news);
            assert!(reply(end, news[0]));
        });
    });
}

fn two_threads(criterion: &mut Criterion) {
    let mut pool = Pool::new(1, GEOMETRY);
    let worker = pool.attach(1);
    join(&mut pool.loops[0]);
    let seat = worker.seat(0, Some(0));
    let thread = std::thread::spawn(move || serve(seat));
    criterion.bench_function("hand_over/two_threads", |bencher| {
        bencher.iter_custom(|requests| drive(&mut pool.loops[0], requests));
    });
    worker.stop();
    thread.join().unwrap();
}

fn two_processes(criterion: &mut Criterion) {
    let mut mini = common::traffic::MiniLoop::new(GEOMETRY, 1);
    let mut worker = mini.spawn(1, 0, 1, "bench");
    criterion.bench_function("hand_over/two_processes", |bencher| {
        bencher.iter_custom(|requests| drive(&mut mini.end, requests));
    });
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
}

fn join(end: &mut LoopEnd) {
    end.worker_joined(ringhorn_exchange::WorkerSeats {
        worker: 1,
        seats: 0..1,
        generation: 1,
        one_lock: true,
        paired: true,
    });
}

criterion_group!(hand_over, one_thread, two_threads, two_processes);

fn main() {
    if std::env::var(PROGRAM).is_ok() {
        let (_socket, setup, end) = attach();
        return serve(Arc::new(end).seat(setup.first_seat, Some(0)));
    }
    hand_over();
    Criterion::default().configure_from_args().final_summary();
}
