//! A forked child of a worker: every entry refuses, nothing touches the segments, and the parent's
//! request is as it was.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{GEOMETRY, Pool, request, take_unsent};
use ringhorn_exchange::{
    BodyRead, HeadError, RequestWake, ResponseEnd, WorkWake, WriteError, is_forked,
};

/// What the child checks: the number of the first thing that is wrong, or 0.
fn wrong_in_child(
    worker: &ringhorn_exchange::WorkerEnd,
    seat: &mut ringhorn_exchange::Seat,
    mut claim: ringhorn_exchange::Claim,
) -> i32 {
    let mut into = [0; 8];
    let writer_refuses = {
        let writer = claim.writer();
        writer.begin_head(b"200 OK") == Err(HeadError::Forked)
            && writer.header(b"A", b"b") == Err(HeadError::Forked)
            && writer.write(b"x") == Err(WriteError::Forked)
            && writer.wait_for_room() == RequestWake::Cancelled
    };
    claim.writer().flush();
    claim.consume_body(1);
    let checks = [
        is_forked(),
        seat.try_claim().is_none(),
        !seat.peek_work(),
        seat.wait_for_work(None) == WorkWake::Stop,
        writer_refuses,
        claim.variables().next().is_none(),
        claim.body_piece().is_empty(),
        claim.read_body(&mut into) == BodyRead::Broken,
        claim.wait_for_body() == RequestWake::Cancelled,
        claim.is_abandoned(),
        claim.head().variables == 2,
    ];
    seat.ring_deferred();
    worker.stop();
    worker.interrupt(0);
    claim.finish(ResponseEnd::Complete);
    checks.iter().position(|&good| !good).map_or(0, |at| at as i32 + 1)
}

#[test]
fn a_forked_child_is_refused_and_harms_nothing() {
    let mut pool = Pool::new(1, GEOMETRY);
    let worker = pool.worker();
    let mut seat = worker.seat(0, None);
    let end = &mut pool.loops[0];
    let slot = request(end, "/");
    request(end, "/second");
    let mut claim = seat.try_claim().unwrap();
    // SAFETY: the child runs only code that allocates nothing and takes no lock another thread may
    // hold.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let wrong = wrong_in_child(&worker, &mut seat, claim);
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(wrong) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "the child died of signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0, "check {} failed in the child", status >> 8);

    assert!(!is_forked());
    claim.writer().begin_head(b"200 OK").unwrap();
    claim.writer().state_length(2);
    assert_eq!(claim.writer().write(b"ok"), Ok(2));
    claim.finish(ResponseEnd::Complete);
    assert_eq!(end.progress(slot).unwrap().end, Some(ResponseEnd::Complete));
    assert!(take_unsent(end, slot).ends_with(b"ok"));
    assert!(seat.try_claim().is_some());
}
