//! Sockets to listen on: bound or inherited before any loop starts, their files removed at exit.
//!
//! Step 0 of the walk of a request. Loops share a listener (each holds a duplicate of its
//! descriptor), unless `--reuse-port` gives each loop its own on TCP.
//!
//! A server that follows a running one (USR2) takes over the sockets that both bind
//! (`handed_over.rs`), and hands its own on in the same way.
//!
//! Invariants: nothing listens before its mode and owner are set; socket files are taken over and
//! removed as `socket_file.rs` says.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::fault::{ExitCode, Fault};
use super::handed_over::{HandedOver, key, local_address};
use super::privileges::{Privileges, group_number, user_number};
use super::socket_file::{Attributes, Found, SocketFile, clear_stale};
use crate::config::activation::PassedSocket;
use crate::config::{Bind, Config, ConfigError, Endpoint, ListenerFacts, ListenerProtocol};
use crate::sys::descriptors;

/// Everything that the server listens on.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    facts: ListenerFacts,
    /// For the log: what a client would connect to.
    url: String,
    /// The endpoint as it was said, for a successor.
    said: String,
    /// One for all loops, or one each.
    sockets: Vec<Socket>,
    file: Option<SocketFile>,
}

impl Listeners {
    /// Binds all of them for so many loops, or takes them over from a running server; nothing
    /// stays bound after an error. Needs root's rights where the addresses or owners do.
    ///
    /// # Errors
    /// The first that cannot be bound, with what to do about it.
    pub fn bind(
        config: &Config,
        event_loops: u32,
        privileges: &Privileges,
        handed_over: &mut HandedOver,
    ) -> Result<Listeners, Fault> {
        warn_of_clipped_backlog(config.backlog);
        let mut maker = Maker { config, event_loops, privileges, handed_over, made: Vec::new() };
        for bind in &config.binds {
            maker.bind(bind)?;
        }
        let made = maker.made;
        // A successor is passed nothing: the numbers mean something else there.
        if !handed_over.is_upgrade() {
            warn_of_unused(config)?;
        }
        Ok(Listeners { listeners: made })
    }

    /// The sockets and what they are called, for a successor; the order is that of
    /// [`hand_on`](Listeners::hand_on).
    pub fn for_successor(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let sockets = self.listeners.iter().flat_map(|listener| {
            listener.sockets.iter().map(|socket| (listener.said.as_str(), socket.as_fd()))
        });
        sockets.collect()
    }

    /// A successor took these sockets: their files are no longer ours to remove. Returns whether
    /// it took them all.
    pub fn hand_on(&mut self, taken: &[usize]) -> bool {
        let mut first = 0;
        for listener in &mut self.listeners {
            let numbers = first..first + listener.sockets.len();
            first = numbers.end;
            let is_taken = taken.iter().any(|number| numbers.contains(number));
            if let Some(file) = listener.file.as_mut().filter(|_| is_taken) {
                file.hand_on();
            }
        }
        (0..first).all(|number| taken.contains(&number))
    }

    /// The running server has handed over: its socket files are ours now.
    pub fn take_files(&mut self) {
        self.listeners
            .iter_mut()
            .filter_map(|listener| listener.file.as_mut())
            .for_each(SocketFile::take);
    }

    /// What loops are told, in the order of [`of_loop`](Listeners::of_loop).
    pub fn facts(&self) -> Vec<ListenerFacts> {
        self.listeners.iter().map(|listener| listener.facts.clone()).collect()
    }

    /// Where clients connect to, for the log.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|listener| listener.url.as_str())
    }

    /// A loop's own descriptors.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn of_loop(&self, event_loop: u32) -> io::Result<Vec<OwnedFd>> {
        let of = |listener: &Listener| {
            let sockets = &listener.sockets;
            sockets[event_loop as usize % sockets.len()].try_clone().map(OwnedFd::from)
        };
        self.listeners.iter().map(of).collect()
    }

    /// Gives up the descriptors held here, so that the sockets close with the last loop; the files
    /// stay ours to remove.
    pub fn close(&mut self) {
        for listener in &mut self.listeners {
            listener.sockets.clear();
        }
    }
}

