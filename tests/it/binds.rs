//! Every kind of `--bind`, answered.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;

use crate::harness::{
    HELLO, Server, application, assert_fails, closing_get, connect_unix, exchange, ringhorn,
    uwsgi_packet,
};

/// A server of the hello application on these addresses.
fn start(folder: &std::path::Path, binds: &[&str]) -> Server {
    let mut command = ringhorn();
    command.args(["app:application", "--workers", "1"]).current_dir(folder);
    for bind in binds {
        command.args(["--bind", bind]);
    }
    Server::started(command)
}

fn uwsgi_get(path: &str) -> Vec<u8> {
    uwsgi_packet(&[
        ("REQUEST_METHOD", "GET"),
        ("PATH_INFO", path),
        ("QUERY_STRING", ""),
        ("SERVER_NAME", "test"),
        ("SERVER_PORT", "80"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
    ])
}

#[test]
fn all_kinds_at_once() {
    let folder = application(HELLO);
    let http = folder.path().join("http.sock");
    let uwsgi = folder.path().join("uwsgi.sock");
    let name = format!("ringhorn-it-{}", std::process::id());
    let mut server = start(
        folder.path(),
        &[
            "127.0.0.1:0",
            "[::1]:0",
            "unix:http.sock?mode=0600",
            &format!("uwsgi://unix:{}", uwsgi.display()),
            &format!("unix:@{name}"),
        ],
    );
    assert_eq!(server.get("/tcp"), "hello /tcp");
    assert_eq!(http.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let answer = exchange(connect_unix(&http), &closing_get("/unix"));
    assert!(answer.ends_with("\r\n\r\nhello /unix"), "{answer}");
    let answer = exchange(connect_unix(&uwsgi), &uwsgi_get("/uwsgi"));
    assert!(answer.ends_with("\r\n\r\nhello /uwsgi"), "{answer}");
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let stream = UnixStream::connect_addr(&address).unwrap();
    assert!(exchange(stream, &closing_get("/abstract")).ends_with("hello /abstract"));
    let log = server.log.join("\n");
    for url in ["http://127.0.0.1:", "http://[::1]:", "http://unix:/", "uwsgi://unix:/"] {
        assert!(log.contains(&format!("listening on {url}")), "{url}:\n{log}");
    }
    assert_eq!(server.stop("TERM"), Some(0));
    assert!(!http.exists() && !uwsgi.exists(), "socket files are removed at exit");
}

#[test]
fn a_stale_socket_file_is_taken_over_and_a_live_one_is_not() {
    let folder = application(HELLO);
    let path = folder.path().join("s");
    // Leaves its file behind, as a server that was killed does.
    drop(UnixListener::bind(&path).unwrap());
    let mut first = start(folder.path(), &["unix:s"]);
    assert!(exchange(connect_unix(&path), &closing_get("/")).ends_with("hello /"));
    let mut command = ringhorn();
    command.args(["app:application", "--bind", "unix:s"]).current_dir(folder.path());
    assert_fails(&command.output().unwrap(), 2, "another process listens there", "--bind");
    assert!(exchange(connect_unix(&path), &closing_get("/")).ends_with("hello /"));
    // A successor's file is not removed.
    std::fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    assert_eq!(first.stop("TERM"), Some(0));
    assert!(path.exists());
    drop(successor);
}

#[test]
fn an_inherited_listener_serves() {
    let folder = application(HELLO);
    let mut command = Command::new("python3");
    command.args(["-c", PASS_ON, env!("CARGO_BIN_EXE_ringhorn"), "app:application"]);
    command.args(["--workers", "1", "--bind", "fd://5"]).current_dir(folder.path());
    let mut server = Server::started(command);
    assert_eq!(server.get("/fd"), "hello /fd");
    assert_eq!(server.stop("INT"), Some(0));
}

/// Listens under descriptor 5 and becomes its arguments.
const PASS_ON: &str = "
import os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
os.dup2(listener.fileno(), 5)
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn loops_share_a_port_or_have_one_each() {
    let folder = application(HELLO);
    for more in [&["--event-loops", "3"][..], &["--event-loops", "3", "--reuse-port"]] {
        let mut server = Server::start(folder.path(), more);
        for _ in 0..30 {
            assert_eq!(server.get("/"), "hello /");
        }
        assert_eq!(server.stop("TERM"), Some(0));
    }
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let folder = application(HELLO);
    let mut command = ringhorn();
    command.args(["app:application", "--bind", "unix:app.py"]).current_dir(folder.path());
    assert_fails(&command.output().unwrap(), 2, "is no socket", "another path");
    let kept = std::fs::read_to_string(folder.path().join("app.py")).unwrap();
    assert_eq!(kept, HELLO);
}
