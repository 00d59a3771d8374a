//! Signals: graceful and fast ends, and those that end nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{HELLO, Server, application, closing_get, eventually, exchange};

/// Answers `/` at once; `/slow` when the file `go` is there, after making the file `began`.
const SLOW: &str = r#"
import os, time
def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("began", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.005)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"done"]
"#;

#[test]
fn term_finishes_what_is_in_flight() {
    let folder = application(SLOW);
    let mut server = Server::start(folder.path(), &[]);
    let mut slow = server.connect();
    slow.write_all(&closing_get("/slow")).unwrap();
    eventually("the request runs", || folder.path().join("began").exists());
    // An idle keep-alive connection does not hold up the end.
    let mut idle = server.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    server.signal("TERM");
    server.wait_for("stopping gracefully");
    let address = server.address().to_owned();
    eventually("new connections are refused", || TcpStream::connect(&address).is_err());
    std::fs::write(folder.path().join("go"), "").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\ndone"), "{answer}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn term_does_not_wait_beyond_its_time() {
    let folder = application(SLOW);
    let mut server = Server::start(folder.path(), &["--graceful-timeout", "0.2"]);
    let mut slow = server.connect();
    slow.write_all(&closing_get("/slow")).unwrap();
    eventually("the request runs", || folder.path().join("began").exists());
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn int_and_quit_end_at_once() {
    for signal in ["INT", "QUIT"] {
        let folder = application(SLOW);
        let mut server = Server::start(folder.path(), &[]);
        let mut slow = server.connect();
        slow.write_all(&closing_get("/slow")).unwrap();
        eventually("the request runs", || folder.path().join("began").exists());
        assert_eq!(server.stop(signal), Some(0), "{}", server.log.join("\n"));
    }
}

#[test]
fn a_fast_stop_cuts_a_graceful_one_short() {
    let folder = application(SLOW);
    let mut server = Server::start(folder.path(), &[]);
    let mut slow = server.connect();
    slow.write_all(&closing_get("/slow")).unwrap();
    eventually("the request runs", || folder.path().join("began").exists());
    server.signal("TERM");
    server.wait_for("stopping gracefully");
    assert_eq!(server.stop("INT"), Some(0));
}

#[test]
fn term_before_the_first_worker_is_ready_ends_too() {
    let folder = application("import time\ntime.sleep(1000)\n");
    let mut command = crate::harness::ringhorn();
    command.args(["app:application", "--bind", "127.0.0.1:0"]).current_dir(folder.path());
    command.args(["--graceful-timeout", "0.1"]);
    let mut server = Server::spawn(command);
    server.wait_for("listening on");
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn other_signals_end_nothing() {
    let folder = application(HELLO);
    let mut server = Server::start(folder.path(), &[]);
    for (signal, said) in [
        ("HUP", "reloaded: generation 2 serves"),
        ("USR1", "opening the logs again"),
        ("TTIN", "1 before, 2 from now on"),
        ("TTOU", "2 before, 1 from now on"),
    ] {
        server.signal(signal);
        server.wait_for(said);
        assert_eq!(server.get("/"), "hello /");
    }
    // Nobody is there to answer until a reload brings workers back; the request waits.
    server.signal("WINCH");
    server.wait_for("1 before, 0 from now on");
    let mut waiting = server.connect();
    waiting.write_all(&closing_get("/waits")).unwrap();
    server.signal("HUP");
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello /waits"), "{answer}");
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn a_worker_takes_no_harm_from_the_terminals_signals() {
    let folder = application(PID);
    let mut server = Server::start(folder.path(), &[]);
    let worker = server.get("/");
    for signal in ["TERM", "INT"] {
        crate::harness::signal(worker.parse().unwrap(), signal);
        assert_eq!(server.get("/"), worker);
    }
    let answer = exchange(server.connect(), &closing_get("/"));
    assert!(answer.ends_with(&worker), "{answer}");
    assert_eq!(server.stop("TERM"), Some(0));
}

const PID: &str = r#"
import os
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"#;