struct Maker<'a> {
    config: &'a Config,
    event_loops: u32,
    privileges: &'a Privileges,
    handed_over: &'a mut HandedOver,
    made: Vec<Listener>,
}

impl Maker<'_> {
    fn bind(&mut self, bind: &Bind) -> Result<(), Fault> {
        let sockets = self.handed_over.take_said(&bind.endpoint);
        if !sockets.is_empty() {
            return self.take_over(bind, sockets);
        }
        match &bind.endpoint {
            Endpoint::Tcp { host, port } => self.tcp(bind, host, *port),
            Endpoint::UnixPath(path) => {
                let listener = self.unix_path(bind, path)?;
                self.made.push(listener);
                Ok(())
            }
            Endpoint::UnixAbstract(name) => {
                let socket = UnixAddress::from_abstract_name(name)
                    .and_then(|_| unix_socket(&SockAddr::unix(format!("\0{name}"))?))
                    .map_err(|error| refusal(bind, &error))?;
                self.listen(&socket).map_err(|error| refusal(bind, &error))?;
                self.made.push(unix_listener(bind, socket, None));
                Ok(())
            }
            Endpoint::Descriptor(_) | Endpoint::Named(_) if self.handed_over.is_upgrade() => {
                Err(Fault::new(
                    ExitCode::Configuration,
                    format!("cannot listen on {bind}: the running server does not"),
                    "sockets of systemd come with a start: restart the service",
                ))
            }
            Endpoint::Descriptor(number) => {
                self.made.push(inherited(bind, *number)?);
                Ok(())
            }
            // Resolved to numbers with the configuration, which knows what was passed.
            Endpoint::Named(_) => Err(Fault::from(ConfigError::new(
                format!("cannot listen on {bind}: no socket of that name was passed"),
                "systemd passes sockets to the service of a socket unit",
            ))),
        }
    }

    /// Sockets of the running server, one listener an address.
    fn take_over(&mut self, bind: &Bind, sockets: Vec<Socket>) -> Result<(), Fault> {
        for socket in sockets {
            let mut listener = facts_of(bind, socket).map_err(|error| refusal(bind, &error))?;
            if let Endpoint::UnixPath(path) = &bind.endpoint {
                let file = SocketFile::at(path, self.attributes(bind)?);
                listener.file = Some(file.map_err(|error| refusal(bind, &error))?);
                listener.url = format!("{}://{}", bind.protocol, bind.endpoint);
            }
            if let Endpoint::Tcp { host, .. } = &bind.endpoint {
                listener.facts.server_name.clone_from(host);
            }
            // Sockets of one address (--reuse-port) go to a loop each. What exceeds the loops is
            // shared by all: connections wait in each of them.
            let room = self.event_loops as usize;
            let same = self.made.iter_mut().find(|other| {
                let address = other.sockets.first().and_then(local_address);
                address.is_some()
                    && address == local_address(&listener.sockets[0])
                    && other.sockets.len() < room
            });
            match same {
                Some(other) => other.sockets.append(&mut listener.sockets),
                None => self.made.push(listener),
            }
        }
        Ok(())
    }

    /// Every address that the name stands for: a client of `localhost` may try either family.
    fn tcp(&mut self, bind: &Bind, host: &str, port: u16) -> Result<(), Fault> {
        let addresses = (host, port).to_socket_addrs().map_err(|error| {
            let hint = "give an address of this machine, such as 127.0.0.1 or 0.0.0.0";
            Fault::new(ExitCode::Configuration, format!("cannot listen on {bind}: {error}"), hint)
        })?;
        let mut seen: Vec<SocketAddr> = Vec::new();
        for mut address in addresses {
            // The port that the kernel chose for the first is everybody's.
            if let (0, Some(first)) = (port, seen.first()) {
                address.set_port(first.port());
            }
            if seen.contains(&address) {
                continue;
            }
            let sockets = self.handed_over.take_bound(address);
            if !sockets.is_empty() {
                seen.push(address);
                self.take_over(bind, sockets)?;
                continue;
            }
            match self.tcp_listener(bind, host, address) {
                Ok((listener, actual)) => {
                    seen.push(actual);
                    self.made.push(listener);
                }
                // A name may stand for an address of a family that this host does not have.
                Err(error) if is_missing_family(&error) && !seen.is_empty() => {}
                Err(error) => return Err(refusal(bind, &error)),
            }
        }
        Ok(())
    }

    fn tcp_listener(
        &self,
        bind: &Bind,
        host: &str,
        mut address: SocketAddr,
    ) -> io::Result<(Listener, SocketAddr)> {
        let count = if self.config.reuse_port { self.event_loops } else { 1 };
        let mut sockets = Vec::new();
        for _ in 0..count {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(self.config.reuse_port)?;
            // Connections inherit it: a response leaves with its last send.
            socket.set_tcp_nodelay(true)?;
            socket.bind(&address.into())?;
            if let Some(actual) = socket.local_addr()?.as_socket() {
                address = actual;
            }
            self.listen(&socket)?;
            sockets.push(socket);
        }
        let facts = ListenerFacts {
            protocol: bind.protocol,
            is_unix: false,
            server_name: host.to_owned(),
            server_port: address.port().to_string(),
        };
        let url = format!("{}://{address}", bind.protocol);
        let said = key(&bind.endpoint);
        Ok((Listener { facts, url, said, sockets, file: None }, address))
    }

    fn unix_path(&self, bind: &Bind, path: &Path) -> Result<Listener, Fault> {
        let attributes = self.attributes(bind)?;
        let address = SockAddr::unix(path).map_err(|error| refusal(bind, &error))?;
        let socket = match unix_socket(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear(bind, path, &address)?;
                unix_socket(&address)
            }
            made => made,
        }
        .map_err(|error| refusal(bind, &error))?;
        let file = SocketFile::made(path, attributes).map_err(|error| refusal(bind, &error))?;
        self.listen(&socket).map_err(|error| refusal(bind, &error))?;
        Ok(unix_listener(bind, socket, Some(file)))
    }

    /// Mode and owner of a socket file: what was said of it, else who the server will run as.
    fn attributes(&self, bind: &Bind) -> Result<Attributes, Fault> {
        let place = format!("--bind {bind}");
        let user = bind.file.user.as_deref().map(|user| user_number(&place, user)).transpose()?;
        let group = bind.file.group.as_deref();
        let group = group.map(|group| group_number(&place, group)).transpose()?;
        let (uid, gid) = self.privileges.owner().unzip();
        Ok(Attributes { mode: bind.file.mode, uid: user.or(uid), gid: group.or(gid) })
    }

    fn listen(&self, socket: &Socket) -> io::Result<()> {
        // At most 65,535 (its row).
        socket.listen(self.config.backlog as i32)
    }
}

