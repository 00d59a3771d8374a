//! Large responses: asked for, granted, denied, thought better of, and given back.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::{GEOMETRY, Pool, request, take_unsent};
use ringhorn_exchange::{
    Claim, LoopEnd, RequestWake, ResponseEnd, Seat, SlotIndex, Withdrawal, WorkerEnd,
};

/// More than the slot's own ring, less than a large one.
const LARGE: usize = 10_000;

struct Fixture {
    pool: Pool,
    worker: Arc<WorkerEnd>,
    seat: Seat,
}

impl Fixture {
    fn new() -> Fixture {
        let mut pool = Pool::new(1, GEOMETRY);
        let worker = pool.worker();
        let seat = worker.seat(0, Some(0));
        Fixture { pool, worker, seat }
    }

    fn end(&mut self) -> &mut LoopEnd {
        &mut self.pool.loops[0]
    }

    /// A claimed request that is about to answer with `LARGE` bytes.
    fn claim(&mut self) -> (SlotIndex, Claim) {
        let slot = request(self.end(), "/");
        (slot, begun(self.seat.try_claim().unwrap()))
    }

    /// A request whose response was granted a large ring and fills it.
    fn granted(&mut self) -> (SlotIndex, Claim) {
        let (slot, mut claim) = self.claim();
        if claim.writer().write(&body()).unwrap() == 0 {
            self.end().progress(slot).unwrap();
            assert_eq!(claim.writer().write(&body()), Ok(LARGE));
        }
        (slot, claim)
    }

    fn end_response(&mut self, slot: SlotIndex, claim: Claim) {
        claim.finish(ResponseEnd::Complete);
        let end = self.end();
        assert_eq!(end.progress(slot).unwrap().end, Some(ResponseEnd::Complete));
        let wire = take_unsent(end, slot);
        assert!(wire.ends_with(&body()), "the body arrived");
        assert_eq!(end.release(slot), Ok(true));
    }
}

fn begun(mut claim: Claim) -> Claim {
    claim.writer().begin_head(b"200 OK").unwrap();
    claim.writer().state_length(LARGE as u64);
    claim
}

fn body() -> Vec<u8> {
    (0..LARGE as u32).map(|at| (at >> 3) as u8).collect()
}

#[test]
fn a_large_response_is_handed_over_in_one_piece() {
    let mut fixture = Fixture::new();
    let (slot, mut claim) = fixture.claim();
    assert_eq!(claim.writer().write(&body()), Ok(0), "it asks first");
    claim.writer().flush();
    let mut news = Vec::new();
    fixture.end().sweep(&mut news);
    assert_eq!(news, [slot]);
    let progress = fixture.end().progress(slot).unwrap();
    assert_eq!((progress.unsent, progress.statement, progress.end), (0, None, None));
    assert_eq!(claim.writer().wait_for_room(), RequestWake::Ready);
    assert_eq!(claim.writer().write(&body()), Ok(LARGE), "all of it at once");
    fixture.end_response(slot, claim);
}

#[test]
fn a_sleeping_writer_is_woken_by_the_answer() {
    let mut fixture = Fixture::new();
    let (slot, mut claim) = fixture.claim();
    let thread = std::thread::spawn(move || {
        while claim.writer().write(&body()).unwrap() == 0 {
            assert_eq!(claim.writer().wait_for_room(), RequestWake::Ready);
        }
        claim
    });
    let mut news = Vec::new();
    while !news.contains(&slot) {
        std::thread::yield_now();
        fixture.end().sweep(&mut news);
    }
    fixture.end().progress(slot).unwrap();
    let claim = thread.join().unwrap();
    fixture.end_response(slot, claim);
}

#[test]
fn when_all_rings_are_in_use_the_slots_own_serves() {
    let mut fixture = Fixture::new();
    let held: Vec<_> = (0..GEOMETRY.large_rings).map(|_| fixture.granted()).collect();
    let (slot, mut claim) = fixture.claim();
    assert_eq!(claim.writer().write(&body()), Ok(0));
    fixture.end().progress(slot).unwrap();
    let taken = claim.writer().write(&body()).unwrap();
    assert!((1..GEOMETRY.response_ring_bytes as usize).contains(&taken), "{taken}");
    fixture.end().progress(slot).unwrap();
    let mut wire = take_unsent(fixture.end(), slot);
    assert_eq!(claim.writer().write(&body()[taken..]), Ok(LARGE - taken));
    claim.finish(ResponseEnd::Complete);
    fixture.end().progress(slot).unwrap();
    wire.extend(take_unsent(fixture.end(), slot));
    assert!(wire.ends_with(&body()));
    assert_eq!(fixture.end().release(slot), Ok(true));
    for (slot, claim) in held {
        fixture.end_response(slot, claim);
    }
    let (slot, claim) = fixture.granted();
    fixture.end_response(slot, claim);
}

