//! Sockets of every kind, and socket files that are stale, live, foreign or replaced.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;
use crate::config::{Asked, Environment, Options};

fn config(line: &str) -> Config {
    let arguments = ["ringhorn", "a:b"].into_iter().chain(line.split_whitespace());
    let none = Environment::new();
    match Options::read(arguments.map(Into::into), &none).unwrap() {
        Asked::Serve(options) => Config::resolve(&options, &none, Path::new("/")).unwrap(),
        Asked::Print(text) => panic!("{text}"),
    }
}

fn bind(line: &str, loops: u32) -> Result<Listeners, Fault> {
    let config = config(line);
    let privileges = Privileges::find(&config).unwrap();
    Listeners::bind(&config, loops, &privileges, &mut HandedOver::default())
}

/// Connects, accepts on the loop's descriptor and sends a byte through.
fn passes(listener: OwnedFd, mut client: impl Read) {
    let (accepted, _) = Socket::from(listener).accept().unwrap();
    accepted.send(b"x").unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

fn tcp_address(listeners: &Listeners) -> String {
    listeners.urls().next().unwrap().rsplit_once("://").unwrap().1.to_owned()
}

#[test]
fn tcp() {
    let listeners = bind("--bind 127.0.0.1:0 --bind uwsgi://[::1]:0", 2).unwrap();
    let urls: Vec<&str> = listeners.urls().collect();
    assert!(urls[0].starts_with("http://127.0.0.1:") && !urls[0].ends_with(":0"), "{urls:?}");
    assert!(urls[1].starts_with("uwsgi://[::1]:"), "{urls:?}");
    let facts = listeners.facts();
    assert_eq!(facts[0].server_name, "127.0.0.1");
    assert_eq!(facts[1].server_name, "::1");
    assert_eq!(format!("127.0.0.1:{}", facts[0].server_port), tcp_address(&listeners));
    let client = TcpStream::connect(tcp_address(&listeners)).unwrap();
    passes(listeners.of_loop(1).unwrap().remove(0), client);
}

#[test]
fn reuse_port_gives_each_loop_its_own() {
    let listeners = bind("--bind 127.0.0.1:0 --reuse-port", 3).unwrap();
    assert_eq!(listeners.listeners[0].sockets.len(), 3);
    let shared = bind("--bind 127.0.0.1:0", 3).unwrap();
    assert_eq!(shared.listeners[0].sockets.len(), 1);
}

#[test]
fn a_tcp_address_in_use() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("--bind {}", other.local_addr().unwrap());
    let fault = bind(&line, 1).expect_err("in use");
    assert!(fault.message.contains("another process listens there"), "{fault}");
    assert_eq!(fault.code, ExitCode::Configuration);
}

#[test]
fn unix_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let line = format!("--bind uwsgi://unix:{}?mode=0621", path.display());
    let listeners = bind(&line, 1).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o621);
    assert_eq!(listeners.urls().next().unwrap(), format!("uwsgi://unix:{}", path.display()));
    passes(listeners.of_loop(0).unwrap().remove(0), UnixStream::connect(&path).unwrap());
    // Live: refused, and the file stays.
    let fault = bind(&line, 1).expect_err("live");
    assert!(fault.message.contains("another process listens there"), "{fault}");
    drop(listeners);
    assert!(!path.exists(), "unlinked at exit");
}

#[test]
fn a_stale_file_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    // Bound but not listening: what a dead server leaves, and stays so while a child that another
    // test forks holds the descriptor too.
    let dead = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    dead.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    let listeners = bind(&format!("--bind unix:{}", path.display()), 1).unwrap();
    passes(listeners.of_loop(0).unwrap().remove(0), UnixStream::connect(&path).unwrap());
}

#[test]
fn what_is_no_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    let fault = bind(&format!("--bind unix:{}", path.display()), 1).expect_err("a file");
    assert!(fault.message.contains("is no socket"), "{fault}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let fault = bind(&format!("--bind unix:{}/no/s", folder.path().display()), 1).expect_err("dir");
    assert!(fault.hint.contains("folder"), "{}", fault.hint);
}

#[test]
fn a_file_that_is_no_longer_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listeners = bind(&format!("--bind unix:{}", path.display()), 1).unwrap();
    std::fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    drop(listeners);
    assert!(path.exists());
    drop(successor);
}

#[test]
fn abstract_names() {
    let name = format!("ringhorn-test-{}", std::process::id());
    let listeners = bind(&format!("--bind unix:@{name}"), 1).unwrap();
    let address = UnixAddress::from_abstract_name(&name).unwrap();
    let client = UnixStream::connect_addr(&address).unwrap();
    passes(listeners.of_loop(0).unwrap().remove(0), client);
    assert!(bind(&format!("--bind unix:@{name}"), 1).is_err());
}

