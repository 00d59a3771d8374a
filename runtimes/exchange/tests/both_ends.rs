//! Both ends in one process: every way a request can go, step by step.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{GEOMETRY, GET, Pool, path_of, prepare, request, take_unsent};
use ringhorn_exchange::{
    Abandonment, BodyEnd, BodyRead, Counts, Geometry, HeadError, Protocol, RecordFlags,
    RecordStart, RequestWake, ResponseEnd, Seat, StatedBody, Wake, Withdrawal, WorkWake,
    WriteError,
};

/// A pool of one loop with a seat.
fn pool() -> (Pool, Seat) {
    let mut pool = Pool::new(1, GEOMETRY);
    let seat = pool.worker().seat(0, Some(0));
    (pool, seat)
}

fn swept(end: &mut ringhorn_exchange::LoopEnd) -> Vec<u32> {
    let mut news = Vec::new();
    end.sweep(&mut news);
    news
}

/// The head and the rest of response bytes.
fn split(bytes: &[u8]) -> (String, Vec<u8>) {
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    (String::from_utf8(bytes[..at].to_vec()).unwrap(), bytes[at..].to_vec())
}

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
fn a_gathered_body_and_its_end_are_there_at_once() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = prepare(end, RecordStart { content_length: Some(3000), ..GET }, "/upload");
    let body: Vec<u8> = (0..3000).map(|at| at as u8).collect();
    assert_eq!(end.write_body(slot, &body), Ok(3000));
    end.finish_body(slot, BodyEnd::Complete);
    end.enqueue(slot, 1).unwrap();
    let mut claim = seat.try_claim().unwrap();
    assert_eq!(claim.head().content_length, Some(3000));
    assert_eq!(claim.body_piece(), body);
    claim.consume_body(1000);
    let mut rest = [0; 4000];
    assert_eq!(claim.read_body(&mut rest), BodyRead::Bytes(2000));
    assert_eq!(rest[..2000], body[1000..]);
    assert_eq!(claim.read_body(&mut rest), BodyRead::End);
    assert_eq!(claim.body_piece(), b"");
}