#[test]
fn an_application_may_think_better_of_its_large_piece() {
    let mut fixture = Fixture::new();
    for answers_first in [false, true] {
        let (slot, mut claim) = fixture.claim();
        assert_eq!(claim.writer().write(&body()), Ok(0));
        if answers_first {
            fixture.end().progress(slot).unwrap();
        }
        claim.writer().begin_head(b"500 Oops").unwrap();
        claim.writer().state_length(5);
        while claim.writer().write(b"sorry").unwrap() == 0 {
            fixture.end().progress(slot).unwrap();
        }
        claim.finish(ResponseEnd::Complete);
        let end = fixture.end();
        assert_eq!(end.progress(slot).unwrap().statement.unwrap().status, 500);
        assert!(take_unsent(end, slot).ends_with(b"sorry"));
        assert_eq!(end.release(slot), Ok(true));
    }
    // Ended without a piece: nothing is waited for, whatever was asked and granted.
    let (slot, mut claim) = fixture.claim();
    assert_eq!(claim.writer().write(&body()), Ok(0));
    fixture.end().progress(slot).unwrap();
    claim.writer().begin_head(b"204 No Content").unwrap();
    claim.finish(ResponseEnd::Complete);
    let end = fixture.end();
    assert_eq!(end.progress(slot).unwrap().end, Some(ResponseEnd::Complete));
    assert!(take_unsent(end, slot).starts_with(b"HTTP/1.1 204 No Content\r\n"));
    assert_eq!(end.release(slot), Ok(true));
}

#[test]
fn the_request_claimed_next_has_its_answer_already() {
    let mut fixture = Fixture::new();
    let (slot, mut claim) = fixture.claim();
    let next = request(fixture.end(), "/next");
    assert_eq!(claim.writer().write(&body()), Ok(0));
    fixture.end().progress(slot).unwrap();
    assert_eq!(claim.writer().write(&body()), Ok(LARGE));
    let mut second = begun(fixture.seat.try_claim().unwrap());
    assert_eq!(second.writer().write(&body()), Ok(LARGE), "without asking");
    fixture.end_response(slot, claim);
    fixture.end_response(next, second);
}

#[test]
fn rings_come_back_however_a_request_ends() {
    let mut fixture = Fixture::new();
    // More often than there are rings, each time for another reason.
    for way in 0..6 {
        let (slot, mut claim) = fixture.claim();
        let next = request(fixture.end(), "/next");
        assert_eq!(claim.writer().write(&body()), Ok(0), "{way}");
        fixture.end().progress(slot).unwrap();
        assert_eq!(claim.writer().write(&body()), Ok(LARGE), "{way}: granted");
        // The next one was granted the second ring, and its client leaves.
        assert_eq!(fixture.end().withdraw(next), Ok(Withdrawal::Withdrawn));
        match way % 3 {
            0 => fixture.end_response(slot, claim),
            1 => {
                drop(claim);
                fixture.end().progress(slot).unwrap();
                assert_eq!(fixture.end().release(slot), Ok(true));
            }
            _ => {
                assert_eq!(fixture.end().release(slot), Ok(false), "quarantined");
                claim.finish(ResponseEnd::Broken);
                fixture.end().sweep(&mut Vec::new());
            }
        }
    }
    // Death of the worker while it holds one.
    let (slot, claim) = fixture.granted();
    let mut owned = Vec::new();
    fixture.end().worker_died(1, &mut owned).unwrap();
    assert_eq!(owned, [slot]);
    assert_eq!(fixture.end().release(slot), Ok(true));
    std::mem::forget(claim);
    let second = 1_000_000_000;
    fixture.end().give_back_pages(second);
    let emptied = fixture.end().give_back_pages(12 * second);
    assert_eq!(emptied, GEOMETRY.large_rings, "both rings are free, and nothing else was touched");
}

#[test]
fn giving_up_reaches_a_writer_that_waits_for_the_answer() {
    let mut fixture = Fixture::new();
    let (slot, mut claim) = fixture.claim();
    let thread = std::thread::spawn(move || {
        assert_eq!(claim.writer().write(&body()), Ok(0));
        claim.writer().wait_for_room()
    });
    let mut news = Vec::new();
    while news.is_empty() {
        std::thread::yield_now();
        fixture.end().sweep(&mut news);
    }
    fixture.end().abandon(slot).unwrap();
    assert_eq!(thread.join().unwrap(), RequestWake::Cancelled);

    let (_, mut claim) = fixture.claim();
    assert_eq!(claim.writer().write(&body()), Ok(0));
    fixture.worker.stop_now();
    assert_eq!(claim.writer().wait_for_room(), RequestWake::Stop);
}
