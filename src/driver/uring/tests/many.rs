//! Many connections, and two loops on one listener.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Host, Loop, PATIENCE, token};
use crate::driver::tests::echo_loop::EchoLoop;
use crate::driver::uring::{UringConfig, UringDriver};
use crate::driver::{After, Driver, Kind};

/// One-shot accepts on a shared listener take turns (a multishot one would take every connection).
#[test]
fn a_thousand_connections_rotate_over_two_loops() {
    const EACH: u32 = 500;
    crate::sys::rlimit::raise_descriptor_limit().unwrap();
    let host = Host::new();
    let config = UringConfig::for_connections(1024);
    let mut loops = [Loop::new(&config), Loop::new(&config)];
    for this in &mut loops {
        assert_eq!(this.driver.add_listener(host.listener.as_fd()).unwrap(), 0);
        this.driver.accept(0, token(0));
        this.poll();
    }
    let mut clients: Vec<UnixStream> = Vec::new();
    let mut accepted = [0u32; 2];
    for _ in 0..2 * EACH {
        let mut client = host.connect();
        client.write_all(b"hello").unwrap();
        clients.push(client);
        for (this, count) in loops.iter_mut().zip(&mut accepted) {
            this.poll();
            if this.take_seen(Kind::Accepted, token(*count)).is_some() {
                let received = this.wait(Kind::Received, token(*count));
                assert_eq!(this.bytes(received), b"hello");
                *count += 1;
                this.driver.accept(0, token(*count));
                this.poll();
            }
        }
    }
    assert_eq!(accepted, [EACH, EACH]);
    for this in &mut loops {
        for connection in 0..EACH {
            this.send(token(connection), b"bye", After::Close);
        }
        for connection in 0..EACH {
            assert_eq!(this.wait(Kind::Closed, token(connection)).result, 3);
        }
        let counters = this.driver.counters();
        assert_eq!((counters.overflows, counters.unknown, counters.send_errors), (0, 0, 0));
        assert_eq!(this.driver.buffers_free(), 64);
    }
    for mut client in clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"bye");
    }
}

/// Generations tell the requests of one slot apart.
#[test]
fn a_slot_is_used_again_and_again() {
    let host = Host::new();
    let mut this = Loop::new(&UringConfig::for_connections(1));
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    for generation in (0..300).chain([(1 << 24) - 1]) {
        let token = crate::driver::Token { connection: 0, generation };
        let mut client = this.connect(&host, listener, token);
        client.write_all(b"x").unwrap();
        let received = this.wait(Kind::Received, token);
        this.bytes(received);
        this.send(token, b"y", After::Close);
        assert_eq!(this.wait(Kind::Closed, token).result, 1);
        assert_eq!(client.read(&mut [0; 2]).unwrap(), 1);
    }
}

/// A dropped driver closes its connections and lets go of the listener at once, not at thread end.
#[test]
fn a_dropped_driver_closes_everything() {
    let host = Host::new();
    let mut this = Loop::small();
    let listener = this.driver.add_listener(host.listener.as_fd()).unwrap();
    let mut client = this.connect(&host, listener, token(0));
    this.driver.accept(listener, token(1));
    this.poll();
    drop(this);
    let mut rest = Vec::new();
    // Reads again when the ring's end interrupts this thread.
    assert_eq!(client.read_to_end(&mut rest).unwrap(), 0);
}

/// The loop that storms are played to in the simulation, on real sockets with hardly any room.
#[test]
fn the_echo_loop_serves_many_clients_with_two_buffers() {
    const CLIENTS: u32 = 60;
    let host = Host::new();
    let config = UringConfig {
        buffers: 2,
        submissions: 8,
        completions: 16,
        batch: 3,
        ..UringConfig::for_connections(8)
    };
    let driver = UringDriver::prepare(&config).unwrap().enable().unwrap();
    let mut this = EchoLoop::new(driver, host.listener.as_fd(), 8);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = host.connect();
            std::thread::spawn(move || {
                if number % 7 == 0 {
                    return;
                }
                for byte in format!("line {number}\n").bytes() {
                    client.write_all(&[byte]).unwrap();
                }
                let mut answer = vec![0; format!("echo line {number}\n").len()];
                client.read_exact(&mut answer).unwrap();
                assert_eq!(answer, format!("echo line {number}\n").as_bytes());
                client.write_all(b"bye\n").unwrap();
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"echo bye\n");
            })
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while !clients.iter().all(|client| client.is_finished()) {
        this.turn(Some(Duration::from_millis(10))).unwrap();
        assert!(Instant::now() < deadline);
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    this.stop();
    while !this.is_empty() {
        this.turn(Some(Duration::from_millis(10))).unwrap();
        assert!(Instant::now() < deadline);
    }
    assert_eq!(this.driver.buffers_free(), 2);
    assert_eq!(this.driver.counters().unknown, 0);
}
