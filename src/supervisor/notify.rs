//! What systemd is told (sd_notify(3)): READY, RELOADING, STOPPING, STATUS, MAINPID, WATCHDOG.
//!
//! Beside the walk of a request. One datagram a change of state, to the socket that `NOTIFY_SOCKET`
//! names; without it nothing is told to anybody.
//!
//! Invariants: telling never waits, and a refusal never changes what the server does; it is logged.
//! A server that follows another (USR2) says nothing before that one has handed over, and one that
//! has handed over says nothing more: systemd hears of one main process at any time.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::config::Environment;
use crate::sys::clock;

/// Where the service's state is told.
#[derive(Debug)]
pub struct Notifier {
    target: Option<Target>,
    /// How often systemd wants to hear that the server lives.
    watchdog: Option<Duration>,
    is_silent: bool,
}

#[derive(Debug)]
struct Target {
    socket: UnixDatagram,
    address: SocketAddr,
    shown: String,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. A value that makes no sense is
    /// logged: it is no reason not to serve.
    pub fn from_environment(environment: &Environment, pid: u32) -> Notifier {
        let filled = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let none = Notifier { target: None, watchdog: None, is_silent: false };
        let Some(said) = filled("NOTIFY_SOCKET") else { return none };
        let target = address_of(said).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Target { socket, address, shown: said.clone() })
        });
        match target {
            Ok(target) => {
                let watchdog = watchdog(filled("WATCHDOG_USEC"), filled("WATCHDOG_PID"), pid);
                Notifier { target: Some(target), watchdog, is_silent: false }
            }
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET is {said}: {error}; systemd is told nothing");
                none
            }
        }
    }

    /// Half of the time after which systemd takes the server for hung; `None`: it does not watch.
    pub fn watchdog_pause(&self) -> Option<Duration> {
        self.watchdog.filter(|_| !self.is_silent).map(|usual| usual / 2)
    }

    /// Says nothing until [`speak`](Notifier::speak): another server is the main process.
    pub fn fall_silent(&mut self) {
        self.is_silent = true;
    }

    /// Speaks for the service from now on.
    pub fn speak(&mut self) {
        self.is_silent = false;
    }

    /// It serves: at the start, and again after [`reloading`](Notifier::reloading).
    pub fn ready(&self, status: &str) {
        self.tell(&[("READY", "1"), ("STATUS", status)]);
    }

    /// A reload begins; `ready` ends it.
    pub fn reloading(&self, status: &str) {
        let now = (clock::now_ns() / 1000).to_string();
        self.tell(&[("RELOADING", "1"), ("MONOTONIC_USEC", &now), ("STATUS", status)]);
    }

    /// The server ends, within that time whatever `TimeoutStopSec=` says.
    pub fn stopping(&self, within: Duration, status: &str) {
        let micros = within.as_micros().to_string();
        self.tell(&[("STOPPING", "1"), ("EXTEND_TIMEOUT_USEC", &micros), ("STATUS", status)]);
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.tell(&[("STATUS", status)]);
    }

    /// Another process is the service from now on.
    pub fn main_process(&self, pid: u32) {
        self.tell(&[("MAINPID", &pid.to_string())]);
    }

    /// The server lives.
    pub fn alive(&self) {
        self.tell(&[("WATCHDOG", "1")]);
    }

    fn tell(&self, pairs: &[(&str, &str)]) {
        let Some(target) = self.target.as_ref().filter(|_| !self.is_silent) else { return };
        let text = message(pairs);
        if let Err(error) = target.socket.send_to_addr(text.as_bytes(), &target.address) {
            let what = pairs.first().map_or("", |(name, _)| name);
            tracing::warn!("cannot tell systemd {what} at {}: {error}", target.shown);
        }
    }
}

/// Lines of NAME=VALUE; a value is one line.
fn message(pairs: &[(&str, &str)]) -> String {
    let lines: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}={}", value.replace('\n', " "))).collect();
    lines.join("\n")
}

fn address_of(said: &str) -> io::Result<SocketAddr> {
    match said.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if said.starts_with('/') => SocketAddr::from_pathname(said),
        None => Err(io::Error::other("it is neither a path nor an abstract name")),
    }
}

/// The time that is said, if it is said of this process.
fn watchdog(micros: Option<&String>, pid: Option<&String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let said = micros?;
    match said.parse().ok().filter(|micros| *micros > 0) {
        Some(micros) => Some(Duration::from_micros(micros)),
        None => {
            tracing::warn!("WATCHDOG_USEC is {said}, which is no time: it is passed over");
            None
        }
    }
}

