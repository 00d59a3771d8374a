//! Tests of the ring driver against the running kernel: real sockets through the trait.
//!
//! [`Loop`] is the least a loop does: turn, keep completions, recycle buffers. Every wait has a
//! deadline.

mod faults;
mod files_and_bell;
mod many;
mod multishot;
mod sockets;

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use super::{UringConfig, UringDriver};
use crate::driver::{After, Completion, Driver, Kind, Piece, Token};

/// A driver and the completions not asked for yet.
struct Loop {
    driver: UringDriver,
    seen: Vec<Completion>,
}

const PATIENCE: Duration = Duration::from_secs(10);
const EMPTY: Piece = Piece { pointer: std::ptr::null(), length: 0 };

impl Loop {
    fn new(config: &UringConfig) -> Loop {
        let driver = UringDriver::prepare(config).unwrap().enable().unwrap();
        Loop { driver, seen: Vec::new() }
    }

    fn small() -> Loop {
        Loop::new(&UringConfig::for_connections(16))
    }

    /// One turn that waits a little.
    fn turn(&mut self) {
        self.driver.turn(Some(Duration::from_millis(100)), &mut self.seen).unwrap();
    }

    /// One turn that does not wait.
    fn poll(&mut self) {
        self.driver.turn(Some(Duration::ZERO), &mut self.seen).unwrap();
    }

    fn take_seen(&mut self, kind: Kind, token: Token) -> Option<Completion> {
        let wanted = |c: &Completion| c.kind == kind && c.token == token;
        let index = self.seen.iter().position(wanted)?;
        Some(self.seen.remove(index))
    }

    /// Turns until this completion has come.
    fn wait(&mut self, kind: Kind, token: Token) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.take_seen(kind, token) {
                return completion;
            }
            assert!(Instant::now() < deadline, "no {kind:?} for {token:?}; seen: {:?}", self.seen);
            self.turn();
        }
    }

    /// The bytes of a receive into a provided buffer, which is given back.
    fn bytes(&mut self, received: Completion) -> Vec<u8> {
        assert!(received.result > 0, "{received:?}");
        let buffer = received.buffer.unwrap();
        let bytes = self.driver.buffer(buffer, received.result as usize).to_vec();
        self.driver.recycle(buffer);
        bytes
    }

    /// Sends static bytes.
    fn send(&mut self, token: Token, bytes: &'static [u8], after: After) {
        // SAFETY: static memory is valid for ever.
        unsafe { self.driver.send(token, [piece(bytes), EMPTY], after) }
    }

    /// Accepts one connection of a Unix listener and returns the client's end.
    fn connect(&mut self, host: &Host, listener: usize, token: Token) -> UnixStream {
        self.driver.accept(listener, token);
        self.poll();
        let client = host.connect();
        assert_eq!(self.wait(Kind::Accepted, token).result, 0);
        client
    }
}

/// A Unix listener on a temporary path.
struct Host {
    listener: UnixListener,
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        Host { listener, folder }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(self.folder.path().join("s")).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }
}

fn token(connection: u32) -> Token {
    Token { connection, generation: 7 }
}

fn piece(bytes: &[u8]) -> Piece {
    Piece { pointer: bytes.as_ptr(), length: bytes.len() }
}
