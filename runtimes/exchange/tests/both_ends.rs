//! Both ends in one process: a slot on every way a request can go, to its death or its next use.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{GEOMETRY, GET, Pool, path_of, pool, prepare, request, split, swept, take_unsent};
use ringhorn_exchange::{
    Abandonment, BodyRead, Counts, Key, KeyId, Protocol, RequestWake, ResponseEnd, Runner,
    StatedBody, Withdrawal, WriteError,
};

#[test]
fn a_request_goes_there_and_back() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    assert!(seat.try_claim().is_none());
    let slot = request(end, "/hello");
    assert_eq!(end.queue_is_empty(), Ok(false));
    assert_eq!(end.oldest_queued_ns(), Some(1));
    let mut claim = seat.try_claim().expect("work");
    assert_eq!(end.queue_is_empty(), Ok(true));
    assert_eq!(path_of(&claim), "/hello");
    assert_eq!(claim.head().protocol, Protocol::Http11);
    assert_eq!(claim.read_body(&mut [0; 8]), BodyRead::End);
    let writer = claim.writer();
    writer.begin_head(b"200 OK").unwrap();
    writer.header(b"Content-Type", b"text/plain").unwrap();
    writer.state_length(5);
    assert_eq!(writer.write(b"hello"), Ok(5));
    claim.finish(ResponseEnd::Complete);

    assert_eq!(swept(end), [slot]);
    let progress = end.progress(slot).unwrap();
    assert_eq!(progress.end, Some(ResponseEnd::Complete));
    assert_eq!(progress.claimed_by, Some(0));
    assert!(progress.claimed_at_ns.unwrap() <= progress.first_byte_at_ns.unwrap());
    let statement = progress.statement.unwrap();
    assert_eq!((statement.status, statement.body), (200, StatedBody::Length(5)));
    assert!(statement.keep_alive);
    assert_eq!(progress.unsent, statement.head_bytes as usize + 5);
    let (head, body) = split(&take_unsent(end, slot));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"), "{head}");
    assert_eq!(body, b"hello");
    assert_eq!(end.progress(slot).unwrap().unsent, 0);
    assert_eq!(end.release(slot), Ok(true));
    assert_eq!(end.counts(), Counts { free: 16, ..Counts::default() });
}

#[test]
fn who_runs_a_request_can_be_told_until_it_is_done() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = request(end, "/slow");
    assert!(end.is_in_flight(slot));
    assert_eq!(end.runner(slot), None, "nobody yet");
    let claim = seat.try_claim().unwrap();
    assert_eq!(end.runner(slot), None, "nobody looked");
    let claimed_at_ns = end.progress(slot).unwrap().claimed_at_ns;
    let tenure = claim.tenure();
    assert_eq!((tenure.event_loop, tenure.slot), (0, slot));
    let runner = Runner { seat: 0, epoch: tenure.epoch, is_abandoned: false, claimed_at_ns };
    assert_eq!(end.runner(slot), Some(runner));
    end.abandon(slot).unwrap();
    assert_eq!(end.release(slot), Ok(false));
    assert!(!end.is_in_flight(slot));
    // Also now, and the record can be read again.
    assert_eq!(end.runner(slot), Some(Runner { is_abandoned: true, ..runner }));
    let path = end.variables(slot).find(|it| it.key == Key::Known(KeyId::PATH_INFO)).unwrap();
    assert_eq!(path.value, b"/slow");
    drop(claim);
    assert_eq!(swept(end), []);
    assert_eq!((end.runner(slot), end.variables(slot).count()), (None, 0));
}

#[test]
fn a_client_that_left_is_told_to_its_request_only() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    for leaves in [true, false] {
        let slot = request(end, "/");
        let claim = seat.try_claim().unwrap();
        assert!(!claim.has_client_left());
        if leaves {
            end.set_client_left(slot);
        }
        assert_eq!((claim.has_client_left(), claim.is_abandoned()), (leaves, false));
        drop(claim);
        end.release(slot).unwrap();
    }
}

