//! Accept, receive, send and close over Unix and TCP sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use super::super::ring::ACCEPT_POLL_FIRST;
use super::{EMPTY, Host, Loop, PATIENCE, piece, token};
use crate::driver::{After, Driver, Kind, Piece};

#[test]
fn answers_a_request_and_closes_with_one_completion() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    this.driver.accept(listener, token(3));
    this.poll();
    let mut client = host.connect();
    client.write_all(b"request").unwrap();
    assert_eq!(this.wait(Kind::Accepted, token(3)).result, 0);
    assert_eq!(this.driver.peer(3), None, "a Unix peer has no address");
    let received = this.wait(Kind::Received, token(3));
    assert!(!received.more);
    assert_eq!(this.bytes(received), b"request");
    this.send(token(3), b"answer", After::Close);
    let closed = this.wait(Kind::Closed, token(3));
    assert_eq!(closed.result, 6, "the bytes that went out");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    this.poll();
    assert_eq!(this.seen, [], "the send itself is silent");
    // Accept, recv, send, close.
    assert_eq!(this.driver.counters().submitted, 4);
    assert_eq!(this.driver.counters().completed, 3);
    // The slot is free again.
    let mut next = this.connect(&host, listener, token(3));
    next.write_all(b"x").unwrap();
    let received = this.wait(Kind::Received, token(3));
    assert_eq!(this.bytes(received), b"x");
}

/// The accept ends the wait; its linked receive is begun by the next enter, which the loop needs
/// anyway to arm the next accept.
#[test]
fn two_enters_bring_accept_and_first_bytes() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    this.driver.accept(listener, token(0));
    this.poll();
    let mut client = host.connect();
    client.write_all(b"bytes").unwrap();
    let before = this.driver.counters().enters;
    this.turn();
    assert!(this.driver.has_more(), "the accept came, its receive waits in the kernel");
    this.driver.accept(listener, token(1));
    this.poll();
    assert!(this.driver.counters().enters <= before + 2);
    let kinds: Vec<Kind> = this.seen.iter().map(|completion| completion.kind).collect();
    assert_eq!(kinds, [Kind::Accepted, Kind::Received]);
    let received = this.seen[1];
    assert_eq!(this.bytes(received), b"bytes");
}

/// What the loop's last look before an idle close rests on: a receive that is tried at submission
/// has what is there before the cancel behind it, and one that finds nothing is cancelled.
#[test]
fn a_receive_tried_first_comes_before_the_cancel_behind_it() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    this.poll();
    this.driver.cancel(token(0));
    assert_eq!(this.wait(Kind::Received, token(0)).result, -libc::ECANCELED);
    for bytes in [&b""[..], b"late", b"", b"later"] {
        // As an idle connection waits: by a receive that stays armed, where there are such.
        this.driver.recv(token(0), true);
        this.poll();
        this.driver.cancel(token(0));
        assert_eq!(this.wait(Kind::Received, token(0)).result, -libc::ECANCELED);
        client.write_all(bytes).unwrap();
        this.driver.recv(token(0), false);
        this.driver.cancel(token(0));
        let received = this.wait(Kind::Received, token(0));
        match bytes {
            b"" => assert_eq!(received.result, -libc::ECANCELED),
            bytes => assert_eq!(this.bytes(received), bytes),
        }
    }
}

/// Kernels before 6.10 do not know the flag; the driver then arms plain accepts.
#[test]
fn accepts_with_and_without_polling_first() {
    for flags in [0, ACCEPT_POLL_FIRST] {
        let host = Host::new();
        let mut this = Loop::small();
        this.driver.accept_flags = flags;
        let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
        // One accept waits for its client, the other's client is there already.
        this.driver.accept(listener, token(0));
        this.poll();
        let mut first = host.connect();
        first.write_all(b"first").unwrap();
        let received = this.wait(Kind::Received, token(0));
        assert_eq!(this.bytes(received), b"first", "flags {flags}");
        let mut second = host.connect();
        second.write_all(b"second").unwrap();
        this.driver.accept(listener, token(1));
        let received = this.wait(Kind::Received, token(1));
        assert_eq!(this.bytes(received), b"second", "flags {flags}");
    }
}

#[test]
fn tells_the_address_of_tcp_peers() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(server) = TcpListener::bind(address) else {
            assert!(address.starts_with('['), "no IPv4 loopback");
            continue;
        };
        let mut this = Loop::small();
        let listener = this.driver.add_listener(server.as_fd()).unwrap();
        for round in 0..3 {
            this.driver.accept(listener, token(round));
            this.poll();
            let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            assert_eq!(this.wait(Kind::Accepted, token(round)).result, 0);
            assert_eq!(this.driver.peer(round), Some(client.local_addr().unwrap()));
            this.poll();
            assert_eq!(this.driver.peer(round), None, "known for one turn");
        }
    }
}

