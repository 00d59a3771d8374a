//! Request bodies: gathered, spilled, streamed, refused.

use std::time::Duration;

use super::stage::{Stage, response, settings};
use crate::driver::sim::SimConfig;

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn chunked(path: &str, body: &[u8], chunk: usize) -> Vec<u8> {
    let mut bytes =
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for piece in body.chunks(chunk) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn echoes_bodies_of_every_kind() {
    // In one buffer, in memory, larger than the ring, spilled, streamed.
    for bytes in [1, 4_000, 40_000, 200_000, 900_000, 3_000_000] {
        let body = pattern(bytes);
        for request in [post("/echo", &body), chunked("/echo", &body, 30_000)] {
            let mut stage = Stage::calm();
            let client = stage.http(&request);
            stage.settle();
            let (status, _, echoed, rest) = response(&client.received());
            assert_eq!((status, echoed.len(), rest.len()), (200, bytes, 0));
            assert!(echoed == body, "{bytes} bytes came back changed");
            stage.finish();
        }
    }
}

#[test]
fn survives_storms() {
    for seed in 0..25 {
        let mut stage = Stage::new(settings(), SimConfig::stormy(64, seed));
        let body = pattern(150_000);
        let clients = [
            stage.http(&post("/echo", &body)),
            stage.http(&chunked("/echo", &body, 999)),
            stage.http(&post("/echo", &body[..3_000])),
        ];
        stage.settle();
        for (number, client) in clients.iter().enumerate() {
            let (status, _, echoed, _) = response(&client.received());
            let expected = if number == 2 { &body[..3_000] } else { &body[..] };
            assert!(status == 200 && echoed == expected, "seed {seed}, client {number}");
        }
        stage.finish();
    }
}

#[test]
fn states_the_length_of_a_gathered_chunked_body() {
    let mut stage = Stage::calm();
    let client = stage.http(&chunked("/c", b"hello world", 3));
    stage.settle();
    let body = response(&client.received()).2;
    assert_eq!(body, b"path=/c query= length=11 body=11 broken=false");
    stage.finish();
}

#[test]
fn answers_expectations_once_the_head_is_admitted() {
    let mut stage = Stage::calm();
    let client = stage
        .http(b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    stage.settle();
    assert_eq!(client.take_received(), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"abc");
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.finish();
}

#[test]
fn refuses_a_body_over_the_limit_and_is_heard() {
    let mut limited = settings();
    limited.body_bytes_max = 1000;
    for request in [post("/p", &pattern(1001)), chunked("/p", &pattern(1001), 100)] {
        let mut stage = Stage::new(limited.clone(), SimConfig::calm(64));
        let client = stage.http(&request);
        stage.settle();
        let (status, head, ..) = response(&client.received());
        assert!(status == 413 && head.contains("Connection: close"), "{head}");
        assert!(client.sees_end() && !client.was_reset());
        client.close();
        stage.finish();
    }
    let mut stage = Stage::new(limited, SimConfig::calm(64));
    let client = stage.http(&post("/p", &pattern(1000)));
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    stage.finish();
}

#[test]
fn refuses_a_body_cut_short_before_the_application_runs() {
    for bytes in [10, 100_000] {
        let mut stage = Stage::calm();
        let mut request = post("/p", &pattern(bytes));
        request.truncate(request.len() - 1);
        let client = stage.http(&request);
        stage.settle();
        client.shut_down();
        stage.settle();
        assert_eq!(response(&client.received()).0, 400);
        assert_eq!(stage.counters.requests.read(), 0);
        stage.finish();
    }
}

#[test]
fn raises_in_a_streamed_body_cut_short() {
    let mut stage = Stage::calm();
    let mut request = post("/p", &pattern(3_000_000));
    request.truncate(2_000_000);
    let client = stage.http(&request);
    stage.settle();
    client.shut_down();
    stage.settle();
    let body = String::from_utf8(response(&client.received()).2).unwrap();
    assert!(body.contains("broken=true"), "{body}");
    stage.finish();
}

#[test]
fn a_body_that_stops_coming_is_answered_408() {
    let mut stage = Stage::calm();
    let client = stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\nabc");
    stage.settle();
    stage.pass(Duration::from_secs(20));
    client.send(&pattern(50_000));
    stage.pass(Duration::from_secs(20));
    assert!(client.received().is_empty(), "a slow client that sends is not cut");
    stage.pass(Duration::from_secs(45));
    assert_eq!(response(&client.received()).0, 408);
    stage.finish();
}

#[test]
fn bodies_beyond_the_memory_bound_are_answered_503() {
    let mut tight = settings();
    tight.buffer_memory_bytes_max = 100_000;
    let mut stage = Stage::new(tight, SimConfig::calm(64));
    let holders: Vec<_> = (0..2)
        .map(|_| {
            let client =
                stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n");
            client.send(&pattern(20_000));
            client
        })
        .collect();
    stage.settle();
    let refused: Vec<_> = (0..4)
        .map(|_| stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\nabc"))
        .collect();
    stage.settle();
    for holder in &holders {
        holder.send(&pattern(40_000));
    }
    stage.settle();
    let whole = holders.iter().filter(|c| !c.received().is_empty()).count();
    assert!(whole >= 1, "nobody was served at the bound");
    for client in refused.iter().chain(&holders) {
        client.close();
    }
    stage.finish();
}