#[test]
fn slots_are_reused_last_in_first_out_and_come_back_clean() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    for round in 0..200 {
        let path = format!("/{round}");
        let slot = request(end, &path);
        assert_eq!(slot, 0);
        let mut claim = seat.try_claim().unwrap();
        assert_eq!(path_of(&claim), path);
        assert!(!claim.writer().has_head() && claim.writer().remaining().is_none());
        assert_eq!(end.progress(slot).unwrap().statement, None);
        claim.writer().begin_head(b"200 OK").unwrap();
        claim.writer().write(path.as_bytes()).unwrap();
        claim.finish(ResponseEnd::Complete);
        assert!(end.progress(slot).unwrap().end.is_some());
        let bytes = take_unsent(end, slot);
        assert!(bytes.windows(path.len()).any(|window| window == path.as_bytes()));
        assert_eq!(end.release(slot), Ok(true));
    }
}

#[test]
fn requests_are_served_in_order_and_slots_run_out() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slots: Vec<_> = (0..GEOMETRY.slots).map(|n| request(end, &format!("/{n}"))).collect();
    assert_eq!(end.reserve(), None);
    assert_eq!(end.counts(), Counts { queued: 16, ..Counts::default() });
    assert_eq!(end.in_flight(), 16);
    for n in 0..GEOMETRY.slots {
        let claim = seat.try_claim().unwrap();
        assert_eq!(path_of(&claim), format!("/{n}"));
        drop(claim);
    }
    let mut news = swept(end);
    news.sort_unstable();
    let mut expected = slots.clone();
    expected.sort_unstable();
    assert_eq!(news, expected);
    for slot in slots {
        // A dropped claim is a broken response with nothing said.
        let progress = end.progress(slot).unwrap();
        assert_eq!((progress.end, progress.unsent), (Some(ResponseEnd::Broken), 0));
        assert_eq!(end.release(slot), Ok(true));
    }
}

#[test]
fn a_withdrawn_request_is_never_claimed() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let first = request(end, "/first");
    let second = request(end, "/second");
    assert_eq!(end.withdraw(first), Ok(Withdrawal::Withdrawn));
    assert_eq!(end.queue_is_empty(), Ok(false));
    let claim = seat.try_claim().unwrap();
    assert_eq!(path_of(&claim), "/second");
    assert_eq!(end.withdraw(second), Ok(Withdrawal::Running));
    drop(claim);
    assert_eq!(end.withdraw(second), Ok(Withdrawal::Running));
    end.release(second).unwrap();
    assert_eq!(end.counts().free, 16);
}

#[test]
fn dead_entries_do_not_fill_the_queue() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    for _ in 0..1000 {
        let slot = request(end, "/gone");
        assert_eq!(end.withdraw(slot), Ok(Withdrawal::Withdrawn));
    }
    assert_eq!(end.queue_is_empty(), Ok(true));
    assert!(seat.try_claim().is_none());
}

#[test]
fn an_abandoned_slot_is_quarantined_until_its_seat_is_done() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = request(end, "/slow");
    let mut claim = seat.try_claim().unwrap();
    assert!(!claim.is_abandoned());
    assert_eq!(end.abandon(slot), Ok(Abandonment::Abandoned));
    assert!(claim.is_abandoned());
    claim.writer().begin_head(b"200 OK").unwrap();
    assert_eq!(claim.writer().write(b"late"), Err(WriteError::Abandoned));
    assert_eq!(claim.wait_for_body(), RequestWake::Cancelled);
    assert_eq!(claim.writer().wait_for_room(), RequestWake::Cancelled);
    assert_eq!(end.release(slot), Ok(false));
    assert_eq!(end.counts(), Counts { free: 15, quarantined: 1, ..Counts::default() });
    assert_eq!(end.in_flight(), 0);
    claim.finish(ResponseEnd::Complete);
    assert_eq!(swept(end), [], "a quarantined slot is nobody's news");
    assert_eq!(end.counts().free, 16);
}

