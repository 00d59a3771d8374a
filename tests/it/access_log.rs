//! The access log of a running server.

use std::fs;
use std::path::Path;

use crate::harness::{HELLO, Server, application, closing_get, eventually, exchange, ringhorn};

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn lines_in_gunicorns_default_format() {
    let folder = application(HELLO);
    let log = folder.path().join("a.log");
    let mut server = Server::start(folder.path(), &["--access-logfile", "a.log"]);
    let request = b"GET /x?y=1 HTTP/1.1\r\nHost: test\r\nUser-Agent: a\"b\\\xff\r\n\
                    Referer: http://r/\r\nConnection: close\r\n\r\n";
    exchange(server.connect(), request);
    eventually("a line", || lines(&log).len() == 1);
    let line = lines(&log).remove(0);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let tail = r#"] "GET /x?y=1 HTTP/1.1" 200 8 "http://r/" "a\x22b\x5C\xFF""#;
    assert!(line.ends_with(tail), "{line}");
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn every_request_has_a_line_also_at_the_end() {
    let folder = application(HELLO);
    let log = folder.path().join("a.log");
    let format = "%(m)s %(U)s %(s)s %(request_id)s %({content-length}o)s %({x-a}i)s %(D)s";
    let mut server = Server::start(
        folder.path(),
        &["--access-logfile", "a.log", "--access-logformat", format, "--event-loops", "2"],
    );
    for number in 0..50 {
        server.get(&format!("/{number}"));
    }
    assert_eq!(server.stop("TERM"), Some(0));
    let lines = lines(&log);
    assert_eq!(lines.len(), 50);
    let fields: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert!(fields.iter().all(|fields| fields[0] == "GET" && fields[2] == "200"), "{lines:?}");
    let mut ids: Vec<&str> = fields.iter().map(|fields| fields[3]).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 50, "each request has its own id");
    assert!(fields.iter().all(|fields| fields[4].parse::<u32>().is_ok() && fields[5] == "-"));
}

#[test]
fn usr1_opens_the_file_again() {
    let folder = application(HELLO);
    let log = folder.path().join("a.log");
    let mut server = Server::start(folder.path(), &["--access-logfile", "a.log"]);
    server.get("/first");
    eventually("a line", || lines(&log).len() == 1);
    let moved = folder.path().join("a.log.1");
    fs::rename(&log, &moved).unwrap();
    server.signal("USR1");
    server.wait_for("opening the logs again");
    server.get("/second");
    eventually("a line in the new file", || lines(&log).len() == 1);
    assert!(lines(&moved)[0].contains("/first") && lines(&log)[0].contains("/second"));
    assert_eq!(server.stop("TERM"), Some(0));
}

#[test]
fn standard_output() {
    let folder = application(HELLO);
    let out = fs::File::create(folder.path().join("out")).unwrap();
    let mut command = ringhorn();
    command.args(["app:application", "--bind", "127.0.0.1:0", "--workers", "1"]);
    command.args(["--access-logfile", "-", "--access-logformat", "%(r)s"]);
    command.current_dir(folder.path()).stdout(out);
    let mut server = Server::started(command);
    for target in ["/1", "/2", "/3"] {
        exchange(server.connect(), &closing_get(target));
    }
    assert_eq!(server.stop("TERM"), Some(0));
    let expected = ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "GET /3 HTTP/1.1"];
    assert_eq!(lines(&folder.path().join("out")), expected);
}
