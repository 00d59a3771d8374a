//! Receives that stay armed: what is asked for, what nobody asked for, and the end of both.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::super::user_data::{Operation, Tag};
use super::{Host, Loop, piece, token};
use crate::driver::{After, Driver, Kind, Piece, Token};

/// A loop with one kept connection, whose first request is answered: its receive stays armed.
fn kept(host: &Host, token: Token) -> (Loop, UnixStream) {
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let client = keep(&mut this, host, listener, token);
    (this, client)
}

fn keep(this: &mut Loop, host: &Host, listener: usize, token: Token) -> UnixStream {
    let mut client = this.connect(host, listener, token);
    client.write_all(b"first").unwrap();
    let received = this.wait(Kind::Received, token);
    assert_eq!(this.bytes(received), b"first");
    answer(this, &mut client, token);
    this.driver.recv(token, true);
    this.poll();
    client
}

fn answer(this: &mut Loop, client: &mut UnixStream, token: Token) {
    this.send(token, b"ok", After::Keep);
    assert_eq!(this.wait(Kind::Sent, token).result, 2);
    client.read_exact(&mut [0; 2]).unwrap();
}

/// Everything that is received until there are so many bytes, asked for piece by piece.
fn receive(this: &mut Loop, token: Token, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        let received = this.wait(Kind::Received, token);
        all.extend(this.bytes(received));
        this.driver.recv(token, true);
    }
    all
}

#[test]
fn one_receive_serves_many_requests() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    assert_eq!(this.driver.counters().multishots, 1);
    let before = this.driver.counters().submitted;
    for round in 0..100u8 {
        client.write_all(&[round]).unwrap();
        let received = this.wait(Kind::Received, token(1));
        assert_eq!(this.bytes(received), [round]);
        answer(&mut this, &mut client, token(1));
        this.driver.recv(token(1), true);
    }
    this.poll();
    assert_eq!(this.driver.counters().submitted, before + 100, "one send a request");
    assert_eq!(this.driver.counters().receives_held, 0);
}

#[test]
fn what_nobody_asked_for_is_held_in_order_and_ends_it() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    client.write_all(b"asked").unwrap();
    let received = this.wait(Kind::Received, token(1));
    assert_eq!(this.bytes(received), b"asked");
    for pipelined in [b"one", b"two"] {
        client.write_all(pipelined).unwrap();
        this.poll();
    }
    this.poll();
    assert_eq!(this.seen, [], "the loop is told what it asked for only");
    client.write_all(b"three").unwrap();
    this.poll();
    this.driver.recv(token(1), false);
    let first = this.wait(Kind::Received, token(1));
    assert_eq!(this.bytes(first), b"one");
    this.driver.recv(token(1), false);
    assert_eq!(receive(&mut this, token(1), 8), b"twothree");
    answer(&mut this, &mut client, token(1));
    client.write_all(b"last").unwrap();
    assert_eq!(receive(&mut this, token(1), 4), b"last");
    assert_eq!(this.driver.counters().multishots, 1, "such a client gets no other");
}

#[test]
fn a_flood_comes_whole_and_takes_no_more_than_the_group_has() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    let flood: Vec<u8> = (0..2_000_000u32).map(|at| (at >> 3) as u8).collect();
    let expected = flood.clone();
    let writer = std::thread::spawn(move || {
        client.write_all(&flood).unwrap();
        client
    });
    // The first piece is asked for; then the loop is busy for a while.
    let first = this.wait(Kind::Received, token(1));
    let mut all = this.bytes(first);
    for _ in 0..20 {
        this.poll();
    }
    this.driver.recv(token(1), false);
    let rest = receive(&mut this, token(1), expected.len() - all.len());
    all.extend(rest);
    assert!(all == expected, "in order and whole");
    let _client = writer.join().unwrap();
    assert_eq!(this.driver.books.multi.buffers.free(), 64, "every buffer came back");
}

#[test]
fn a_body_behind_its_head_goes_into_the_loops_memory() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    client.write_all(b"head").unwrap();
    let received = this.wait(Kind::Received, token(1));
    assert_eq!(this.bytes(received), b"head");
    // Armed, nothing held: the receive into memory waits for the end of the other, or is answered
    // by what that still brings.
    let mut body = vec![0u8; 6];
    let into = Piece { pointer: body.as_mut_ptr(), length: body.len() };
    // SAFETY: `body` lives, untouched, until its completion.
    unsafe { this.driver.recv_into(token(1), into, true) };
    this.poll();
    client.write_all(b"abcdef").unwrap();
    let received = this.wait(Kind::Received, token(1));
    assert_eq!((received.result, received.buffer), (6, None));
    assert_eq!(body, b"abcdef");
    // From now on straight into memory.
    let into = Piece { pointer: body.as_mut_ptr(), length: body.len() };
    // SAFETY: as above.
    unsafe { this.driver.recv_into(token(1), into, true) };
    client.write_all(b"ghi").unwrap();
    this.poll();
    client.write_all(b"jkl").unwrap();
    assert_eq!(this.wait(Kind::Received, token(1)).result, 6);
    assert_eq!(body, b"ghijkl");
}