/// When the watchdog is due, and whether every event loop has turned since it was last rung for.
#[derive(Debug)]
pub struct Pulse {
    due: Option<Instant>,
    /// Turns of the loops when their bells were rung last.
    turns: Vec<u64>,
}

impl Pulse {
    /// Due at once, so that the loops are rung for.
    pub fn new(notifier: &Notifier, now: Instant) -> Pulse {
        Pulse { due: notifier.watchdog_pause().map(|_| now), turns: Vec::new() }
    }

    /// When it is due.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is due; if so, the loops that have not turned since the last time. The caller
    /// rings for all of them.
    pub fn beat(&mut self, now: Instant, pause: Option<Duration>, turns: Vec<u64>) -> Beat {
        if self.due.is_none_or(|due| due > now) {
            return Beat::NotDue;
        }
        self.due = pause.map(|pause| now + pause);
        let before = std::mem::replace(&mut self.turns, turns);
        let pairs = before.iter().zip(&self.turns).enumerate();
        let still = pairs.filter(|(_, (before, now))| before == now).map(|(index, _)| index);
        Beat::Due { still: still.collect() }
    }
}

/// What a [`Pulse`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It is not time yet.
    NotDue,
    /// Numbers of the loops that stand still.
    Due {
        /// None: the server lives.
        still: Vec<usize>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Notifier {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Notifier::from_environment(&pairs.collect(), 42)
    }

    #[test]
    fn messages_are_lines() {
        assert_eq!(message(&[("READY", "1"), ("STATUS", "a\nb")]), "READY=1\nSTATUS=a b");
    }

    #[test]
    fn reads_the_environment() {
        let (socket, usec) = (("NOTIFY_SOCKET", "@ringhorn-test-nobody"), "WATCHDOG_USEC");
        let pause = |pairs: &[(&str, &str)]| of(pairs).watchdog_pause();
        assert_eq!(pause(&[socket, (usec, "30000000")]), Some(Duration::from_secs(15)));
        let own = ("WATCHDOG_PID", "42");
        assert_eq!(pause(&[socket, (usec, "2"), own]), Some(Duration::from_micros(1)));
        assert_eq!(pause(&[socket, (usec, "2"), ("WATCHDOG_PID", "41")]), None);
        assert_eq!(pause(&[socket, (usec, "0")]), None);
        assert_eq!(pause(&[socket, (usec, "x")]), None);
        assert_eq!(pause(&[(usec, "2")]), None);
        for unfit in ["relative", "vsock:2:1234", ""] {
            assert!(of(&[("NOTIFY_SOCKET", unfit)]).target.is_none(), "{unfit}");
        }
    }

    #[test]
    fn tells_a_socket_and_nobody_once_silent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let mut notifier = of(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        let hear = || {
            let mut bytes = [0; 256];
            heard.recv(&mut bytes).ok().map(|count| String::from_utf8_lossy(&bytes[..count]).into())
        };
        notifier.main_process(7);
        assert_eq!(hear(), Some("MAINPID=7".to_owned()));
        notifier.fall_silent();
        notifier.ready("x");
        assert_eq!(hear(), None);
        notifier.speak();
        notifier.stopping(Duration::from_secs(2), "x");
        assert_eq!(hear(), Some("STOPPING=1\nEXTEND_TIMEOUT_USEC=2000000\nSTATUS=x".to_owned()));
    }

    #[test]
    fn a_pulse_names_loops_that_stand_still() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let notifier =
            of(&[("NOTIFY_SOCKET", "@ringhorn-test-nobody"), ("WATCHDOG_USEC", "2000000")]);
        let mut pulse = Pulse::new(&notifier, start);
        let mut beat = |at, turns: &[u64]| pulse.beat(at, Some(second), turns.to_vec());
        assert_eq!(beat(start, &[0, 0]), Beat::Due { still: vec![] });
        assert_eq!(beat(start + second / 2, &[1, 1]), Beat::NotDue);
        assert_eq!(beat(start + second, &[1, 1]), Beat::Due { still: vec![] });
        assert_eq!(beat(start + second * 2, &[1, 2]), Beat::Due { still: vec![0] });
        assert_eq!(beat(start + second * 3, &[2, 3]), Beat::Due { still: vec![] });
        assert_eq!(Pulse::new(&of(&[]), start).due(), None);
    }
}