#[test]
fn a_streamed_body_goes_around_its_ring_many_times() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = prepare(end, GET, "/upload");
    let body: Vec<u8> = (0..100_000u32).map(|at| ((at * 7) >> 3) as u8).collect();
    let mut written = end.write_body(slot, &body).unwrap();
    assert!(written < 16 * 1024 && written > 12 * 1024, "the ring is full");
    assert_eq!(end.write_body(slot, &body[written..]), Ok(0));
    end.enqueue(slot, 1).unwrap();
    let mut claim = seat.try_claim().unwrap();
    let mut seen = Vec::new();
    let mut into = [0; 1700];
    while seen.len() < body.len() {
        match claim.read_body(&mut into) {
            BodyRead::Bytes(bytes) => seen.extend_from_slice(&into[..bytes]),
            BodyRead::Pending => {
                // The worker asked for nothing: the loop's wish for room made the news.
                assert_eq!(swept(end), [slot]);
                assert!(end.progress(slot).unwrap().body_room > 4096);
                written += end.write_body(slot, &body[written..]).unwrap();
                if written == body.len() {
                    end.finish_body(slot, BodyEnd::Complete);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(claim.read_body(&mut into), BodyRead::End);
    assert!(seen == body);
}

#[test]
fn a_broken_body_is_told_after_its_bytes() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = prepare(end, GET, "/upload");
    end.write_body(slot, b"abc").unwrap();
    end.enqueue(slot, 1).unwrap();
    let mut claim = seat.try_claim().unwrap();
    end.finish_body(slot, BodyEnd::Broken);
    let mut into = [0; 8];
    assert_eq!(claim.read_body(&mut into), BodyRead::Bytes(3));
    assert_eq!(claim.read_body(&mut into), BodyRead::Broken);
    assert_eq!(claim.wait_for_body(), RequestWake::Ready);
}

#[test]
fn a_large_response_goes_around_its_ring() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let body: Vec<u8> = (0..50_000u32).map(|at| ((at * 13) >> 2) as u8).collect();
    for (chunked, protocol) in
        [(false, Protocol::Http11), (true, Protocol::Http11), (false, Protocol::Uwsgi)]
    {
        let slot = prepare(end, RecordStart { protocol, ..GET }, "/");
        end.finish_body(slot, BodyEnd::Complete);
        end.enqueue(slot, 1).unwrap();
        let mut claim = seat.try_claim().unwrap();
        let writer = claim.writer();
        writer.begin_head(b"200 OK").unwrap();
        if !chunked && protocol == Protocol::Http11 {
            writer.header(b"Content-Length", b"50000").unwrap();
        }
        let (mut at, mut wire) = (0, Vec::new());
        while at < body.len() {
            let taken = writer.write(&body[at..]).unwrap();
            at += taken;
            if taken == 0 {
                end.progress(slot).unwrap();
                wire.extend(take_unsent(end, slot));
                assert_eq!(writer.wait_for_room(), RequestWake::Ready);
            }
        }
        claim.finish(ResponseEnd::Complete);
        let progress = end.progress(slot).unwrap();
        assert_eq!(progress.end, Some(ResponseEnd::Complete));
        wire.extend(take_unsent(end, slot));
        let (head, rest) = split(&wire);
        assert_eq!(head.contains("chunked"), chunked);
        let seen = if chunked { unchunk(&rest) } else { rest };
        assert!(seen == body, "{chunked} {protocol:?}");
        assert_eq!(end.release(slot), Ok(true));
    }
}

/// Decodes a whole chunked body.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        bytes = &bytes[line + 2..];
        body.extend_from_slice(&bytes[..size]);
        assert_eq!(&bytes[size..size + 2], b"\r\n");
        bytes = &bytes[size + 2..];
        if size == 0 {
            assert!(bytes.is_empty());
            return body;
        }
    }
}

#[test]
fn content_length_is_kept_to_the_byte() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let mut run = |pieces: &[&[u8]]| {
        let slot = request(end, "/");
        let mut claim = seat.try_claim().unwrap();
        let writer = claim.writer();
        writer.begin_head(b"200 OK").unwrap();
        writer.header(b"Content-Length", b"5").unwrap();
        assert_eq!(writer.remaining(), Some(5));
        let results: Vec<_> = pieces.iter().map(|piece| writer.write(piece)).collect();
        claim.finish(ResponseEnd::Complete);
        let progress = end.progress(slot).unwrap();
        let wire = take_unsent(end, slot);
        end.release(slot).unwrap();
        (results, progress.end.unwrap(), if wire.is_empty() { Vec::new() } else { split(&wire).1 })
    };
    let past = Err(WriteError::PastLength);
    assert_eq!(run(&[b"12345"]), (vec![Ok(5)], ResponseEnd::Complete, b"12345".to_vec()));
    assert_eq!(
        run(&[b"123", b"45"]),
        (vec![Ok(3), Ok(2)], ResponseEnd::Complete, b"12345".to_vec())
    );
    assert_eq!(
        run(&[b"123", b"456"]),
        (vec![Ok(3), past], ResponseEnd::Complete, b"12345".to_vec())
    );
    assert_eq!(
        run(&[b"12345", b"6"]),
        (vec![Ok(5), past], ResponseEnd::Complete, b"12345".to_vec())
    );
    assert_eq!(run(&[b"1234"]), (vec![Ok(4)], ResponseEnd::Broken, b"1234".to_vec()));
    assert_eq!(run(&[b""]), (vec![Ok(0)], ResponseEnd::Broken, b"".to_vec()));
}

