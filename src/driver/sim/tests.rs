//! Tests of the simulation itself: that it behaves as the kernel was seen to, and that it catches a
//! loop that breaks the rules.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::{Sim, SimConfig, SimDriver};
use crate::driver::tests::echo_loop::EchoLoop;
use crate::driver::{After, BufferId, Completion, Driver, Kind, Piece, Token};

const NO_WAIT: Option<Duration> = Some(Duration::ZERO);

fn echo(config: SimConfig) -> (EchoLoop<SimDriver>, Sim) {
    let (driver, sim) = SimDriver::new(config);
    (EchoLoop::new(driver, std::io::stderr().as_fd(), config.connections), sim)
}

/// Turns until only time could make a difference.
fn settle(this: &mut EchoLoop<SimDriver>, sim: &Sim) {
    for _ in 0..10_000 {
        this.turn(Some(Duration::from_millis(1))).unwrap();
        if sim.is_quiet() {
            return;
        }
    }
    panic!("never quiet");
}

fn stop(mut this: EchoLoop<SimDriver>, sim: &Sim) {
    this.stop();
    settle(&mut this, sim);
    assert!(this.is_empty());
    sim.finish();
}

#[test]
fn lines_are_answered_however_they_are_cut() {
    let lines = b"one\ntwo\nbye\n";
    let expected = b"echo one\necho two\necho bye\n";
    for place in 0..=lines.len() {
        let (mut this, sim) = echo(SimConfig::calm(4));
        let client = sim.connect(0, b"");
        assert!(client.send_cut(lines, &[place]));
        settle(&mut this, &sim);
        assert_eq!(client.received(), expected, "cut at {place}");
        stop(this, &sim);
    }
    let (mut this, sim) = echo(SimConfig::calm(4));
    let client = sim.connect(0, b"");
    assert!(client.send_bytewise(lines));
    settle(&mut this, &sim);
    assert_eq!(client.received(), expected);
    stop(this, &sim);
}

#[test]
fn storms_lose_nothing() {
    for seed in 0..300 {
        let (mut this, sim) = echo(SimConfig::stormy(6, seed));
        let clients: Vec<_> =
            (0..20).map(|n| (n, sim.connect(0, format!("line {n}\n").as_bytes()))).collect();
        sim.ring_bell();
        settle(&mut this, &sim);
        for (n, client) in &clients[..4] {
            assert_eq!(client.received(), format!("echo line {n}\n").as_bytes(), "seed {seed}");
        }
        for (n, client) in &clients {
            match n % 4 {
                0 => assert!(client.send(b"bye\n")),
                1 => client.close(),
                2 => client.reset(),
                _ => client.shut_down(),
            }
        }
        settle(&mut this, &sim);
        settle(&mut this, &sim);
        for (n, client) in clients.iter().filter(|(n, _)| n % 4 == 0) {
            let expected = format!("echo line {n}\necho bye\n");
            assert_eq!(client.received(), expected.as_bytes(), "seed {seed}, client {n}");
        }
        assert_eq!(this.bells, 1);
        stop(this, &sim);
    }
}

#[test]
fn a_stop_in_the_middle_of_a_storm_leaves_nothing() {
    for seed in 0..300 {
        let (mut this, sim) = echo(SimConfig::stormy(6, seed));
        let clients: Vec<_> = (0..10).map(|_| sim.connect(0, b"line\nanother\nbye\n")).collect();
        clients[0].set_window(3);
        for _ in 0..seed % 20 {
            this.turn(NO_WAIT).unwrap();
        }
        stop(this, &sim);
    }
}

#[test]
fn failed_accepts_take_no_client_but_a_full_table_does() {
    let (mut this, sim) = echo(SimConfig::calm(4));
    sim.fail_accepts(libc::EMFILE, 3);
    let client = sim.connect(0, b"hello\n");
    settle(&mut this, &sim);
    assert_eq!(this.accept_errors, [libc::EMFILE; 3]);
    assert_eq!(client.received(), b"echo hello\n");
    sim.fail_accepts(libc::ENFILE, 1);
    let dropped = sim.connect(0, b"hello\n");
    let served = sim.connect(0, b"hello\n");
    settle(&mut this, &sim);
    assert!(dropped.sees_close() && dropped.received().is_empty());
    assert_eq!(served.received(), b"echo hello\n");
    stop(this, &sim);
}

#[test]
fn sends_stall_break_and_are_cut() {
    let (mut this, sim) = echo(SimConfig::calm(4));
    let slow = sim.connect(0, b"a line\n");
    slow.set_window(4);
    settle(&mut this, &sim);
    assert_eq!(slow.received(), b"echo");
    slow.set_window(usize::MAX);
    settle(&mut this, &sim);
    assert_eq!(slow.received(), b"echo a line\n");

    let broken = sim.connect(0, b"a line\n");
    broken.break_after(6, libc::ECONNRESET);
    settle(&mut this, &sim);
    assert_eq!(broken.received(), b"echo a");
    assert!(broken.sees_close(), "the loop gave it up");
    stop(this, &sim);
}

