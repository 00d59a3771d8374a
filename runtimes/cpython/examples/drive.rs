//! Measures a worker alone: keeps requests queued for it and takes its answers, without sockets.
//!
//! Usage: `cargo run --release -p ringhorn-cpython --example drive -- [REQUESTS] [WINDOW] [CASE]`
//!
//! REQUESTS (200000) go through with WINDOW (32) of them queued or running at any time. CASE is
//! `same` (every request alike), `path` (path and request id differ), `all` (every value differs),
//! `shapes` (16 sets of header fields in turn) or `post` (a body of 1 KiB is read). It prints the
//! worker's CPU time for each request; `perf stat -p` or `valgrind --tool=callgrind` on the worker
//! count its instructions (docs/cpython.md). PYTHON, RINGHORN_RUNTIME and RINGHORN_RUNTIME_DIR
//! choose as in `tests/rig`; DRIVE_APPLICATION names a file with another application.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::time::Instant;

use rig::{Request, Rig};
use ringhorn_exchange::SlotIndex;

const APPLICATION: &str = "
def application(environ, start_response):
    if environ['REQUEST_METHOD'] == 'POST':
        environ['wsgi.input'].read()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'Hello, world!\\n']
";

/// Fields as nginx passes on what a browser sends.
const FIELDS: [(&str, &str); 14] = [
    ("REQUEST_URI", "/some/path"),
    ("DOCUMENT_ROOT", "/usr/share/nginx/html"),
    ("REQUEST_SCHEME", "http"),
    ("REMOTE_PORT", "51234"),
    ("HTTP_HOST", "www.example.org"),
    ("HTTP_CONNECTION", "keep-alive"),
    ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
    ("HTTP_ACCEPT_LANGUAGE", "en-GB,en;q=0.7,de;q=0.3"),
    ("HTTP_REFERER", "http://www.example.org/another/page?with=query"),
    ("HTTP_COOKIE", "session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes"),
    ("HTTP_CACHE_CONTROL", "max-age=0"),
    ("HTTP_X_REQUESTED_WITH", "XMLHttpRequest"),
];

fn request(case: &str, number: usize) -> Request {
    let mut request = match case {
        "post" => Request::post("/some/path", &[b'x'; 1024]),
        _ => Request::get("/some/path"),
    };
    for (at, (name, value)) in FIELDS.iter().enumerate() {
        if case == "shapes" && at >= 10 && (number >> (at - 10)) & 1 == 1 {
            continue;
        }
        let mut value = value.as_bytes().to_vec();
        if case == "all" {
            value.extend_from_slice(number.to_string().as_bytes());
        }
        request.more.push((name, value));
    }
    if case != "same" && case != "post" {
        request.path = format!("/some/path/{number}");
    }
    request
}

/// A window's worth of prepared requests, so that the driver's own work stays small.
fn main() {
    let mut arguments = std::env::args().skip(1);
    let total: usize = arguments.next().map_or(200_000, |text| text.parse().unwrap());
    let window: usize = arguments.next().map_or(32, |text| text.parse().unwrap());
    let case = arguments.next().unwrap_or_else(|| "same".to_owned());
    let requests: Vec<Request> = (0..1024).map(|number| request(&case, number)).collect();
    let source = match std::env::var("DRIVE_APPLICATION") {
        Ok(path) => std::fs::read_to_string(path).unwrap(),
        Err(_) => APPLICATION.to_owned(),
    };
    let mut rig = Rig::start(&source, 1);
    drive(&mut rig, &requests, total / 10, window);
    let (began, before) = (Instant::now(), cpu_ns(rig.child.id()));
    drive(&mut rig, &requests, total, window);
    let (wall, cpu) = (began.elapsed(), cpu_ns(rig.child.id()) - before);
    println!(
        "{case}: {total} requests, {:.0} a second, worker's CPU {:.0} ns a request",
        total as f64 / wall.as_secs_f64(),
        cpu as f64 / total as f64,
    );
    assert_eq!(rig.stop().0, Some(0));
}

fn drive(rig: &mut Rig, requests: &[Request], total: usize, window: usize) {
    let mut running: Vec<SlotIndex> = Vec::with_capacity(window);
    let (mut begun, mut done) = (0, 0);
    let mut wire = Vec::new();
    let mut news = Vec::new();
    while done < total {
        while running.len() < window && begun < total {
            running.push(rig.submit(&requests[begun % requests.len()]).0);
            begun += 1;
        }
        rig.loop_end.sweep(&mut news);
        let before = done;
        for slot in news.drain(..) {
            if rig.loop_end.progress(slot).unwrap().end.is_none() {
                continue;
            }
            wire.clear();
            rig.take(slot, &mut wire);
            assert!(wire.starts_with(b"HTTP/1.1 200 OK\r\n"));
            rig.loop_end.release(slot).unwrap();
            running.retain(|&other| other != slot);
            done += 1;
        }
        if done == before {
            rig.sleep();
        }
    }
}

/// User and system time of a process so far, from its threads' schedstat.
fn cpu_ns(process: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum()
}
