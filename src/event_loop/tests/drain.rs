//! Drains: what is served to the end, what is told why not, and when it is over.

use std::time::Duration;

use super::stage::{Stage, UWSGI, packet, response, settings};
use crate::driver::sim::SimConfig;
use crate::event_loop::messages::Command;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn drain(stage: &mut Stage, within: Duration) {
    stage.command(Command::Drain { within });
}

/// Once a drain's end cut a client whose body was still coming, without a word.
#[test]
fn a_body_still_gathered_at_the_drains_end_gets_503() {
    let mut stage = Stage::calm();
    let http = stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhel");
    let chunked =
        stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe");
    let large = stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
    large.send(&[b'x'; 100_000]);
    let gateway = stage.sim.connect(
        UWSGI,
        &packet(&[("REQUEST_METHOD", "POST"), ("PATH_INFO", "/"), ("CONTENT_LENGTH", "9")]),
    );
    let partial = stage.http(b"GET / HTTP/1.1\r\nHos");
    stage.settle();
    drain(&mut stage, 2 * SECOND);
    stage.pass(SECOND);
    let clients = [&http, &chunked, &large, &gateway, &partial];
    assert!(clients.iter().all(|client| client.received().is_empty() && !client.sees_end()));
    stage.pass(Duration::from_millis(1200));
    for client in clients {
        let (status, head, _, _) = response(&client.received());
        assert_eq!(status, 503);
        assert!(head.contains("Retry-After"), "{head}");
        assert!(client.sees_end());
    }
    stage.finish();
}

#[test]
fn a_body_that_comes_in_time_is_served() {
    let mut stage = Stage::calm();
    let client = stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhel");
    stage.settle();
    drain(&mut stage, 5 * SECOND);
    stage.pass(2 * SECOND);
    client.send(b"lo12345");
    stage.settle();
    let (status, head, _, _) = response(&client.received());
    assert_eq!(status, 200);
    assert!(head.contains("Connection: close"), "{head}");
    stage.finish();
}

#[test]
fn at_the_drains_end_the_queued_get_503_and_the_running_504() {
    let mut stage = Stage::calm();
    // Its body never ends, so the worker holds it.
    let running = stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\nx");
    running.send(&[b'x'; 10_000]);
    let begun = stage.http(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\nx");
    begun.send(&[b'x'; 10_000]);
    stage.settle();
    stage.is_worker_asleep = true;
    let queued = stage.http(GET);
    stage.settle();
    drain(&mut stage, SECOND);
    stage.pass(Duration::from_millis(1200));
    assert_eq!(response(&running.received()).0, 504);
    assert_eq!(response(&queued.received()).0, 503);
    // Its answer has begun: it is cut, and does not look whole.
    assert_eq!(response(&begun.received()).0, 200);
    assert!(begun.sees_end());
    stage.finish();
}

/// Once a client that was told to keep its connection, in an answer that ended after the drain had
/// begun, found it closed.
#[test]
fn who_was_told_to_stay_is_served_once_more() {
    let mut stage = Stage::calm();
    let client = stage.http(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    client.send(&[b'x'; 10_000]);
    stage.settle();
    drain(&mut stage, 30 * SECOND);
    stage.pass(2 * SECOND);
    client.send(&vec![b'x'; 2_990_000]);
    stage.settle();
    let text = String::from_utf8(client.take_received()).unwrap();
    assert!(text.contains("broken=false") && !text.contains("Connection: close"), "{text}");
    stage.pass(Duration::from_millis(100));
    client.send(GET);
    stage.settle();
    let (status, head, _, _) = response(&client.received());
    assert_eq!(status, 200);
    assert!(head.contains("Connection: close") && client.sees_close(), "{head}");
    stage.finish();
}

/// Once a request that came while its idle connection was being closed was dropped. What is left is
/// the turn between the look for it and the close, which the kernel does not join.
#[test]
fn a_request_that_meets_the_close_of_its_connection_is_served() {
    let (mut served, mut lost) = (0, 0);
    for turns in 0..12 {
        let mut stage = Stage::calm();
        let client = stage.http(GET);
        stage.settle();
        assert_eq!(response(&client.take_received()).0, 200);
        stage.command(Command::Drain { within: 30 * SECOND });
        // The backlog is dry 200 ms after the drain began; a turn is 1 µs here.
        stage.sim.advance(Duration::from_micros(199_900));
        for _ in 0..turns {
            stage.sim.advance(Duration::from_micros(1));
            stage.event_loop.turn().unwrap();
        }
        if client.sees_end() {
            stage.finish();
            continue;
        }
        client.send(GET);
        stage.settle();
        match &client.received()[..] {
            b"" => lost += 1,
            answer => {
                let (status, head, _, _) = response(answer);
                assert!(status == 200 && head.contains("Connection: close"), "{turns}: {head}");
                served += 1;
            }
        }
        stage.finish();
    }
    assert!(served > 1, "the close was met");
    assert!(lost <= 1, "requests were dropped in {lost} different turns");
}

#[test]
fn storms_end_every_drain() {
    for seed in 0..60 {
        let mut stage = Stage::new(settings(), SimConfig::stormy(64, seed));
        let clients: Vec<_> = (0..20)
            .map(|n| match n % 5 {
                0 => stage.http(GET),
                1 => stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\nx"),
                2 => stage
                    .http(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n"),
                3 => stage.http(b"GET / HTTP/1.1\r\nHo"),
                _ => stage.http(b"GET /big/100000 HTTP/1.1\r\nHost: h\r\n\r\n"),
            })
            .collect();
        stage.settle();
        stage.command(Command::Drain { within: SECOND });
        for (n, client) in clients.iter().enumerate() {
            match n % 7 {
                0 => client.reset(),
                1 => drop(client.send(&[b'x'; 5000])),
                2 => client.shut_down(),
                _ => {}
            }
            stage.sim.advance(Duration::from_millis(3));
        }
        stage.pass(3 * SECOND);
        for (n, client) in clients.iter().enumerate().filter(|(n, _)| n % 7 > 2) {
            let received = client.received();
            assert!(!received.is_empty(), "seed {seed}: client {n} got nothing");
            let expected = if n % 5 == 1 || n % 5 == 3 { 503 } else { 200 };
            assert_eq!(response(&received).0, expected, "seed {seed}, client {n}");
            assert!(client.sees_end(), "seed {seed}, client {n}");
        }
        stage.finish();
    }
}
