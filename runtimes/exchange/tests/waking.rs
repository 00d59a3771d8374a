//! Both ends in one process: who may pull, whose bell rings, who sleeps and who is woken.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{GEOMETRY, GET, Pool, path_of, pool, prepare, request, swept};
use ringhorn_exchange::{
    BodyRead, Geometry, RequestWake, ResponseEnd, Seat, Wake, Withdrawal, WorkWake,
};

#[test]
fn generations_open_and_close_the_queues() {
    let mut pool = Pool::new(1, GEOMETRY);
    let (old, new) = (pool.attach(1), pool.attach(2));
    let (mut old, mut new) = (old.seat(0, None), new.seat(1, None));
    let slot = request(&mut pool.loops[0], "/a");
    assert!(new.try_claim().is_none(), "the ceiling is 1");
    assert_eq!(new.wait_for_work(Some(Duration::ZERO)), WorkWake::TimedOut);
    pool.loops[0].set_generations(1, 2);
    assert!(new.peek_work() && old.peek_work());
    pool.loops[0].set_generations(2, 2);
    assert!(old.try_claim().is_none(), "the floor is 2");
    assert_eq!(old.wait_for_work(None), WorkWake::Stop);
    assert!(new.try_claim().is_some());
    pool.loops[0].release(slot).unwrap();
}

#[test]
fn a_seat_serves_its_paired_loop_first_and_the_others_every_16_requests() {
    let mut pool = Pool::new(2, Geometry { slots: 64, ..GEOMETRY });
    let mut seat = pool.worker().seat(0, Some(1));
    request(&mut pool.loops[0], "/other");
    for _ in 0..40 {
        request(&mut pool.loops[1], "/paired");
    }
    let order: Vec<_> = (0..41).map(|_| path_of(&seat.try_claim().unwrap())).collect();
    assert_eq!(order.iter().position(|path| path == "/other"), Some(16));
    request(&mut pool.loops[0], "/other");
    assert_eq!(path_of(&seat.try_claim().unwrap()), "/other");
    assert!(seat.try_claim().is_none());
}

