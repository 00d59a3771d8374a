//! Deadlines, sends and receives that meet: each of these was a bug once.

use std::time::Duration;

use super::stage::{Stage, response, settings};
use crate::driver::Driver as _;
use crate::driver::sim::SimConfig;
use crate::event_loop::messages::Command;
use crate::sys::errno;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);
/// Beyond the spool bound of the plays: streamed.
const STREAMED: usize = 3_000_000;

fn streamed_head(path: &str, fields: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {STREAMED}\r\n{fields}\r\n")
        .into_bytes()
}

fn body_of(bytes: &[u8]) -> String {
    String::from_utf8(response(bytes).2).unwrap()
}

#[test]
fn a_slow_reader_of_a_closing_reply_gets_all_of_it() {
    let mut stage = Stage::calm();
    let slow = stage.http(b"GET /big/60000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    slow.set_window(1000);
    stage.settle();
    stage.pass(2 * SECOND);
    slow.set_window(usize::MAX);
    stage.settle();
    stage.pass(SECOND);
    let (status, _, body, _) = response(&slow.received());
    assert_eq!((status, body.len()), (200, 60_000));
    assert!(slow.sees_close());
    stage.finish();
}

#[test]
fn a_streamed_upload_that_pauses_is_not_cut() {
    for (path, fields) in [("/p", ""), ("/p", "Connection: close\r\n"), ("/early", "")] {
        let mut stage = Stage::calm();
        let client = stage.http(&streamed_head(path, fields));
        client.send(&[b'x'; 10_000]);
        stage.settle();
        stage.pass(2 * SECOND);
        client.send(&vec![b'x'; STREAMED - 10_000]);
        stage.settle();
        let body = body_of(&client.received());
        assert!(body.contains("body=3000000 broken=false"), "{path} {fields}: {body}");
        stage.finish();
    }
}

#[test]
fn a_streamed_upload_that_stops_is_broken_in_time() {
    for (path, fields) in [("/p", ""), ("/p", "Connection: close\r\n"), ("/early", "")] {
        let mut stage = Stage::calm();
        let client = stage.http(&streamed_head(path, fields));
        client.send(&[b'x'; 10_000]);
        stage.settle();
        stage.pass(65 * SECOND);
        let received = client.received();
        assert!(!received.is_empty(), "{path} {fields}: never broken");
        let body = body_of(&received);
        assert!(body.contains("broken=true"), "{path} {fields}: {body}");
        stage.finish();
    }
}

#[test]
fn a_slow_streamed_upload_is_not_cut() {
    let mut stage = Stage::calm();
    let client = stage.http(&streamed_head("/p", ""));
    stage.settle();
    for _ in 0..8 {
        client.send(&[b'x'; 1000]);
        stage.pass(10 * SECOND);
    }
    client.send(&vec![b'x'; STREAMED - 8000]);
    stage.settle();
    let body = body_of(&client.received());
    assert!(body.contains("broken=false"), "{body}");
    stage.finish();
}

#[test]
fn a_streamed_request_keeps_to_the_queue_timeout() {
    let mut tight = settings();
    tight.queue_timeout = Some(SECOND);
    let mut stage = Stage::new(tight, SimConfig::calm(64));
    stage.is_worker_asleep = true;
    let client = stage.http(&streamed_head("/p", ""));
    client.send(&[b'x'; 10_000]);
    stage.settle();
    stage.pass(3 * SECOND);
    assert_eq!(response(&client.received()).0, 503);
    stage.finish();
}

#[test]
fn bodies_that_all_wait_for_memory_time_out() {
    let mut tight = settings();
    tight.buffer_memory_bytes_max = 100_000;
    let mut stage = Stage::new(tight, SimConfig::calm(64));
    let mut request =
        b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nea60\r\n".to_vec();
    request.extend_from_slice(&[b'x'; 60_000]);
    let clients = [stage.http(&request), stage.http(&request)];
    stage.settle();
    assert!(clients.iter().all(|client| client.unread_bytes() > 0), "both are held back");
    stage.pass(100 * SECOND);
    assert!(clients.iter().all(|client| !client.received().is_empty()));
    stage.finish();
}

#[test]
fn a_slow_reader_goes_on_without_buffer_memory() {
    let mut tight = settings();
    tight.response_buffer_bytes = 0;
    let mut stage = Stage::new(tight, SimConfig::calm(64));
    let slow = stage.http(b"GET /big/300000 HTTP/1.1\r\nHost: h\r\n\r\n");
    slow.set_window(1000);
    stage.settle();
    stage.pass(2 * SECOND);
    slow.set_window(usize::MAX);
    stage.settle();
    stage.pass(SECOND);
    let (status, _, body, rest) = response(&slow.received());
    assert_eq!((status, body.len(), rest.len()), (200, 300_000, 0));
    stage.finish();
}

#[test]
fn news_heard_twice_is_sent_once() {
    let mut stage = Stage::calm();
    stage.is_worker_asleep = true;
    let client = stage.http(b"GET /big/30000 HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    stage.is_worker_asleep = false;
    while stage.work() {}
    stage.event_loop.state.on_news(0, 0);
    stage.event_loop.state.on_news(0, 0);
    stage.settle();
    let (status, _, body, rest) = response(&client.received());
    assert_eq!((status, body.len(), rest.len()), (200, 30_000, 0));
    stage.finish();
}

#[test]
fn a_reply_behind_a_slow_continue_is_sent() {
    let mut stage = Stage::calm();
    let client = stage.http(&streamed_head("/deaf", "Expect: 100-continue\r\n"));
    client.set_window(0);
    stage.settle();
    client.set_window(usize::MAX);
    stage.settle();
    let received = client.received();
    let reply = received.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    assert!(!reply.is_empty(), "the reply never came");
    assert_eq!(response(reply).0, 200);
    client.close();
    stage.finish();
}

#[test]
fn a_cancel_that_came_late_leaves_no_deaf_connection() {
    let mut stage = Stage::calm();
    let client = stage.http(GET);
    stage.settle();
    client.take_received();
    let index = stage.event_loop.state.table.in_use();
    let accepted = |i: &u32| stage.event_loop.state.table[*i].accepted_ns != 0;
    let index = index.into_iter().find(accepted).unwrap();
    let token = stage.event_loop.state.table.token(index);
    stage.event_loop.driver.cancel(token);
    stage.settle();
    client.send(GET);
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.finish();
}

/// The deadline of the first answer's send was taken for that of an idle connection.
#[test]
fn a_pipelined_request_outlives_the_deadline_of_the_send_before_it() {
    let mut stage = Stage::calm();
    let client = stage.http(&[GET, GET].concat());
    client.set_window(0);
    stage.settle();
    // The machine was busy elsewhere: the send's end and its deadline come in one turn.
    client.set_window(usize::MAX);
    stage.sim.advance(Duration::from_millis(500));
    stage.settle();
    let (status, _, _, rest) = response(&client.received());
    assert_eq!((status, response(&rest).0), (200, 200));
    stage.finish();
}

#[test]
fn a_body_that_nobody_read_is_drained() {
    let mut stage = Stage::calm();
    let client = stage.http(&streamed_head("/deaf", ""));
    client.send(&[b'x'; 10_000]);
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    client.send(&[b'x'; 500_000]);
    stage.settle();
    assert_eq!(client.unread_bytes(), 0);
    client.close();
    stage.finish();
}

#[test]
fn a_reply_to_a_malformed_streamed_body_is_heard() {
    let mut stage = Stage::calm();
    let mut request =
        b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n16e360\r\n".to_vec();
    request.extend_from_slice(&vec![b'x'; 1_500_000]);
    request.extend_from_slice(b"\r\nzz\r\n");
    request.extend_from_slice(&[b'x'; 200_000]);
    let client = stage.http(&request);
    stage.settle();
    stage.pass(3 * SECOND);
    assert!(body_of(&client.received()).contains("broken=true"));
    assert!(!client.was_reset());
    stage.finish();
}

#[test]
fn no_receive_is_armed_beside_a_last_send() {
    let mut stage = Stage::calm();
    stage.is_worker_asleep = true;
    let client = stage.http(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stage.settle();
    stage.pass(Duration::from_millis(500));
    stage.is_worker_asleep = false;
    while stage.work() {}
    stage.sim.fail_receives(errno::ENOBUFS, 1);
    client.send(b"x");
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.pass(3 * SECOND);
    assert!(client.sees_close());
    stage.finish();
}

#[test]
fn a_connection_that_falls_idle_does_not_hold_up_a_drain() {
    let mut stage = Stage::calm();
    let client = stage.http(&streamed_head("/early", ""));
    client.send(&[b'x'; 10_000]);
    stage.settle();
    stage.commands.send(Command::Drain { within: 30 * SECOND }).unwrap();
    stage.sim.ring_bell();
    stage.pass(2 * SECOND);
    client.send(&vec![b'x'; STREAMED - 10_000]);
    stage.pass(3 * SECOND);
    assert!(body_of(&client.received()).contains("broken=false"));
    stage.pass(SECOND);
    assert!(client.sees_close());
    stage.finish();
}

/// An upgrade's old server closed connections that it had accepted a moment before, and kept new
/// ones waiting for workers that were busy with their last requests.
#[test]
fn a_drain_that_leaves_the_backlog_serves_what_it_accepted_and_nothing_more() {
    let mut stage = Stage::calm();
    let silent = stage.http(b"");
    stage.settle();
    assert!(silent.is_served());
    stage.commands.send(Command::LeaveBacklog).unwrap();
    stage.commands.send(Command::Drain { within: 30 * SECOND }).unwrap();
    stage.sim.ring_bell();
    stage.settle();
    let late = stage.http(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    assert!(!late.is_served());
    silent.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.pass(SECOND);
    let (status, head, ..) = response(&silent.received());
    assert_eq!(status, 200);
    assert!(head.to_lowercase().contains("connection: close"), "{head}");
    assert!(!late.is_served());
    stage.finish();
}

/// Once every request of a burst woke a seat, also when the first one woken had served them all: on
/// a shared core that was a futile switch a request.
#[test]
fn a_burst_that_was_served_already_wakes_nobody() {
    let mut stage = Stage::calm();
    let sleeper = stage.sleeper();
    let clients: Vec<_> =
        (0..3).map(|_| stage.http(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    stage.settle();
    for client in &clients {
        assert_eq!(response(&client.received()).0, 200);
    }
    assert_eq!(stage.counters.seats_woken.read(), 0);

    stage.is_worker_asleep = true;
    let client = stage.http(b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    assert_eq!(sleeper.join().unwrap(), "/late");
    assert_eq!(stage.counters.seats_woken.read(), 1);
    stage.sim.ring_bell();
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.finish();
}

/// The kernel runs a shutdown on a thread of its own and looks the descriptor up there: behind a
/// close it hit the next connection with that number, whose client saw the end of everything.
#[test]
fn a_close_waits_for_the_shutdown_before_it() {
    let mut stage = Stage::calm();
    let client = stage.http(b"nonsense\r\n\r\n");
    for _ in 0..10 {
        stage.event_loop.turn().unwrap();
        if !client.received().is_empty() {
            break;
        }
    }
    client.close();
    stage.settle();
    let next = stage.http(GET);
    stage.settle();
    assert_eq!(response(&next.received()).0, 200);
    stage.finish();
}