#[test]
fn a_close_over_unread_bytes_is_seen_as_a_reset() {
    let (mut this, sim) = echo(SimConfig::calm(4));
    let client = sim.connect(0, b"");
    client.send_cut(b"bye\nmore", &[4]);
    settle(&mut this, &sim);
    assert_eq!(client.received(), b"echo bye\n");
    assert!(client.was_reset());
    stop(this, &sim);
}

#[test]
fn time_moves_only_when_nothing_comes() {
    let (mut this, sim) = echo(SimConfig::calm(2));
    let seen = Rc::new(Cell::new(0));
    let clock = Rc::clone(&seen);
    sim.on_clock(move |now_ns| clock.set(now_ns));
    let early = sim.connect(0, b"now\n");
    sim.after(Duration::from_millis(7), |sim| {
        sim.connect(0, b"later\n");
    });
    settle(&mut this, &sim);
    assert_eq!(early.received(), b"echo now\n");
    assert_eq!(seen.get(), sim.now_ns());
    assert!(seen.get() >= 7_000_000 && seen.get() < 10_000_000, "{}", seen.get());
    sim.advance(Duration::from_secs(1));
    assert_eq!(seen.get(), sim.now_ns());
    this.turn(None).unwrap();
    stop(this, &sim);
}

#[test]
fn a_broken_ring_ends_the_loop() {
    let (mut this, sim) = echo(SimConfig::calm(2));
    sim.break_ring(libc::EBADR);
    let error = this.turn(NO_WAIT).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADR));
}

#[test]
fn peers_have_addresses_for_one_turn() {
    let (mut driver, sim) = SimDriver::new(SimConfig::calm(2));
    driver.add_listener(std::io::stderr().as_fd()).unwrap();
    driver.accept(0, TOKEN);
    let address = "192.0.2.1:80".parse().unwrap();
    sim.connect_from(0, Some(address), b"");
    driver.turn(NO_WAIT, &mut Vec::new()).unwrap();
    assert_eq!(driver.peer(0), Some(address));
    driver.turn(NO_WAIT, &mut Vec::new()).unwrap();
    assert_eq!(driver.peer(0), None);
}

#[test]
fn files_and_the_bell_are_real() {
    let file = tempfile::tempfile().unwrap();
    let bell = crate::sys::eventfd::EventFd::new().unwrap();
    let (mut driver, sim) = SimDriver::new(SimConfig::calm(2));
    driver.watch_bell(bell.as_fd()).unwrap();
    bell.ring().unwrap();
    sim.fail_files(libc::ENOSPC, 1);
    let mut out = Vec::new();
    let mut read = [0u8; 8];
    let into = Piece { pointer: read.as_mut_ptr(), length: 8 };
    // SAFETY: static memory; `read` is not looked at before the completions below.
    unsafe {
        driver.file_write(TOKEN, file.as_fd(), piece(b"lost"), 0);
        driver.file_write(TOKEN, file.as_fd(), piece(b"kept"), 2);
        driver.file_read(TOKEN, file.as_fd(), into, 0);
    }
    driver.turn(NO_WAIT, &mut out).unwrap();
    let results: Vec<(Kind, i32)> = out.iter().map(|c| (c.kind, c.result)).collect();
    let done = |result| (Kind::FileDone, result);
    assert_eq!(results, [done(-libc::ENOSPC), done(4), done(6), (Kind::Bell, 1)]);
    assert_eq!(&read, b"\0\0kept\0\0");
}

const TOKEN: Token = Token { connection: 0, generation: 3 };
const EMPTY: Piece = Piece { pointer: std::ptr::null(), length: 0 };

fn piece(bytes: &[u8]) -> Piece {
    Piece { pointer: bytes.as_ptr(), length: bytes.len() }
}

/// A driver with one connection open whose first receive has brought `bytes`.
fn connected(bytes: &[u8]) -> (SimDriver, Sim, Vec<Completion>) {
    let (mut driver, sim) = SimDriver::new(SimConfig { panics: false, ..SimConfig::calm(2) });
    driver.add_listener(std::io::stderr().as_fd()).unwrap();
    driver.accept(0, TOKEN);
    sim.connect(0, bytes);
    let mut out = Vec::new();
    driver.turn(NO_WAIT, &mut out).unwrap();
    driver.turn(NO_WAIT, &mut out).unwrap();
    (driver, sim, out)
}

/// One rule, broken: what the simulation must say.
fn check(expected: &str, bytes: &[u8], crime: impl FnOnce(&mut SimDriver, BufferId)) {
    let (mut driver, sim, out) = connected(bytes);
    let buffer = out.iter().find_map(|completion| completion.buffer).unwrap_or(BufferId(99));
    crime(&mut driver, buffer);
    let found = sim.leftovers();
    assert!(found.iter().any(|text| text.contains(expected)), "{expected}: {found:?}");
}

