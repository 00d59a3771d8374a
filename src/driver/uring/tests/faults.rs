//! What goes wrong: peers that vanish, buffers that run out, queues that overflow, cancelled
//! operations.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::{Host, Loop, piece, token};
use crate::driver::uring::UringConfig;
use crate::driver::{After, BufferId, Driver, Kind};

#[test]
fn a_last_send_to_a_vanished_peer_is_one_closed_with_its_error() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    for pieces in [[&b"one"[..], &b""[..]], [&b"one"[..], &b"two"[..]]] {
        let client = this.connect(&host, listener, token(4));
        drop(client);
        assert_eq!(this.wait(Kind::Received, token(4)).result, 0);
        // SAFETY: static memory.
        unsafe { this.driver.send(token(4), pieces.map(piece), After::Close) };
        assert_eq!(this.wait(Kind::Closed, token(4)).result, -libc::EPIPE);
        this.poll();
        assert_eq!(this.seen, []);
        assert_eq!(this.driver.books.headers.in_use(), 0);
    }
    assert_eq!(this.driver.counters().send_errors, 2);
    assert_eq!(this.driver.counters().close_errors, 0);
}

#[test]
fn a_cut_last_send_reports_what_went_out() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    client.write_all(b"x").unwrap();
    let received = this.wait(Kind::Received, token(0));
    this.bytes(received);
    let bytes = vec![1u8; 8 << 20];
    // SAFETY: `bytes` lives, unchanged, until the completion below.
    unsafe { this.driver.send(token(0), [piece(&bytes), super::EMPTY], After::Close) };
    this.poll();
    let mut some = vec![0; 4096];
    client.read_exact(&mut some).unwrap();
    this.poll();
    drop(client);
    let closed = this.wait(Kind::Closed, token(0));
    assert!(closed.result > 0 && closed.result < 8 << 20, "{closed:?}");
}

#[test]
fn a_reset_peer_ends_the_receive() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(server.as_fd()).unwrap();
    this.driver.accept(listener, token(0));
    this.poll();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    assert_eq!(this.wait(Kind::Accepted, token(0)).result, 0);
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(this.wait(Kind::Received, token(0)).result, -libc::ECONNRESET);
    this.driver.close(token(0));
    assert_eq!(this.wait(Kind::Closed, token(0)).result, 0);
}

#[test]
fn receives_wait_for_the_loop_when_it_holds_all_buffers() {
    let host = Host::new();
    let mut this = Loop::new(&UringConfig { buffers: 2, ..UringConfig::for_connections(8) });
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut clients = Vec::new();
    for connection in 0..3 {
        let mut client = this.connect(&host, listener, token(connection));
        client.write_all(&[b'0' + connection as u8]).unwrap();
        clients.push(client);
    }
    let first = this.wait(Kind::Received, token(0));
    let second = this.wait(Kind::Received, token(1));
    assert_eq!(this.driver.buffers_free(), 0);
    let starved = this.wait(Kind::Received, token(2));
    assert_eq!((starved.result, starved.buffer), (-libc::ENOBUFS, None));
    assert_eq!(this.bytes(first), b"0");
    assert_eq!(this.driver.buffers_free(), 1);
    this.driver.recv(token(2), false);
    let third = this.wait(Kind::Received, token(2));
    assert_eq!(this.bytes(third), b"2");
    assert_eq!(this.bytes(second), b"1");
    assert_eq!(this.driver.buffers_free(), 2);
    assert!(this.driver.counters().buffers_exhausted >= 1);
}

#[test]
fn a_burst_above_the_hot_set_costs_the_loop_nothing() {
    let host = Host::new();
    let mut this = Loop::new(&UringConfig { buffers: 64, ..UringConfig::for_connections(64) });
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut clients: Vec<_> =
        (0..40).map(|connection| this.connect(&host, listener, token(connection))).collect();
    for client in &mut clients {
        client.write_all(b"burst").unwrap();
    }
    let mut held: Vec<BufferId> = Vec::new();
    for connection in 0..40 {
        let received = this.wait(Kind::Received, token(connection));
        assert_eq!(received.result, 5, "connection {connection}");
        held.push(received.buffer.unwrap());
    }
    assert_eq!(this.driver.buffers_free(), 24);
    assert!(this.driver.counters().buffers_grown > 0);
    held.into_iter().for_each(|buffer| this.driver.recycle(buffer));
    assert_eq!(this.driver.buffers_free(), 64);
}

#[test]
fn a_cancelled_receive_completes_by_itself() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let _client = this.connect(&host, listener, token(6));
    this.driver.cancel(token(6));
    assert_eq!(this.wait(Kind::Received, token(6)).result, -libc::ECANCELED);
    assert_eq!(this.wait(Kind::Cancelled, token(6)).result, 1, "one operation was cancelled");
    this.driver.cancel(token(6));
    assert_eq!(this.wait(Kind::Cancelled, token(6)).result, 0, "nothing was armed");
    this.driver.close(token(6));
    assert_eq!(this.wait(Kind::Closed, token(6)).result, 0);
}

/// The receive behind an accept that was just returned is not begun yet: the cancel must not miss
/// it.
#[test]
fn a_cancel_right_behind_the_accept_still_ends_the_receive() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    for round in 0..200 {
        let _client = this.connect(&host, listener, token(round % 16));
        this.driver.cancel(token(round % 16));
        assert_eq!(this.wait(Kind::Received, token(round % 16)).result, -libc::ECANCELED);
        this.wait(Kind::Cancelled, token(round % 16));
        this.driver.close(token(round % 16));
        assert_eq!(this.wait(Kind::Closed, token(round % 16)).result, 0);
    }
}