/// Rings of a bell since the last look.
fn rings(end: &ringhorn_exchange::LoopEnd) -> u64 {
    use std::os::fd::AsRawFd;
    let mut count = [0u8; 8];
    // SAFETY: reads eight bytes from a non-blocking eventfd.
    let read =
        unsafe { libc::read(end.descriptors().bell.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    if read == 8 { u64::from_ne_bytes(count) } else { 0 }
}

#[test]
fn bells_ring_only_for_a_sleeper_and_are_deferred_only_while_work_waits() {
    let mut pool = Pool::new(2, GEOMETRY);
    let mut seat = pool.worker().seat(0, Some(0));
    let [first, second] = &mut pool.loops[..] else { panic!() };
    let slots = [request(first, "/1"), request(first, "/2"), request(first, "/3")];
    seat.try_claim().unwrap().finish(ResponseEnd::Broken);
    assert_eq!(rings(first), 0, "the loop is awake");
    assert_eq!(first.prepare_sleep(), Ok(false), "there is news");
    swept(first);
    assert_eq!(first.prepare_sleep(), Ok(true));
    seat.try_claim().unwrap().finish(ResponseEnd::Broken);
    assert_eq!(rings(first), 0, "deferred: work waits");
    let last = seat.try_claim().unwrap();
    assert_eq!(rings(first), 1, "rung before the last entry is worked on");
    last.finish(ResponseEnd::Broken);
    assert_eq!(rings(first), 1, "nothing waits: not deferred");
    swept(first);
    for slot in slots {
        first.release(slot).unwrap();
    }

    // Turning to another loop's queue rings first.
    let slots = [request(first, "/1"), request(first, "/2")];
    request(second, "/other");
    assert_eq!(first.prepare_sleep(), Ok(true));
    seat.try_claim().unwrap().finish(ResponseEnd::Broken);
    assert_eq!(rings(first), 0, "deferred");
    assert_eq!(first.withdraw(slots[1]), Ok(Withdrawal::Withdrawn));
    let claim = seat.try_claim().unwrap();
    assert_eq!(path_of(&claim), "/other");
    assert_eq!(rings(first), 1);
}

#[test]
fn flush_rings_at_once_and_waiting_rings_what_was_deferred() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    request(end, "/1");
    request(end, "/2");
    assert_eq!(end.prepare_sleep(), Ok(true));
    let mut claim = seat.try_claim().unwrap();
    claim.writer().begin_head(b"200 OK").unwrap();
    claim.writer().flush();
    assert_eq!(rings(end), 0, "nothing was written");
    claim.writer().write(b"x").unwrap();
    claim.writer().flush();
    assert_eq!(rings(end), 1);
    claim.finish(ResponseEnd::Complete);
    assert_eq!(rings(end), 0, "deferred");
    seat.ring_deferred();
    assert_eq!(rings(end), 1);
    seat.ring_deferred();
    assert_eq!(rings(end), 0);
}

#[test]
fn a_full_bell_counter_is_emptied_and_still_rings() {
    use std::os::fd::AsRawFd;
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let full = (u64::MAX - 1).to_ne_bytes();
    // SAFETY: writes eight bytes to an eventfd of this test.
    unsafe { libc::write(end.descriptors().bell.as_raw_fd(), full.as_ptr().cast(), 8) };
    request(end, "/");
    assert_eq!(end.prepare_sleep(), Ok(true));
    seat.try_claim().unwrap().finish(ResponseEnd::Broken);
    assert_eq!(rings(end), 1);
}

#[test]
fn sleeping_seats_are_woken_for_work_interrupts_and_stop() {
    let mut pool = Pool::new(1, GEOMETRY);
    let worker = pool.worker();
    let mut seat = worker.seat(3, None);
    let woken = |worker: &Arc<_>, mut seat: Seat| {
        let _ = worker;
        std::thread::spawn(move || {
            let wake = seat.wait_for_work(Some(Duration::from_secs(20)));
            (wake, seat)
        })
    };
    let end = &mut pool.loops[0];
    assert!(!end.wake_one(Wake::Fresh), "nobody sleeps");
    let thread = woken(&worker, seat);
    request(end, "/");
    while !end.wake_one(Wake::Fresh) && !thread.is_finished() {
        std::thread::yield_now();
    }
    let (wake, back) = thread.join().unwrap();
    assert_eq!(wake, WorkWake::Work);
    seat = back;
    drop(seat.try_claim().unwrap());
    let thread = woken(&worker, seat);
    worker.interrupt(3);
    let (wake, back) = thread.join().unwrap();
    assert_eq!(wake, WorkWake::Interrupted);
    let thread = woken(&worker, back);
    worker.stop();
    assert_eq!(thread.join().unwrap().0, WorkWake::Stop);
}

#[test]
fn waits_within_a_request_end_by_body_room_cancel_and_stop() {
    let mut pool = Pool::new(1, GEOMETRY);
    let worker = pool.worker();
    let mut seat = worker.seat(0, None);
    let end = &mut pool.loops[0];

    // Body: the loop publishes while the seat sleeps.
    let slot = prepare(end, GET, "/");
    end.enqueue(slot, 1).unwrap();
    let mut claim = seat.try_claim().unwrap();
    let thread = std::thread::spawn(move || {
        assert_eq!(claim.wait_for_body(), RequestWake::Ready);
        let mut into = [0; 8];
        while claim.read_body(&mut into) == BodyRead::Pending {
            claim.wait_for_body();
        }
        (claim, into)
    });
    assert_eq!(end.write_body(slot, b"bodybody"), Ok(8));
    let (mut claim, into) = thread.join().unwrap();
    assert_eq!(&into, b"bodybody");

    // Room: the writer fills its ring and sleeps until half of it was sent.
    claim.writer().begin_head(b"200 OK").unwrap();
    let full = [b'x'; 9000];
    assert_eq!(claim.writer().write(&full[..10]), Ok(10), "a small first piece asks for nothing");
    assert!(claim.writer().write(&full).unwrap() < 9000);
    let thread = std::thread::spawn(move || {
        assert_eq!(claim.writer().wait_for_room(), RequestWake::Ready);
        assert!(claim.writer().write(&[b'y'; 3000]).unwrap() > 0);
        claim
    });
    while !swept(end).contains(&slot) {
        std::thread::yield_now();
    }
    let unsent = end.progress(slot).unwrap().unsent;
    end.sent(slot, 100);
    end.sent(slot, unsent - 100);
    let mut claim = thread.join().unwrap();

    // Stop, then cancel.
    let thread = std::thread::spawn(move || {
        let first = claim.wait_for_body();
        (first, claim)
    });
    worker.stop_now();
    let (wake, mut claim) = thread.join().unwrap();
    assert_eq!(wake, RequestWake::Stop);
    end.abandon(slot).unwrap();
    assert_eq!(claim.wait_for_body(), RequestWake::Stop);
    drop(claim);
    end.release(slot).unwrap();
    assert_eq!(end.counts().free, 16);
}

#[test]
fn a_cancelled_request_wakes_its_waiting_seat() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = prepare(end, GET, "/");
    end.enqueue(slot, 1).unwrap();
    let mut claim = seat.try_claim().unwrap();
    let thread = std::thread::spawn(move || {
        loop {
            match claim.wait_for_body() {
                RequestWake::Ready => {}
                wake => return (wake, claim),
            }
        }
    });
    end.abandon(slot).unwrap();
    let (wake, claim) = thread.join().unwrap();
    assert_eq!(wake, RequestWake::Cancelled);
    drop(claim);
}