#[test]
fn keeps_a_connection_for_many_requests() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(server.as_fd()).unwrap();
    this.driver.accept(listener, token(1));
    this.poll();
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(this.wait(Kind::Accepted, token(1)).result, 0);
    for round in 0..100u8 {
        client.write_all(&[round]).unwrap();
        let received = this.wait(Kind::Received, token(1));
        assert_eq!(this.bytes(received), [round]);
        this.send(token(1), b"ok", After::Keep);
        assert_eq!(this.wait(Kind::Sent, token(1)).result, 2);
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        this.driver.recv(token(1), true);
    }
    drop(client);
    let received = this.wait(Kind::Received, token(1));
    assert_eq!((received.result, received.buffer), (0, None), "the end carries no buffer");
    assert_eq!(this.driver.buffers_free(), 64);
    this.driver.close(token(1));
    assert_eq!(this.wait(Kind::Closed, token(1)).result, 0);
}

#[test]
fn sends_two_pieces_in_order_whole() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    // Far above the socket buffer, so that the kernel must finish a short send itself.
    let head: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    let body: Vec<u8> = (0..500_000u32).map(|i| (i >> 3) as u8).collect();
    for after in [After::Keep, After::Close] {
        let mut client = this.connect(&host, listener, token(2));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(this.wait(Kind::Received, token(2)).result, 0);
        // SAFETY: both vectors live, unchanged, until the completion below.
        unsafe { this.driver.send(token(2), [piece(&head), piece(&body)], after) };
        this.poll();
        assert_eq!(this.driver.books.headers.in_use(), 1);
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 800_000];
            client.read_exact(&mut all).unwrap();
            (client, all)
        });
        let kind = if after == After::Keep { Kind::Sent } else { Kind::Closed };
        assert_eq!(this.wait(kind, token(2)).result, 800_000);
        assert_eq!(this.driver.books.headers.in_use(), 0);
        let (_client, all) = reader.join().unwrap();
        assert!(all[..300_000] == head[..] && all[300_000..] == body[..]);
        if after == After::Keep {
            this.driver.close(token(2));
            this.wait(Kind::Closed, token(2));
        }
    }
}

#[test]
fn an_empty_last_send_only_closes() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    client.write_all(b"x").unwrap();
    let received = this.wait(Kind::Received, token(0));
    this.bytes(received);
    // SAFETY: no memory is named.
    unsafe { this.driver.send(token(0), [EMPTY, EMPTY], After::Close) };
    assert_eq!(this.wait(Kind::Closed, token(0)).result, 0);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn receives_a_body_straight_into_memory() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(5));
    client.write_all(b"head").unwrap();
    let received = this.wait(Kind::Received, token(5));
    assert_eq!(this.bytes(received), b"head");
    let mut body = vec![0u8; 1000];
    let into = Piece { pointer: body.as_mut_ptr(), length: body.len() };
    // SAFETY: `body` lives, untouched, until the completion below.
    unsafe { this.driver.recv_into(token(5), into, true) };
    for _ in 0..10 {
        client.write_all(&[b'b'; 100]).unwrap();
        this.poll();
    }
    let received = this.wait(Kind::Received, token(5));
    assert_eq!((received.result, received.buffer), (1000, None));
    assert!(body.iter().all(|byte| *byte == b'b'));
    // Without `wait_all` what is there is enough.
    let into = Piece { pointer: body.as_mut_ptr(), length: body.len() };
    client.write_all(b"123").unwrap();
    // SAFETY: as above.
    unsafe { this.driver.recv_into(token(5), into, false) };
    assert_eq!(this.wait(Kind::Received, token(5)).result, 3);
    assert_eq!(&body[..3], b"123");
}

#[test]
fn says_when_more_bytes_wait() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    client.write_all(&[b'z'; 20_000]).unwrap();
    let first = this.wait(Kind::Received, token(0));
    assert_eq!((first.result, first.more), (16 << 10, true));
    this.bytes(first);
    this.driver.recv(token(0), false);
    let second = this.wait(Kind::Received, token(0));
    assert_eq!((second.result, second.more), (20_000 - (16 << 10), false));
    this.bytes(second);
}

#[test]
fn a_shut_down_writing_side_still_receives() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    this.driver.shutdown_write(token(0));
    assert_eq!(this.wait(Kind::ShutDown, token(0)).result, 0);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the client sees the end");
    client.write_all(b"late").unwrap();
    let received = this.wait(Kind::Received, token(0));
    assert_eq!(this.bytes(received), b"late");
}

#[test]
fn a_removed_listener_stops_listening() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    this.driver.accept(listener, token(0));
    this.poll();
    this.driver.cancel_accept(token(0));
    assert_eq!(this.wait(Kind::Accepted, token(0)).result, -libc::ECANCELED);
    assert_eq!(this.wait(Kind::Received, token(0)).result, -libc::ECANCELED);
    assert_eq!(this.wait(Kind::Cancelled, token(0)).result, 0);
    this.driver.remove_listener(listener);
    this.poll();
    let Host { listener, folder } = host;
    drop(listener);
    let path = folder.path().join("s");
    let refused = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(1));
        std::os::unix::net::UnixStream::connect(&path).is_err()
    })
    .take(5_000)
    .any(|is_refused| is_refused);
    assert!(refused, "the socket is still listening");
}
