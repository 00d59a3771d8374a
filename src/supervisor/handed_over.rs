//! Listening sockets that a running server handed to its successor (USR2).
//!
//! Step 0 of the walk of a request, for `listeners.rs`: a `--bind` that the running server has too
//! gets its socket, with all connections that wait in it.
//!
//! A socket is known by the endpoint as it was said (so that port 0 and names mean the same one
//! again) and by its address. Invariant: each is given out once, and its number in the hand-over
//! remembered, since the running server removes the files of those that nobody took.

use std::net::SocketAddr;

use socket2::Socket;

use crate::config::Endpoint;

/// See the module.
#[derive(Debug, Default)]
pub struct HandedOver {
    sockets: Vec<Handed>,
    /// There is a running server, whether or not it handed over any socket.
    is_upgrade: bool,
    taken: Vec<usize>,
}

#[derive(Debug)]
struct Handed {
    /// Its number in the hand-over.
    index: usize,
    said: String,
    socket: Socket,
}

impl HandedOver {
    /// What came with a hand-over, in its order: endpoint as said, socket.
    pub fn new(sockets: impl IntoIterator<Item = (String, Socket)>) -> HandedOver {
        let handed = |(index, (said, socket))| Handed { index, said, socket };
        let sockets = sockets.into_iter().enumerate().map(handed).collect();
        HandedOver { sockets, is_upgrade: true, taken: Vec::new() }
    }

    /// Whether a running server is being followed: then no number of a descriptor means anything.
    pub fn is_upgrade(&self) -> bool {
        self.is_upgrade
    }

    /// The sockets of an endpoint, said as now.
    pub fn take_said(&mut self, endpoint: &Endpoint) -> Vec<Socket> {
        let said = key(endpoint);
        self.take(|handed| handed.said == said)
    }

    /// The sockets bound to an address, whatever was said then.
    pub fn take_bound(&mut self, address: SocketAddr) -> Vec<Socket> {
        self.take(|handed| local_address(&handed.socket) == Some(address))
    }

    /// Numbers of those that were given out.
    pub fn taken(&self) -> &[usize] {
        &self.taken
    }

    fn take(&mut self, is_wanted: impl Fn(&Handed) -> bool) -> Vec<Socket> {
        let (wanted, left) = std::mem::take(&mut self.sockets).into_iter().partition(is_wanted);
        self.sockets = left;
        let wanted: Vec<Handed> = wanted;
        self.taken.extend(wanted.iter().map(|handed| handed.index));
        wanted.into_iter().map(|handed| handed.socket).collect()
    }
}

/// How a hand-over calls an endpoint: as it was said, on one line.
pub fn key(endpoint: &Endpoint) -> String {
    endpoint.to_string().replace(['\n', '\0'], "\u{fffd}")
}

/// The address of an internet socket.
pub fn local_address(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok().and_then(|address| address.as_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};

    fn bound() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = local_address(&socket).unwrap();
        (socket, address)
    }

    #[test]
    fn each_is_taken_once_by_what_was_said_or_by_its_address() {
        let endpoint = |host: &str| Endpoint::Tcp { host: host.to_owned(), port: 0 };
        let ((first, _), (second, _), (third, address)) = (bound(), bound(), bound());
        let sockets = [("localhost:0", first), ("127.0.0.1:0", second), ("127.0.0.1:0", third)];
        let sockets = sockets.map(|(said, socket)| (said.to_owned(), socket));
        let mut handed = HandedOver::new(sockets);
        assert!(handed.is_upgrade() && !HandedOver::default().is_upgrade());
        assert_eq!(handed.take_said(&endpoint("example.org")).len(), 0);
        assert_eq!(handed.take_bound(address).len(), 1);
        assert_eq!(handed.take_said(&endpoint("127.0.0.1")).len(), 1);
        assert_eq!(handed.take_said(&endpoint("127.0.0.1")).len(), 0);
        assert_eq!(handed.taken(), [2, 1]);
    }

    #[test]
    fn a_key_is_one_line() {
        assert_eq!(key(&Endpoint::UnixPath("/a\nb".into())), "unix:/a\u{fffd}b");
    }
}