fn send(driver: &mut SimDriver, token: Token, after: After) {
    // SAFETY: static memory.
    unsafe { driver.send(token, [piece(b"bytes"), EMPTY], after) }
}

#[test]
fn broken_rules_are_found() {
    check("a second receive", b"", |driver, _| driver.recv(TOKEN, false));
    check("beside armed operations", b"", |driver, _| driver.close(TOKEN));
    check("beside an armed receive", b"", |driver, _| send(driver, TOKEN, After::Close));
    check("a second send", b"x", |driver, _| {
        send(driver, TOKEN, After::Keep);
        send(driver, TOKEN, After::Keep);
    });
    check("beside armed operations", b"x", |driver, _| {
        send(driver, TOKEN, After::Keep);
        driver.close(TOKEN);
    });
    check("send on", b"x", |driver, _| {
        driver.close(TOKEN);
        send(driver, TOKEN, After::Keep);
    });
    check("send on", b"x", |driver, _| {
        driver.close(TOKEN);
        driver.turn(NO_WAIT, &mut Vec::new()).unwrap();
        send(driver, TOKEN, After::Keep);
    });
    check("receive on", b"x", |driver, _| driver.recv(Token { generation: 4, ..TOKEN }, false));
    check("not free", b"x", |driver, _| driver.accept(0, TOKEN));
    check("not there", b"x", |driver, _| driver.accept(1, Token { connection: 1, ..TOKEN }));
    check("beyond the table", b"x", |driver, _| {
        driver.accept(0, Token { connection: 9, ..TOKEN });
    });
    check("24 bits", b"", |driver, _| {
        driver.accept(0, Token { connection: 1, generation: 1 << 24 });
    });
    check("a recycle", b"x", |driver, buffer| {
        driver.recycle(buffer);
        driver.recycle(buffer);
    });
    check("read of", b"x", |driver, buffer| {
        driver.recycle(buffer);
        assert_eq!(driver.buffer(buffer, 1), [super::POISON]);
    });
    check("not given back", b"x", |_, _| {});
    check("is not free", b"x", |_, _| {});
    check("no bytes", b"x", |driver, _| {
        // SAFETY: no memory is named.
        unsafe { driver.recv_into(TOKEN, EMPTY, false) }
    });
    check("null pointer", b"x", |driver, _| {
        let bad = Piece { pointer: std::ptr::null(), length: 1 };
        // SAFETY: the simulation refuses the piece before it would be used.
        unsafe { driver.recv_into(TOKEN, bad, false) }
    });
    check("changed before", b"x", |driver, _| {
        let bytes = std::cell::Cell::new(*b"bytes");
        let memory = Piece { pointer: bytes.as_ptr().cast(), length: 5 };
        // SAFETY: valid until the turn is over; changing it is the point of this test.
        unsafe { driver.send(TOKEN, [memory, EMPTY], After::Keep) };
        bytes.set(*b"Bytes");
        driver.turn(NO_WAIT, &mut Vec::new()).unwrap();
    });
    check("removed with accepts", b"x", |driver, _| {
        driver.accept(0, Token { connection: 1, ..TOKEN });
        driver.turn(NO_WAIT, &mut Vec::new()).unwrap();
        driver.remove_listener(0);
    });
}

#[test]
fn a_stalled_last_send_can_be_cancelled() {
    let (mut driver, sim) = SimDriver::new(SimConfig::calm(2));
    driver.add_listener(std::io::stderr().as_fd()).unwrap();
    driver.accept(0, TOKEN);
    let client = sim.connect(0, b"x");
    client.set_window(2);
    let mut out = Vec::new();
    driver.turn(NO_WAIT, &mut out).unwrap();
    driver.recycle(out[1].buffer.unwrap());
    send(&mut driver, TOKEN, After::Close);
    driver.turn(NO_WAIT, &mut out).unwrap();
    assert_eq!(out.len(), 2, "stalled");
    driver.cancel(TOKEN);
    driver.turn(NO_WAIT, &mut out).unwrap();
    let ends: Vec<(Kind, i32)> = out[2..].iter().map(|c| (c.kind, c.result)).collect();
    assert_eq!(ends, [(Kind::Closed, 2), (Kind::Cancelled, 1)]);
    assert!(client.sees_close());
    sim.finish();
}

#[test]
fn a_correct_end_leaves_nothing() {
    let (mut driver, sim, out) = connected(b"x");
    driver.recycle(out.iter().find_map(|completion| completion.buffer).unwrap());
    send(&mut driver, TOKEN, After::Close);
    let mut out = Vec::new();
    driver.turn(NO_WAIT, &mut out).unwrap();
    assert_eq!((out[0].kind, out[0].result), (Kind::Closed, 5));
    sim.finish();
}