fn unix_socket(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(address)?;
    Ok(socket)
}

fn unix_listener(bind: &Bind, socket: Socket, file: Option<SocketFile>) -> Listener {
    Listener {
        facts: unix_facts(bind.protocol),
        url: format!("{}://{}", bind.protocol, bind.endpoint),
        said: key(&bind.endpoint),
        sockets: vec![socket],
        file,
    }
}

fn unix_facts(protocol: ListenerProtocol) -> ListenerFacts {
    ListenerFacts {
        protocol,
        is_unix: true,
        server_name: "localhost".to_owned(),
        server_port: "80".to_owned(),
    }
}

/// Takes over a listening socket that whoever started the server opened.
fn inherited(bind: &Bind, number: i32) -> Result<Listener, Fault> {
    let wrong = |what: String| {
        Fault::new(
            ExitCode::Configuration,
            format!("cannot listen on {bind}: {what}"),
            "the number is that of a listening stream socket which the server inherits (systemd: \
             from 3, with ListenStream= and without Accept=yes)",
        )
    };
    let socket =
        descriptors::duplicate_inherited(number).map_err(|error| wrong(error.to_string()))?;
    let listener =
        facts_of(bind, Socket::from(socket)).map_err(|error| wrong(error.to_string()))?;
    if number > 2 {
        // From here on it lives and closes with the duplicate.
        descriptors::replace_by_null(number).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(listener)
}

/// What an open socket says of itself.
fn facts_of(bind: &Bind, socket: Socket) -> io::Result<Listener> {
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::Error::other("it is no stream socket that listens"));
    }
    let address = socket.local_addr()?;
    let (facts, place) = match address.as_socket() {
        Some(address) => {
            socket.set_tcp_nodelay(true)?;
            let facts = ListenerFacts {
                protocol: bind.protocol,
                is_unix: false,
                server_name: address.ip().to_string(),
                server_port: address.port().to_string(),
            };
            (facts, address.to_string())
        }
        None => {
            let path = address.as_pathname().map(|path| path.display().to_string());
            (unix_facts(bind.protocol), format!("unix:{}", path.as_deref().unwrap_or("@")))
        }
    };
    let url = format!("{}://{place}", bind.protocol);
    let said = key(&bind.endpoint);
    Ok(Listener { facts, url, said, sockets: vec![socket], file: None })
}