#[test]
fn inherited_descriptors() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let number = socket.into_raw_fd();
    let listeners = bind(&format!("--bind uwsgi://fd://{number}"), 1).unwrap();
    assert_eq!(listeners.urls().next().unwrap(), format!("uwsgi://{address}"));
    let client = TcpStream::connect(address).unwrap();
    passes(listeners.of_loop(0).unwrap().remove(0), client);
    let behind = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert_eq!(behind, Path::new("/dev/null"), "the inherited number does not keep it open");

    let file = std::fs::File::open("/dev/null").unwrap();
    for number in [file.as_raw_fd(), 987_654] {
        let fault = bind(&format!("--bind fd://{number}"), 1).expect_err("no socket");
        assert_eq!(fault.code, ExitCode::Configuration);
    }
}

#[test]
fn a_socket_file_whose_owner_cannot_be_set_is_not_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let line = format!("--bind unix:{}?user=no-such-user", path.display());
    let fault = bind(&line, 1).expect_err("no such user");
    assert!(fault.message.contains("no-such-user") && !fault.hint.is_empty(), "{fault}");
    assert!(!path.exists());
}

/// Binds as a successor of `running`.
fn follow(running: &Listeners, line: &str, loops: u32) -> (Result<Listeners, Fault>, Vec<usize>) {
    let copies = running.for_successor().into_iter().map(|(said, socket)| {
        (said.to_owned(), Socket::from(socket.try_clone_to_owned().unwrap()))
    });
    let mut handed_over = HandedOver::new(copies.collect::<Vec<_>>());
    let config = config(line);
    let privileges = Privileges::find(&config).unwrap();
    let listeners = Listeners::bind(&config, loops, &privileges, &mut handed_over);
    (listeners, handed_over.taken().to_vec())
}

#[test]
fn a_successor_takes_what_both_bind() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, dropped) = (folder.path().join("kept"), folder.path().join("dropped"));
    let (kept_said, dropped_said) = (kept.display(), dropped.display());
    let both = format!("--bind 127.0.0.1:0 --bind unix:{kept_said}");
    let mut old = bind(&format!("--bind unix:{dropped_said} {both}"), 1).unwrap();
    let (new, taken) = follow(&old, &format!("{both} --bind 127.0.0.1:0"), 1);
    let mut new = new.unwrap();
    assert_eq!(taken, [1, 2]);
    let urls =
        |listeners: &Listeners| -> Vec<String> { listeners.urls().map(str::to_owned).collect() };
    assert_eq!(urls(&new)[..2], urls(&old)[1..]);
    assert_eq!(new.facts()[..2], old.facts()[1..]);
    assert_eq!(urls(&new).len(), 3);
    assert!(!old.hand_on(&taken), "not all are taken");
    new.take_files();
    drop(old);
    assert!(kept.exists() && !dropped.exists());
    passes(new.of_loop(0).unwrap().remove(1), UnixStream::connect(&kept).unwrap());
    drop(new);
    assert!(!kept.exists());
}

#[test]
fn a_refused_successor_leaves_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let old = bind(&format!("--bind unix:{}", path.display()), 1).unwrap();
    drop(follow(&old, &format!("--bind unix:{}?mode=0600", path.display()), 1).0.unwrap());
    assert!(path.exists());
    let (refused, _) = follow(&old, "--bind fd://0", 1);
    assert!(refused.expect_err("not handed over").message.contains("running server"));
}

#[test]
fn a_successor_finds_an_address_by_another_name() {
    let mut old = bind("--bind 127.0.0.1:0", 1).unwrap();
    let port = old.facts()[0].server_port.clone();
    let (new, taken) = follow(&old, &format!("--bind uwsgi://127.0.0.1:{port}"), 1);
    assert!(taken == [0] && old.hand_on(&taken));
    assert_eq!(new.unwrap().urls().next().unwrap(), format!("uwsgi://127.0.0.1:{port}"));
}

#[test]
fn a_successor_with_fewer_loops_serves_every_socket() {
    let old = bind("--bind 127.0.0.1:0 --reuse-port", 3).unwrap();
    let (new, taken) = follow(&old, "--bind 127.0.0.1:0 --reuse-port", 2);
    let new = new.unwrap();
    assert_eq!(taken, [0, 1, 2]);
    let counts: Vec<usize> = new.listeners.iter().map(|listener| listener.sockets.len()).collect();
    assert_eq!(counts, [2, 1]);
}
