//! Both ends in one process: the bytes of a request's body on their way down, and of its response
//! on their way up.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::traffic::unchunk;
use common::{GET, pool, prepare, request, split, swept, take_unsent};
use ringhorn_exchange::{
    BodyEnd, BodyRead, HeadError, Protocol, RecordFlags, RecordStart, RequestWake, ResponseEnd,
    WriteError,
};

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