#[test]
fn a_cancelled_slow_send_reports_what_went_out() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let _client = this.connect(&host, listener, token(1));
    let bytes = vec![1u8; 8 << 20];
    // SAFETY: `bytes` lives, unchanged, until the completion below.
    unsafe { this.driver.send(token(1), [piece(&bytes), super::EMPTY], After::Keep) };
    this.poll();
    this.driver.cancel(token(1));
    let sent = this.wait(Kind::Sent, token(1));
    assert!(sent.result > 0 && sent.result < 8 << 20, "{sent:?}");
    assert_eq!(this.wait(Kind::Received, token(1)).result, -libc::ECANCELED);
}

/// The loop may act on one completion by cancelling a connection whose close stands later in the
/// batch.
#[test]
fn a_cancel_behind_the_close_leaves_the_slot_free() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(1));
    client.write_all(b"x").unwrap();
    let received = this.wait(Kind::Received, token(1));
    this.bytes(received);
    this.send(token(1), b"y", After::Close);
    this.wait(Kind::Closed, token(1));
    this.driver.cancel(token(1));
    let mut client = this.connect(&host, listener, token(1));
    assert!(this.wait(Kind::Cancelled, token(1)).result <= 0);
    client.write_all(b"not cancelled").unwrap();
    let received = this.wait(Kind::Received, token(1));
    assert_eq!(this.bytes(received), b"not cancelled");
}

#[test]
fn a_cancelled_slow_last_send_still_closes() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(1));
    client.write_all(b"x").unwrap();
    let received = this.wait(Kind::Received, token(1));
    this.bytes(received);
    let (head, body) = (vec![1u8; 4 << 20], vec![2u8; 4 << 20]);
    // SAFETY: both live, unchanged, until the completion below.
    unsafe { this.driver.send(token(1), [piece(&head), piece(&body)], After::Close) };
    this.poll();
    this.driver.cancel(token(1));
    let closed = this.wait(Kind::Closed, token(1));
    assert!(closed.result > 0 && closed.result < 8 << 20, "{closed:?}");
    this.wait(Kind::Cancelled, token(1));
    // What went out before is delivered, then the end.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), closed.result as usize);
}

#[test]
fn cancelling_an_accept_that_is_done_harms_nothing() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    this.driver.cancel_accept(token(0));
    assert_eq!(this.wait(Kind::Cancelled, token(0)).result, -libc::ENOENT);
    client.write_all(b"still here").unwrap();
    let received = this.wait(Kind::Received, token(0));
    assert_eq!(this.bytes(received), b"still here");
}

#[test]
fn nothing_is_lost_when_tiny_queues_overflow() {
    const CONNECTIONS: u32 = 200;
    let host = Host::new();
    let mut this = Loop::new(&UringConfig {
        submissions: 4,
        completions: 8,
        buffers: 256,
        batch: 5,
        ..UringConfig::for_connections(CONNECTIONS)
    });
    let bell = crate::sys::eventfd::EventFd::new().unwrap();
    this.driver.watch_bell(bell.as_fd()).unwrap();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    for connection in 0..CONNECTIONS {
        this.driver.accept(listener, token(connection));
    }
    this.poll();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| host.connect()).collect();
    for mut client in &clients {
        client.write_all(b"all at once").unwrap();
    }
    bell.ring().unwrap();
    for connection in 0..CONNECTIONS {
        assert_eq!(this.wait(Kind::Accepted, token(connection)).result, 0);
        let received = this.wait(Kind::Received, token(connection));
        assert_eq!(this.bytes(received), b"all at once");
    }
    this.wait(Kind::Bell, BELL);
    bell.ring().unwrap();
    this.wait(Kind::Bell, BELL);
    for connection in 0..CONNECTIONS {
        this.send(token(connection), b"answer", After::Close);
    }
    for connection in 0..CONNECTIONS {
        assert_eq!(this.wait(Kind::Closed, token(connection)).result, 6);
    }
    for mut client in clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    }
    let counters = this.driver.counters();
    assert!(counters.overflows > 0, "the queue was not too small: {counters:?}");
    assert!(counters.submission_full > 0);
    assert_eq!((counters.unknown, counters.close_errors), (0, 0));
}

const BELL: crate::driver::Token = crate::driver::Token { connection: 0, generation: 0 };

#[test]
fn foreign_completions_are_counted_not_obeyed() {
    let mut this = Loop::small();
    assert_eq!(this.driver.books.translate(0, 1, 0), None);
    assert_eq!(this.driver.books.translate(u64::MAX, 1, 0), None);
    assert_eq!(this.driver.books.translate(2 << 56 | 16, 1, 0), None, "beyond the table");
    assert_eq!(this.driver.counters().unknown, 3);
}

#[test]
fn a_direct_accept_needs_no_descriptor_number() {
    if std::env::var_os(CHILD).is_none() {
        // The limit is the process's: it is lowered in one of its own.
        let name = std::thread::current().name().unwrap().to_owned();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name.as_str(), "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        return;
    }
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let client = host.connect();
    let limit = crate::sys::rlimit::DescriptorLimit::current().unwrap();
    crate::sys::rlimit::DescriptorLimit { soft: 3, ..limit }.apply().unwrap();
    assert!(host.listener.try_clone().is_err(), "no number is left");
    this.driver.accept(listener, token(0));
    let accepted = this.wait(Kind::Accepted, token(0));
    assert_eq!(accepted.result, 0);
    drop(client);
    assert_eq!(this.wait(Kind::Received, token(0)).result, 0);
}

const CHILD: &str = "RINGHORN_TEST_CHILD";