#[test]
fn heads_without_a_body_are_committed_by_the_end() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let head_flags = RecordFlags { head_method: true, ..GET.flags };
    type Case = (&'static [u8], bool, Option<&'static [u8]>, Option<&'static str>);
    let cases: [Case; 5] = [
        (b"200 OK", false, None, Some("Content-Length: 0\r\n")),
        (b"200 OK", true, Some(b"10"), Some("Content-Length: 10\r\n")),
        (b"200 OK", true, None, None),
        (b"204 No Content", false, Some(b"10"), None),
        (b"304 Not Modified", false, Some(b"10"), Some("Content-Length: 10\r\n")),
    ];
    for (status, is_head, length, expected) in cases {
        for piece in [&b""[..], b"swallowed"] {
            if !piece.is_empty() && status == b"200 OK" && !is_head {
                continue;
            }
            let flags = if is_head { head_flags } else { GET.flags };
            let slot = prepare(end, RecordStart { flags, ..GET }, "/");
            end.enqueue(slot, 1).unwrap();
            let mut claim = seat.try_claim().unwrap();
            claim.writer().begin_head(status).unwrap();
            if let Some(length) = length {
                claim.writer().header(b"Content-Length", length).unwrap();
            }
            assert_eq!(claim.writer().write(piece), Ok(piece.len()));
            assert_eq!(claim.writer().is_committed(), !piece.is_empty());
            claim.finish(ResponseEnd::Complete);
            let progress = end.progress(slot).unwrap();
            assert_eq!(progress.end, Some(ResponseEnd::Complete));
            let (head, body) = split(&take_unsent(end, slot));
            assert_eq!(body, b"");
            match expected {
                Some(expected) => assert!(head.contains(expected), "{head}"),
                None => assert!(!head.contains("Content-Length"), "{head}"),
            }
            end.release(slot).unwrap();
        }
    }
}

#[test]
fn a_head_may_be_replaced_until_it_is_committed() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = request(end, "/");
    let mut claim = seat.try_claim().unwrap();
    let writer = claim.writer();
    assert_eq!(writer.write(b"x"), Err(WriteError::NoHead));
    assert_eq!(writer.header(b"A", b"b"), Err(HeadError::NoHead));
    writer.begin_head(b"200 OK").unwrap();
    writer.header(b"X-First", b"1").unwrap();
    writer.header(b"Content-Length", b"100").unwrap();
    writer.begin_head(b"500 Oops").unwrap();
    assert_eq!(writer.write(b"sorry"), Ok(5));
    assert_eq!(writer.begin_head(b"200 OK"), Err(HeadError::Committed));
    assert_eq!(writer.header(b"A", b"b"), Err(HeadError::Committed));
    claim.finish(ResponseEnd::Complete);
    assert_eq!(end.progress(slot).unwrap().statement.unwrap().status, 500);
    let (head, body) = split(&take_unsent(end, slot));
    assert!(!head.contains("X-First"));
    assert_eq!(unchunk(&body), b"sorry");
}

#[test]
fn a_broken_chunked_response_has_no_last_chunk() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    let slot = request(end, "/");
    let mut claim = seat.try_claim().unwrap();
    claim.writer().begin_head(b"200 OK").unwrap();
    claim.writer().write(b"half").unwrap();
    claim.finish(ResponseEnd::Broken);
    assert_eq!(end.progress(slot).unwrap().end, Some(ResponseEnd::Broken));
    let (_, body) = split(&take_unsent(end, slot));
    assert_eq!(body, b"4\r\nhalf\r\n");
}

#[test]
fn closing_is_read_before_the_head() {
    let (mut pool, mut seat) = pool();
    let end = &mut pool.loops[0];
    for (pool_closes, slot_closes) in [(true, false), (false, true), (false, false)] {
        end.set_closing(pool_closes);
        let slot = request(end, "/");
        if slot_closes {
            end.set_close_after(slot);
        }
        let mut claim = seat.try_claim().unwrap();
        claim.writer().begin_head(b"200 OK").unwrap();
        claim.finish(ResponseEnd::Complete);
        let keep_alive = end.progress(slot).unwrap().statement.unwrap().keep_alive;
        assert_eq!(keep_alive, !pool_closes && !slot_closes);
        end.release(slot).unwrap();
    }
}

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
