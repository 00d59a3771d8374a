//! Health paths: answered by the loop, whatever becomes of its workers.

use std::time::Duration;

use super::stage::{Stage, UWSGI, packet, response, settings};
use crate::config::HealthPaths;
use crate::driver::sim::SimConfig;
use crate::event_loop::messages::{Command, Readiness};

const ALIVE: &[u8] = b"GET /-/healthz HTTP/1.1\r\nHost: h\r\n\r\n";
const READY: &[u8] = b"GET /-/readyz HTTP/1.1\r\nHost: h\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn stage_with(inflight_max: u32) -> Stage {
    let mut asked = settings();
    asked.inflight_max = inflight_max;
    asked.health = HealthPaths {
        alive: Some(b"/-/healthz".as_slice().into()),
        ready: Some(b"/-/readyz".as_slice().into()),
    };
    Stage::new(asked, SimConfig::calm(64))
}

/// Status and body that a new connection gets for a request.
fn ask(stage: &mut Stage, request: &[u8]) -> (u16, String) {
    let client = stage.http(request);
    stage.settle();
    let (status, _, body, _) = response(&client.received());
    client.close();
    stage.settle();
    (status, String::from_utf8(body).unwrap())
}

fn say(stage: &mut Stage, workers: u32, is_stopping: bool) {
    stage.command(Command::Readiness(Readiness { workers, is_stopping }));
}

#[test]
fn both_are_well() {
    let mut stage = stage_with(16);
    assert_eq!(ask(&mut stage, ALIVE), (200, "alive\n".into()));
    assert_eq!(ask(&mut stage, READY), (200, "ready\n".into()));
    assert_eq!(stage.counters.health_answers.read(), 2);
    assert_eq!(stage.counters.requests.read(), 0, "no slot was used");
    stage.finish();
}

#[test]
fn a_path_is_one_only_as_a_whole_and_decoded() {
    let mut stage = stage_with(16);
    for target in ["/-/healthz", "/-/healthz?x=1", "/%2d/health%7A", "http://h/-/healthz"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(ask(&mut stage, request.as_bytes()).1, "alive\n", "{target}");
    }
    for target in ["/-/healthz/", "/-/health", "//-/healthz", "/x/-/healthz", "/-/healthz%20"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(ask(&mut stage, request.as_bytes()).1.starts_with("path="), "{target}");
    }
    assert_eq!(ask(&mut stage, b"GET /-/healthz%zz HTTP/1.1\r\nHost: h\r\n\r\n").0, 400);
    stage.finish();
}

#[test]
fn without_the_options_the_application_answers() {
    let mut stage = Stage::calm();
    assert!(ask(&mut stage, ALIVE).1.starts_with("path=/-/healthz"));
    stage.finish();
}

#[test]
fn connections_are_kept_and_pipelines_go_on() {
    let mut stage = stage_with(16);
    let client = stage.http(&[ALIVE, GET, READY, ALIVE].concat());
    stage.settle();
    let mut rest = client.take_received();
    for expected in ["alive\n", "path=/ ", "ready\n", "alive\n"] {
        let (status, head, body, behind) = response(&rest);
        assert_eq!(status, 200);
        assert!(!head.contains("Connection:"), "{head}");
        assert!(String::from_utf8(body).unwrap().starts_with(expected), "{expected}");
        rest = behind;
    }
    assert!(rest.is_empty());
    client.send(ALIVE);
    stage.settle();
    assert_eq!(response(&client.take_received()).0, 200, "still kept");
    client.send(b"HEAD /-/readyz HTTP/1.1\r\nHost: h\r\n\r\nGET /-/readyz HTTP/1.0\r\n\r\n");
    stage.settle();
    let text = String::from_utf8(client.received()).unwrap();
    let (head, second) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("Content-Length: 6"), "{head}");
    assert!(second.starts_with("HTTP/1.1 200 OK"), "no body behind a HEAD: {second}");
    assert!(second.contains("Connection: close") && client.sees_end(), "{second}");
    client.close();
    stage.finish();
}

#[test]
fn every_split_of_a_pipeline_is_answered() {
    let wire = [ALIVE, GET, READY].concat();
    for place in 0..=wire.len() {
        let mut stage = stage_with(16);
        let client = stage.http(b"");
        client.send_cut(&wire, &[place]);
        stage.settle();
        let text = String::from_utf8(client.received()).unwrap();
        let found: Vec<_> = ["alive\n", "path=/ ", "ready\n"]
            .iter()
            .map(|part| text.find(part).unwrap_or_else(|| panic!("{part} at {place}: {text}")))
            .collect();
        assert!(found.is_sorted(), "split at {place}");
        stage.finish();
    }
}