#[test]
fn a_seat_that_finished_first_is_told_so() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = request(end, "/");
    seat.try_claim().unwrap().finish(ResponseEnd::Broken);
    assert_eq!(end.abandon(slot), Ok(Abandonment::Finished));
    assert_eq!(end.release(slot), Ok(true));
}

#[test]
fn releasing_gives_up_what_still_waits_or_runs() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let queued = request(end, "/");
    assert_eq!(end.release(queued), Ok(true));
    assert!(seat.try_claim().is_none());
    let running = request(end, "/");
    let claim = seat.try_claim().unwrap();
    assert_eq!(end.release(running), Ok(false));
    assert!(claim.is_abandoned());
    drop(claim);
    swept(end);
    assert_eq!(end.counts().free, 16);
}

#[test]
fn the_kernel_keeps_a_slot_out_of_use() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = request(end, "/");
    seat.try_claim().unwrap().finish(ResponseEnd::Broken);
    end.kernel_holds(slot);
    end.kernel_holds(slot);
    assert_eq!(end.release(slot), Ok(false));
    end.kernel_released(slot);
    assert_eq!(end.counts().quarantined, 1);
    end.kernel_released(slot);
    assert_eq!(end.counts().free, 16);
}

#[test]
fn what_a_dead_worker_held_is_told_apart() {
    let mut pool = Pool::new(1, GEOMETRY);
    let worker = pool.worker();
    let mut seats: Vec<_> = (0..4).map(|number| worker.seat(number, None)).collect();
    let end = &mut pool.loops[0];
    let [running, done, given_up, queued] = ["/r", "/d", "/g", "/q"].map(|path| request(end, path));
    let held = seats[0].try_claim().unwrap();
    let mut finished = seats[1].try_claim().unwrap();
    finished.writer().begin_head(b"200 OK").unwrap();
    finished.finish(ResponseEnd::Complete);
    let also_held = seats[2].try_claim().unwrap();
    assert_eq!(end.abandon(given_up), Ok(Abandonment::Abandoned));
    assert_eq!(end.release(given_up), Ok(false));
    // The process dies here: nothing of it runs any more.
    std::mem::forget((held, also_held));

    let mut news = swept(end);
    assert_eq!(news, [done]);
    let mut owned = Vec::new();
    end.worker_died(1, &mut owned).unwrap();
    assert_eq!(owned, [running]);
    // The news of `done` was taken but not looked at yet: it is told again, no harm.
    news = swept(end);
    assert_eq!(news, [done]);
    assert_eq!(end.progress(done).unwrap().end, Some(ResponseEnd::Complete));
    assert_eq!(end.release(done), Ok(true));
    assert_eq!(end.progress(running).unwrap().end, None);
    assert_eq!(end.release(running), Ok(true));
    assert_eq!(end.counts(), Counts { free: 15, queued: 1, ..Counts::default() });
    // A second death of the same worker means nothing.
    end.worker_died(1, &mut owned).unwrap();
    assert_eq!(owned.len(), 1);
    assert_eq!(end.release(queued), Ok(true));
}

#[test]
fn pages_are_given_back_after_ten_seconds() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = prepare(end, GET, "/");
    end.write_body(slot, &[1; 9000]).unwrap();
    end.enqueue(slot, 1).unwrap();
    let mut claim = seat.try_claim().unwrap();
    claim.writer().begin_head(b"200 OK").unwrap();
    claim.writer().write(&[2; 6000]).unwrap();
    drop(claim);
    end.progress(slot).unwrap();
    assert_eq!(end.give_back_pages(0), 0);
    end.release(slot).unwrap();
    let second = 1_000_000_000;
    assert_eq!(end.give_back_pages(second), 0);
    assert_eq!(end.give_back_pages(10 * second), 0);
    assert_eq!(end.give_back_pages(11 * second), 2);
    assert_eq!(end.give_back_pages(30 * second), 0, "there is nothing left to give");
    let slot = request(end, "/still works");
    assert_eq!(path_of(&seat.try_claim().unwrap()), "/still works");
    end.release(slot).unwrap();
}
