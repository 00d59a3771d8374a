//! Clients that are slow, leave, or never come to the point.

use std::time::Duration;

use super::stage::{Stage, UWSGI, response, settings};
use crate::driver::sim::SimConfig;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_slow_head_is_answered_408() {
    let mut stage = Stage::calm();
    let client = stage.http(b"GET / HTTP/1.1\r\nX-Slow: ");
    stage.settle();
    for _ in 0..20 {
        stage.pass(Duration::from_secs(1));
        client.send(b"x");
    }
    assert!(client.received().is_empty());
    stage.pass(Duration::from_secs(15));
    assert_eq!(response(&client.received()).0, 408);
    stage.finish();
}

#[test]
fn idle_connections_are_closed_in_time() {
    let mut stage = Stage::calm();
    let silent = stage.http(b"");
    let kept = stage.http(GET);
    stage.settle();
    stage.pass(Duration::from_secs(32));
    assert!(silent.sees_close() && !kept.sees_close());
    stage.pass(Duration::from_secs(45));
    assert!(kept.sees_close());
    stage.finish();
}

#[test]
fn a_client_that_leaves_while_queued_costs_nothing() {
    for is_reset in [false, true] {
        let mut stage = Stage::calm();
        stage.is_worker_asleep = true;
        let client = stage.http(GET);
        let uwsgi = stage.sim.connect(UWSGI, b"\0\x17\0\0\x0e\0REQUEST_METHOD\x05\0HELLO");
        stage.settle();
        stage.pass(Duration::from_millis(300));
        if is_reset {
            client.reset();
            uwsgi.reset();
        } else {
            client.close();
            uwsgi.close();
        }
        stage.settle();
        stage.pass(Duration::from_millis(300));
        assert_eq!(stage.counters.left_while_queued.read(), 2, "reset: {is_reset}");
        stage.finish();
    }
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let mut stage = Stage::calm();
    let client = stage.http(GET);
    client.shut_down();
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.finish();
}

#[test]
fn a_slow_reader_does_not_hold_the_worker() {
    let mut stage = Stage::calm();
    let slow = stage.http(b"GET /big/900000 HTTP/1.1\r\nHost: h\r\n\r\n");
    slow.set_window(1000);
    stage.settle();
    stage.pass(Duration::from_secs(2));
    let counts = stage.event_loop.state.pools[0].end.counts();
    assert_eq!(counts.running, 0, "the slot is free while the reader still reads");
    slow.set_window(usize::MAX);
    stage.settle();
    stage.pass(Duration::from_secs(1));
    let (status, _, body, rest) = response(&slow.take_received());
    assert_eq!((status, body.len(), rest.len()), (200, 900_000, 0));
    slow.send(GET);
    stage.settle();
    assert_eq!(response(&slow.received()).0, 200, "the connection is kept");
    stage.finish();
}

#[test]
fn a_reader_that_takes_nothing_is_cut() {
    let mut stage = Stage::calm();
    let dead = stage.http(b"GET /big/3000000 HTTP/1.1\r\nHost: h\r\n\r\n");
    dead.set_window(1000);
    stage.settle();
    stage.pass(Duration::from_secs(40));
    assert!(dead.sees_close());
    assert_eq!(stage.counters.replies_cut.read(), 1);
    stage.finish();
}

#[test]
fn requests_beyond_the_bound_are_answered_503() {
    let mut tight = settings();
    tight.inflight_max = 2;
    let mut stage = Stage::new(tight, SimConfig::calm(64));
    stage.is_worker_asleep = true;
    let clients: Vec<_> = (0..4).map(|_| stage.http(GET)).collect();
    stage.settle();
    stage.is_worker_asleep = false;
    stage.settle();
    let mut statuses: Vec<_> = clients.iter().map(|c| response(&c.received()).0).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    let refused = clients.iter().map(|c| response(&c.received()).1);
    assert!(refused.filter(|head| head.contains("Retry-After: 1")).count() == 2);
    stage.finish();
}

#[test]
fn a_request_that_waits_too_long_is_answered_503() {
    let mut tight = settings();
    tight.queue_timeout = Some(Duration::from_secs(1));
    let mut stage = Stage::new(tight, SimConfig::calm(64));
    stage.is_worker_asleep = true;
    let client = stage.http(GET);
    stage.settle();
    stage.pass(Duration::from_millis(800));
    assert!(client.received().is_empty());
    stage.pass(Duration::from_millis(600));
    assert_eq!(response(&client.received()).0, 503);
    stage.finish();
}

#[test]
fn bytes_beyond_one_pipelined_buffer_wait_in_the_socket() {
    let mut stage = Stage::calm();
    stage.is_worker_asleep = true;
    let client = stage.http(GET);
    stage.settle();
    client.send(&GET.repeat(2_000));
    stage.settle();
    assert!(client.unread_bytes() > 30_000, "{}", client.unread_bytes());
    client.reset();
    stage.finish();
}