/// Makes room at the path of a socket file.
fn clear(bind: &Bind, path: &Path, address: &SockAddr) -> Result<(), Fault> {
    match clear_stale(path, address) {
        Ok(Found::Stale) => Ok(()),
        Ok(Found::Live) => Err(in_use(bind)),
        Ok(Found::NoSocket) => Err(Fault::new(
            ExitCode::Configuration,
            format!("cannot listen on {bind}: {} exists and is no socket", path.display()),
            "choose another path, or remove the file",
        )),
        Err(error) => Err(refusal(bind, &error)),
    }
}

/// A socket that was passed and is not served keeps its clients waiting for ever: they are told.
fn warn_of_unused(config: &Config) -> Result<(), Fault> {
    let is_served = |socket: &&PassedSocket| {
        config.binds.iter().any(|bind| bind.endpoint == Endpoint::Descriptor(socket.number))
    };
    for socket in config.passed_sockets.iter().filter(|socket| !is_served(socket)) {
        let PassedSocket { number, name } = socket;
        tracing::warn!(
            "socket {number} (`{name}`) was passed, but no --bind takes it: fd://{number} would"
        );
        // Closed here; systemd holds it still.
        descriptors::replace_by_null(*number).map_err(|error| {
            let message = format!("socket {number} was passed, but cannot be closed: {error}");
            Fault::new(ExitCode::Runtime, message, "")
        })?;
    }
    Ok(())
}

fn is_missing_family(error: &io::Error) -> bool {
    /// `EAFNOSUPPORT` likewise.
    const MISSING_FAMILY: i32 = 97;
    error.raw_os_error() == Some(MISSING_FAMILY) || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn in_use(bind: &Bind) -> Fault {
    Fault::new(
        ExitCode::Configuration,
        format!("cannot listen on {bind}: another process listens there"),
        "stop it (`ss -ltnxp` names it) or choose another --bind",
    )
}

fn refusal(bind: &Bind, error: &io::Error) -> Fault {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => return in_use(bind),
        io::ErrorKind::PermissionDenied => match &bind.endpoint {
            Endpoint::Tcp { .. } => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one"
            }
            _ => "check who may write to the folder, or choose another",
        },
        io::ErrorKind::NotFound => "create the folder first",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 0.0.0.0 is every one it has"
        }
        _ => "choose another --bind",
    };
    Fault::new(ExitCode::Configuration, format!("cannot listen on {bind}: {error}"), hint)
}

/// The kernel clips silently; a clipped backlog shows as refused connections under a burst.
fn warn_of_clipped_backlog(backlog: u32) {
    // Missing where /proc is: then nothing is known, and nothing to warn of.
    let Ok(text) = fs::read_to_string("/proc/sys/net/core/somaxconn") else { return };
    if let Some(most) = text.trim().parse::<u32>().ok().filter(|most| *most < backlog) {
        tracing::warn!(
            "--backlog {backlog} is clipped to {most}: raise the sysctl net.core.somaxconn"
        );
    }
}

#[cfg(test)]
mod tests;
