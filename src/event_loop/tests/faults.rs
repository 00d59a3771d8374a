//! Kernel faults at every place, and storms of all of them.

use std::time::Duration;

use super::stage::{Stage, response, settings};
use crate::driver::sim::SimConfig;
use crate::sys::errno;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ECONNRESET: i32 = 104;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

#[test]
fn accepting_pauses_when_descriptors_run_out_and_goes_on() {
    for fault in [EMFILE, ENFILE, errno::ENOBUFS, errno::ECONNABORTED] {
        let mut stage = Stage::calm();
        stage.sim.fail_accepts(fault, 3);
        let clients: Vec<_> = (0..8).map(|_| stage.http(GET)).collect();
        stage.settle();
        stage.pass(Duration::from_millis(500));
        let late = stage.http(GET);
        stage.settle();
        assert_eq!(response(&late.received()).0, 200, "errno {fault}");
        let served = clients.iter().filter(|client| !client.received().is_empty()).count();
        assert!(served >= 5, "errno {fault}: {served} of 8");
        stage.finish();
    }
}

#[test]
fn more_clients_than_numbers_wait_in_the_backlog() {
    let mut small = settings();
    small.connections_max = 4;
    small.inflight_max = 100;
    let mut stage = Stage::new(small, SimConfig::calm(64));
    let clients: Vec<_> = (0..40).map(|_| stage.http(GET)).collect();
    for _ in 0..60 {
        stage.settle();
        for client in clients.iter().filter(|client| !client.received().is_empty()) {
            client.close();
        }
    }
    assert!(clients.iter().all(|client| response(&client.received()).0 == 200));
    stage.finish();
}

#[test]
fn receives_without_a_buffer_are_asked_for_again() {
    let mut stage = Stage::calm();
    stage.sim.fail_receives(errno::ENOBUFS, 5);
    let clients: Vec<_> = (0..4).map(|_| stage.http(GET)).collect();
    stage.settle();
    assert!(clients.iter().all(|client| response(&client.received()).0 == 200));
    stage.finish();
}

#[test]
fn a_reset_in_each_state_leaves_nothing_behind() {
    let requests: [&[u8]; 7] = [
        b"",
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\nabc",
        GET,
        b"GET /big/5000000 HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for (number, request) in requests.iter().enumerate() {
        for delay_ms in [0, 150, 700] {
            let mut stage = Stage::calm();
            stage.is_worker_asleep = number == 5;
            let client = stage.http(request);
            client.set_window(100);
            stage.settle();
            stage.pass(Duration::from_millis(delay_ms));
            client.reset();
            stage.settle();
            stage.finish();
        }
    }
}

#[test]
fn receives_that_fail_end_their_connection_only() {
    let mut stage = Stage::calm();
    let first = stage.http(b"");
    stage.settle();
    stage.sim.fail_receives(ECONNRESET, 1);
    first.send(GET);
    stage.settle();
    let second = stage.http(GET);
    stage.settle();
    assert!(first.sees_close() && response(&second.received()).0 == 200);
    stage.finish();
}

#[test]
fn a_full_disk_refuses_the_request() {
    // No room is a matter of time, a broken disk is not.
    for (fault, status) in [(ENOSPC, 503), (EIO, 500)] {
        let mut stage = Stage::calm();
        stage.sim.fail_files(fault, 1);
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n";
        let mut request = head.to_vec();
        request.extend(std::iter::repeat_n(b'x', 500_000));
        let client = stage.http(&request);
        stage.settle();
        assert_eq!(response(&client.received()).0, status, "errno {fault}");
        client.close();
        stage.finish();
    }
}

#[test]
fn storms_answer_everyone_and_leave_nothing_behind() {
    for seed in 0..60 {
        let mut stage = Stage::new(settings(), SimConfig::stormy(64, seed));
        let clients: Vec<_> = (0..20)
            .map(|n| {
                let path = match n % 5 {
                    0 => "/big/100000".into(),
                    1 => "/endless/3000".into(),
                    n => format!("/{n}"),
                };
                let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
                let client = stage.http(b"");
                client.send_cut(request.as_bytes(), &[n % request.len()]);
                client
            })
            .collect();
        stage.settle();
        for (n, client) in clients.iter().enumerate() {
            let received = client.received();
            assert!(!received.is_empty(), "seed {seed}: client {n} got nothing");
            assert_eq!(response(&received).0, 200, "seed {seed}, client {n}");
            match n % 3 {
                0 => client.close(),
                1 => client.reset(),
                _ => {
                    client.send(GET);
                }
            }
        }
        stage.settle();
        stage.finish();
    }
}