#[test]
fn other_methods_and_bodies_close_the_connection() {
    let mut stage = stage_with(16);
    let post = b"POST /-/healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    let client = stage.http(&[post.as_slice(), GET].concat());
    stage.settle();
    let (status, head, _, rest) = response(&client.received());
    assert_eq!(status, 405);
    assert!(head.contains("Allow: GET, HEAD") && head.contains("Connection: close"), "{head}");
    assert!(rest.is_empty() && client.sees_end(), "nothing behind a body is believed");
    let client = stage.http(
        b"GET /-/healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    );
    stage.settle();
    let (status, head, _, _) = response(&client.received());
    assert_eq!(status, 200);
    assert!(head.contains("Connection: close") && client.sees_end(), "{head}");
    stage.finish();
}

#[test]
fn over_uwsgi_it_is_path_info() {
    let mut stage = stage_with(16);
    for (path, expected) in [("/-/healthz", "alive\n"), ("/-/readyz", "ready\n"), ("/x", "path=/x")]
    {
        let variables = [("REQUEST_METHOD", "GET"), ("PATH_INFO", path), ("SCRIPT_NAME", "/a")];
        let client = stage.sim.connect(UWSGI, &packet(&variables));
        stage.settle();
        let (status, head, body, _) = response(&client.received());
        assert_eq!(status, 200);
        assert!(String::from_utf8(body).unwrap().starts_with(expected), "{path}");
        assert!(!head.contains("Connection"), "{head}");
        assert!(client.sees_end(), "{path}");
        client.close();
    }
    stage.finish();
}

#[test]
fn a_hanging_worker_and_a_full_queue_keep_nobody_from_asking() {
    let mut stage = stage_with(2);
    stage.is_worker_asleep = true;
    let first = stage.http(GET);
    stage.settle();
    assert_eq!(ask(&mut stage, READY).0, 200, "there is room for another");
    let second = stage.http(GET);
    stage.settle();
    assert_eq!(ask(&mut stage, GET).0, 503);
    assert_eq!(ask(&mut stage, ALIVE).0, 200);
    let (status, why) = ask(&mut stage, READY);
    assert_eq!(status, 503);
    assert!(why.contains("--max-inflight"), "{why}");
    stage.is_worker_asleep = false;
    stage.settle();
    for client in [first, second] {
        assert_eq!(response(&client.received()).0, 200);
    }
    assert_eq!(ask(&mut stage, READY).0, 200);
    stage.finish();
}

#[test]
fn readiness_says_what_it_lacks() {
    let mut stage = stage_with(16);
    for (workers, is_stopping, why) in
        [(0, false, "no worker is ready"), (1, true, "stopping"), (0, true, "stopping")]
    {
        say(&mut stage, workers, is_stopping);
        let (status, text) = ask(&mut stage, READY);
        assert_eq!(status, 503);
        assert!(text.starts_with("not ready: ") && text.contains(why), "{text}");
        assert_eq!(ask(&mut stage, ALIVE).0, 200);
    }
    // While readiness is false, whoever comes is served.
    say(&mut stage, 1, true);
    assert_eq!(ask(&mut stage, GET).0, 200);
    stage.finish();
}

#[test]
fn in_a_drain_the_server_lives_and_is_not_ready() {
    let mut stage = stage_with(16);
    let client = stage.http(ALIVE);
    stage.settle();
    assert_eq!(response(&client.take_received()).0, 200);
    stage.command(Command::Drain { within: Duration::from_secs(30) });
    client.send(READY);
    stage.settle();
    let (status, head, _, _) = response(&client.received());
    assert_eq!(status, 503);
    assert!(head.contains("Connection: close") && client.sees_end(), "{head}");
    client.close();
    assert_eq!(ask(&mut stage, ALIVE).0, 200);
    stage.finish();
}

/// Once a queue that nobody could claim from woke its loop every 500 µs.
#[test]
fn a_queue_without_workers_does_not_keep_the_loop_awake() {
    let mut stage = stage_with(16);
    stage.is_worker_asleep = true;
    let _client = stage.http(GET);
    stage.settle();
    let longest = |stage: &mut Stage| stage.event_loop.prepare_sleep().unwrap();
    assert!(longest(&mut stage) <= Duration::from_micros(500));
    say(&mut stage, 0, false);
    assert!(longest(&mut stage) >= Duration::from_millis(20));
    stage.finish();
}

#[test]
fn storms_answer_every_pipeline() {
    let wire = [ALIVE, GET, READY, GET, ALIVE].concat();
    for seed in 0..60 {
        let mut asked = settings();
        asked.keep_alive_timeout = Duration::from_secs(1);
        asked.health.alive = Some(b"/-/healthz".as_slice().into());
        asked.health.ready = Some(b"/-/readyz".as_slice().into());
        let mut stage = Stage::new(asked, SimConfig::stormy(64, seed));
        let clients: Vec<_> = (0..12)
            .map(|n| {
                let client = stage.http(b"");
                let (first, second) = (n * 13 % wire.len(), (n * 31 + 40) % wire.len());
                client.send_cut(&wire, &[first.min(second), first.max(second)]);
                client
            })
            .collect();
        stage.settle();
        for (n, client) in clients.iter().enumerate() {
            let mut rest = client.take_received();
            for part in ["alive\n", "path=/ ", "ready\n", "path=/ ", "alive\n"] {
                assert!(!rest.is_empty(), "seed {seed}: client {n} lacks {part}");
                let (status, _, body, behind) = response(&rest);
                let body = String::from_utf8(body).unwrap();
                assert!(status == 200 && body.starts_with(part), "seed {seed}, client {n}: {body}");
                rest = behind;
            }
        }
        // Some ask again about when they are closed as idle, some leave at that moment.
        for (n, client) in clients.iter().enumerate() {
            stage.pass(Duration::from_millis(50 * (n as u64 % 3)));
            match n % 4 {
                0 => client.close(),
                1 => client.reset(),
                _ => drop(client.send_cut(READY, &[n])),
            }
        }
        stage.pass(Duration::from_secs(2));
        stage.finish();
    }
}
