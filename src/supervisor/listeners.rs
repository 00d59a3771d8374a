//! Sockets to listen on: bound or inherited before any loop starts, their files removed at exit.
//!
//! Step 0 of the walk of a request. Loops share a listener (each holds a duplicate of its
//! descriptor), unless `--reuse-port` gives each loop its own on TCP.
//!
//! Invariants: nothing listens before its mode is set; a socket file is taken over only if nobody
//! answers there, and unlinked at exit only if it is still the one that was made here.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::fault::{ExitCode, Fault};
use crate::config::{Bind, Config, Endpoint, ListenerFacts, ListenerProtocol};
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
    /// One for all loops, or one each.
    sockets: Vec<Socket>,
    #[expect(dead_code, reason = "held for its drop")]
    file: Option<SocketFile>,
}

/// A socket file that was made here; unlinked at drop if it still is that one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listeners {
    /// Binds all of them for so many loops; nothing stays bound after an error.
    ///
    /// # Errors
    /// The first that cannot be bound, with what to do about it.
    pub fn bind(config: &Config, event_loops: u32) -> Result<Listeners, Fault> {
        warn_of_clipped_backlog(config.backlog);
        let maker = Maker { config, event_loops };
        let mut listeners = Vec::new();
        for bind in &config.binds {
            maker.bind(bind, &mut listeners)?;
        }
        Ok(Listeners { listeners })
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
}

impl Maker<'_> {
    fn bind(&self, bind: &Bind, made: &mut Vec<Listener>) -> Result<(), Fault> {
        match &bind.endpoint {
            Endpoint::Tcp { host, port } => self.tcp(bind, host, *port, made),
            Endpoint::UnixPath(path) => {
                self.unix_path(bind, path).map(|made_here| made.push(made_here))
            }
            Endpoint::UnixAbstract(name) => {
                let socket = UnixAddress::from_abstract_name(name)
                    .and_then(|_| unix_socket(&SockAddr::unix(format!("\0{name}"))?))
                    .map_err(|error| refusal(bind, &error))?;
                self.listen(&socket).map_err(|error| refusal(bind, &error))?;
                made.push(unix_listener(bind, socket, None));
                Ok(())
            }
            Endpoint::Descriptor(number) => {
                made.push(inherited(bind, *number)?);
                Ok(())
            }
        }
    }

    /// Every address that the name stands for: a client of `localhost` may try either family.
    fn tcp(
        &self,
        bind: &Bind,
        host: &str,
        port: u16,
        made: &mut Vec<Listener>,
    ) -> Result<(), Fault> {
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
            match self.tcp_listener(bind, host, address) {
                Ok((listener, actual)) => {
                    seen.push(actual);
                    made.push(listener);
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
        Ok((Listener { facts, url, sockets, file: None }, address))
    }

    fn unix_path(&self, bind: &Bind, path: &Path) -> Result<Listener, Fault> {
        let address = SockAddr::unix(path).map_err(|error| refusal(bind, &error))?;
        let socket = match unix_socket(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear_stale(bind, path, &address)?;
                unix_socket(&address)
            }
            made => made,
        }
        .map_err(|error| refusal(bind, &error))?;
        let finish = || -> io::Result<SocketFile> {
            let facts = fs::symlink_metadata(path)?;
            let file =
                SocketFile { path: path.to_owned(), device: facts.dev(), inode: facts.ino() };
            if let Some(mode) = bind.mode {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            self.listen(&socket)?;
            Ok(file)
        };
        let file = finish().map_err(|error| refusal(bind, &error))?;
        Ok(unix_listener(bind, socket, Some(file)))
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
            "the number is that of a listening stream socket which the server inherits (systemd: from 3)",
        )
    };
    let socket =
        descriptors::duplicate_inherited(number).map_err(|error| wrong(error.to_string()))?;
    let socket = Socket::from(socket);
    let is_stream = socket.r#type().map_err(|error| wrong(error.to_string()))? == Type::STREAM;
    if !is_stream || !socket.is_listener().map_err(|error| wrong(error.to_string()))? {
        return Err(wrong("it does not listen".to_owned()));
    }
    let address = socket.local_addr().map_err(|error| wrong(error.to_string()))?;
    if number > 2 {
        // From here on it lives and closes with the duplicate.
        descriptors::replace_by_null(number).map_err(|error| wrong(error.to_string()))?;
    }
    let (facts, place) = match address.as_socket() {
        Some(address) => {
            socket.set_tcp_nodelay(true).map_err(|error| wrong(error.to_string()))?;
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
    Ok(Listener { facts, url, sockets: vec![socket], file: None })
}

/// Removes a socket file at which nobody answers.
fn clear_stale(bind: &Bind, path: &Path, address: &SockAddr) -> Result<(), Fault> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket());
    if !is_socket {
        return Err(Fault::new(
            ExitCode::Configuration,
            format!("cannot listen on {bind}: {} exists and is no socket", path.display()),
            "choose another path, or remove the file",
        ));
    }
    match still_answers(address) {
        Ok(false) => {
            tracing::info!("taking over the stale socket file {}", path.display());
            fs::remove_file(path).map_err(|error| refusal(bind, &error))
        }
        Ok(true) => Err(in_use(bind)),
        Err(error) => Err(refusal(bind, &error)),
    }
}

/// Whether somebody goes on listening at a socket file: the kernel closes the sockets of a server
/// that was killed a moment after its process is gone (its rings are taken down first).
fn still_answers(address: &SockAddr) -> io::Result<bool> {
    for _ in 0..LAST_BREATH_TRIES {
        if !answers(address)? {
            return Ok(false);
        }
        std::thread::sleep(LAST_BREATH);
    }
    answers(address)
}

/// How often, and how long apart, a listener is looked at again before it is called live.
const LAST_BREATH_TRIES: u32 = 10;
const LAST_BREATH: Duration = Duration::from_millis(50);

/// Whether somebody listens at a socket file.
fn answers(address: &SockAddr) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog would make a blocking connect wait.
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        // A datagram or seqpacket socket of somebody else.
        Err(error) if error.raw_os_error() == Some(WRONG_TYPE) => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(true),
    }
}

/// `EPROTOTYPE` on every Linux but MIPS, SPARC, PA-RISC and Alpha, which have no worker module.
const WRONG_TYPE: i32 = 91;

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

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|facts| (facts.dev(), facts.ino()) == (self.device, self.inode));
        if !ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
