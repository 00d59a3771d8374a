//! Worker processes: how they are started, and what happens when they die.

use std::io::{Read, Write};

use crate::harness::{Server, application, closing_get, eventually, exchange, signal};

/// Tells facts of its process; `/wait` waits for the file `go` after making the file `began`.
const FACTS: &str = r#"
import json, os, resource, signal, sys, time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        open("began", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.005)
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines()
                  if ":\t" in line)
    facts = {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "pgid": os.getpgid(0),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "oom": int(open("/proc/self/oom_score_adj").read()),
        "stdin": os.readlink("/proc/self/fd/0"),
        "blocked": int(status["SigBlk"], 16),
        "ignored": int(status["SigIgn"], 16),
        "pipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
        "cwd": os.getcwd(),
        "said": os.environ.get("SAID"),
        "launcher": os.environ.get("RINGHORN_LAUNCHED_BY"),
        "multiprocess": environ["wsgi.multiprocess"],
        "affinity": sorted(os.sched_getaffinity(0)),
        "inherited": sorted(
            number for number in map(int, os.listdir("/proc/self/fd"))
            if 2 < number and os.path.exists("/proc/self/fd/%d" % number)
            and os.get_inheritable(number)
        ),
    }
    body = json.dumps(facts, sort_keys=True).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"#;

/// The value of a fact in the JSON of one level.
fn fact(facts: &str, name: &str) -> String {
    let mark = format!("\"{name}\": ");
    let rest = &facts[facts.find(&mark).expect(facts) + mark.len()..];
    let end = if rest.starts_with('[') { rest.find(']').unwrap() + 1 } else { 0 };
    let end = end + rest[end..].find([',', '}']).unwrap();
    rest[..end].trim_matches('"').to_owned()
}

fn number(facts: &str, name: &str) -> i64 {
    fact(facts, name).parse().unwrap()
}

#[test]
fn a_worker_starts_as_promised() {
    let folder = application(FACTS);
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let server = Server::start(
        folder.path(),
        &["--env", "SAID=yes=no", "--chdir", "inner", "--pythonpath", "."],
    );
    let facts = server.get("/");
    assert_eq!(number(&facts, "ppid"), i64::from(server.pid()));
    assert_eq!(fact(&facts, "pid"), fact(&facts, "pgid"));
    assert_eq!(fact(&facts, "stdin"), "/dev/null");
    assert_eq!(fact(&facts, "blocked"), "0");
    assert_eq!(fact(&facts, "said"), "yes=no");
    assert_eq!(fact(&facts, "launcher"), "null");
    assert_eq!(fact(&facts, "multiprocess"), "false");
    assert_eq!(fact(&facts, "cwd"), inner.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(fact(&facts, "inherited"), "[]");
    // CPython itself ignores PIPE and XFSZ (bits 12 and 24); nothing else is ignored.
    let python_ignores = 1 << 12 | 1 << 24;
    assert_eq!(number(&facts, "ignored") & !python_ignores, 0, "{facts}");

    let own = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let oom: i64 = own("oom_score_adj").trim().parse().unwrap();
    assert!(number(&facts, "oom") > oom || oom == 1000, "{facts}");
    let limits = own("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: i64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(number(&facts, "nofile"), soft, "the limit that the server was started with");
}

#[test]
fn a_killed_worker_costs_its_request_and_is_replaced() {
    let folder = application(FACTS);
    let mut server = Server::start(folder.path(), &[]);
    let pid = number(&server.get("/"), "pid");
    let mut held = server.connect();
    held.write_all(&closing_get("/wait")).unwrap();
    eventually("the request runs", || folder.path().join("began").exists());
    // Waits behind it, and is answered by the replacement.
    let mut queued = server.connect();
    queued.write_all(&closing_get("/")).unwrap();
    signal(pid as u32, "KILL");
    let mut answer = String::new();
    held.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let mut answer = String::new();
    queued.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_ne!(number(&answer, "pid"), pid);
    server.wait_for(&format!("(pid {pid}) ended: signal: 9"));
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn many_deaths_lose_no_seat() {
    let folder = application(FACTS);
    let mut server = Server::start(folder.path(), &["--threads", "2", "--event-loops", "2"]);
    for _ in 0..6 {
        let pid = number(&server.get("/"), "pid");
        signal(pid as u32, "KILL");
        server.wait_for(&format!("(pid {pid}) ended"));
    }
    server.get("/");
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn workers_and_loops_are_pinned_together() {
    let folder = application(FACTS);
    let first = std::thread::available_parallelism().map(|_| 0).unwrap_or(0);
    let mut server = Server::start(folder.path(), &["--cpu-affinity", "0", "--event-loops", "1"]);
    let facts = server.get("/");
    assert_eq!(fact(&facts, "affinity"), format!("[{first}]"));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let pinned = tasks.filter(|task| {
        let folder = task.as_ref().unwrap().path();
        let name = std::fs::read_to_string(folder.join("comm")).unwrap();
        let status = std::fs::read_to_string(folder.join("status")).unwrap();
        name.starts_with("event-loop") && status.contains("Cpus_allowed_list:\t0\n")
    });
    assert_eq!(pinned.count(), 1);
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn an_application_that_dies_at_each_start_is_not_started_in_a_loop() {
    let folder = application(DIES_SECOND_TIME);
    let mut server = Server::start(folder.path(), &[]);
    let answer = exchange(server.connect(), &closing_get("/die"));
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 502 "), "{answer}");
    server.wait_for("the next starts at once");
    server.wait_for("the next starts in 100ms");
    server.wait_for("the next starts in 200ms");
    std::fs::write(folder.path().join("heal"), "").unwrap();
    let answer = exchange(server.connect(), &closing_get("/"));
    assert!(answer.ends_with("alive"), "{answer}");
    assert_eq!(server.stop("TERM"), Some(0));
}

const DIES_SECOND_TIME: &str = r#"
import os
if os.path.exists("started") and not os.path.exists("heal"):
    raise RuntimeError("not again")
open("started", "w").close()
def application(environ, start_response):
    if environ["PATH_INFO"] == "/die":
        os._exit(1)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"alive"]
"#;

#[test]
fn workers_end_with_a_killed_server() {
    let folder = application(FACTS);
    let server = Server::start(folder.path(), &[]);
    let pid = number(&server.get("/"), "pid");
    signal(server.pid(), "KILL");
    eventually("its worker ends", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // Nobody may be there to reap it: a zombie has ended too.
        status.is_empty() || status.contains("State:\tZ")
    });
}