#[test]
fn a_body_that_came_early_is_moved_and_the_next_request_kept() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    client.write_all(b"head").unwrap();
    let received = this.wait(Kind::Received, token(1));
    assert_eq!(this.bytes(received), b"head");
    client.write_all(b"bodynext").unwrap();
    this.poll();
    this.poll();
    let mut body = vec![0u8; 4];
    let into = Piece { pointer: body.as_mut_ptr(), length: body.len() };
    // SAFETY: `body` lives, untouched, until its completion.
    unsafe { this.driver.recv_into(token(1), into, true) };
    let received = this.wait(Kind::Received, token(1));
    assert_eq!((received.result, received.buffer), (4, None));
    assert_eq!(body, b"body");
    client.write_all(b" one").unwrap();
    this.driver.recv(token(1), false);
    assert_eq!(receive(&mut this, token(1), 8), b"next one");
    assert_eq!(this.driver.books.multi.buffers.free(), 64);
}

#[test]
fn closes_at_once_and_the_slot_is_as_new() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    for generation in 1..20 {
        let token = Token { connection: 2, generation };
        let mut client = keep(&mut this, &host, listener, token);
        client.write_all(b"last request").unwrap();
        let received = this.wait(Kind::Received, token);
        assert_eq!(this.bytes(received), b"last request");
        // By each of the three ways; with bytes that nobody asked for, now and then.
        if generation % 2 == 0 {
            client.write_all(b"too late").unwrap();
            this.poll();
        }
        match generation % 3 {
            0 => this.driver.close(token),
            1 => this.driver.reset(token),
            _ => this.send(token, b"bye", After::Close),
        }
        this.wait(Kind::Closed, token);
        let mut rest = Vec::new();
        // A reset, or a close with bytes unread, may end it with an error: an end all the same.
        let _ = client.read_to_end(&mut rest);
        assert_eq!(rest.is_empty(), generation % 3 != 2, "generation {generation}");
    }
    assert_eq!(this.driver.books.multi.buffers.free(), 64);
    assert_eq!(this.driver.counters().unknown, 0);
}

#[test]
fn an_end_that_nobody_asked_for_is_told_when_asked() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    client.write_all(b"last").unwrap();
    let received = this.wait(Kind::Received, token(1));
    assert_eq!(this.bytes(received), b"last");
    drop(client);
    this.poll();
    this.poll();
    assert_eq!(this.seen, []);
    this.driver.recv(token(1), true);
    let end = this.wait(Kind::Received, token(1));
    assert_eq!((end.result, end.buffer), (0, None));
}

#[test]
fn a_cancel_ends_what_was_asked_for() {
    let host = Host::new();
    let (mut this, client) = kept(&host, token(1));
    this.driver.cancel(token(1));
    let received = this.wait(Kind::Received, token(1));
    assert_eq!(received.result, -libc::ECANCELED);
    this.wait(Kind::Cancelled, token(1));
    // Asked again, it is armed again.
    this.driver.recv(token(1), true);
    let mut client = client;
    client.write_all(b"more").unwrap();
    assert_eq!(receive(&mut this, token(1), 4), b"more");
}

/// Repeated, the receive would outlive a cancel that found something else to end, and the close
/// would wait for it for ever.
#[test]
fn a_receive_that_ran_dry_is_not_repeated_behind_a_cancel() {
    let host = Host::new();
    let (mut this, _client) = kept(&host, token(1));
    let books = &mut this.driver.books;
    books.cancel_armed(token(1));
    let receive = Tag::new(Operation::RecvMulti, token(1)).to_bits();
    let answer = books.translate(receive, -libc::ENOBUFS, 0).unwrap();
    assert_eq!((answer.kind, answer.result), (Kind::Received, -libc::ECANCELED));
    assert!(books.follow_ups.is_empty());
}

#[test]
fn a_cancel_of_a_send_leaves_nothing_behind() {
    let host = Host::new();
    let (mut this, mut client) = kept(&host, token(1));
    client.write_all(b"x").unwrap();
    let received = this.wait(Kind::Received, token(1));
    this.bytes(received);
    let large = vec![1u8; 4 << 20];
    // SAFETY: `large` lives, unchanged, until the completion below.
    unsafe { this.driver.send(token(1), [piece(&large), super::EMPTY], After::Keep) };
    this.poll();
    this.driver.cancel(token(1));
    this.wait(Kind::Sent, token(1));
    this.wait(Kind::Cancelled, token(1));
    this.driver.recv(token(1), true);
    client.write_all(b"still here").unwrap();
    assert_eq!(receive(&mut this, token(1), 10), b"still here");
}

#[test]
fn without_multishot_receives_are_armed_one_by_one() {
    let host = Host::new();
    let mut this = Loop::small();
    this.driver.books.multi.set_known(false);
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = keep(&mut this, &host, listener, token(1));
    for _ in 0..3 {
        client.write_all(b"again").unwrap();
        let received = this.wait(Kind::Received, token(1));
        assert_eq!(this.bytes(received), b"again");
        this.driver.recv(token(1), true);
    }
    assert_eq!(this.driver.counters().multishots, 0);
}
