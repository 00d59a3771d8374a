//! A scripted driver: the loop's operations against clients made of memory, with faults on demand.
//!
//! Stands where `uring/` stands, in tests only. A test makes a [`SimDriver`] for the loop and keeps
//! the [`Sim`]: it connects clients, lets them send, stall, vanish or reset, breaks what may break,
//! and looks at what came back. `world.rs` holds the state, `kernel.rs` executes operations as a
//! kernel would, `client.rs` is the test's side.
//!
//! Invariants:
//! - Deterministic: the same [`SimConfig`] and the same calls give the same completions. Time is
//!   virtual: it moves only when the loop waits and nothing comes, or when the test says so.
//! - A loop that breaks the trait's rules is stopped at the call that breaks them: two receives
//!   armed, a close beside an armed operation, a send on what is closed, a buffer given back twice,
//!   memory of a send changed before its completion. [`Sim::finish`] finds what was left behind.

mod client;
mod kernel;
mod world;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

pub use self::client::{Sim, SimClient};
use self::world::{Operation, World};
use super::{After, BufferId, Completion, ConnectionIndex, Counters, Driver, Piece, Token};
use crate::sys::eventfd::EventFd;

/// Sizes and faults of a simulated driver. Chances are out of 1,000.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Chooses every chance below; the same seed, the same run.
    pub seed: u64,
    /// Size of the table of connections.
    pub connections: u32,
    /// Receive buffers.
    pub buffers: u16,
    /// Size of one, in bytes.
    pub buffer_bytes: usize,
    /// Completions a turn returns at most.
    pub batch: usize,
    /// Chance that a receive takes only some of the bytes that are there.
    pub short_receives: u32,
    /// Chance that a receive that could be served finds no buffer.
    pub dry_buffers: u32,
    /// Chance that a turn returns nothing although completions are ready: an overflow that is
    /// flushed later, in a burst.
    pub late_turns: u32,
    /// Chance that an operation about to be cancelled completes instead.
    pub lost_cancels: u32,
    /// Completions of different connections come in any order (those of one keep theirs).
    pub is_shuffled: bool,
    /// Broken rules panic at the call; else they are kept for [`Sim::violations`].
    pub panics: bool,
}

impl SimConfig {
    /// No faults but those the test asks for.
    pub fn calm(connections: u32) -> SimConfig {
        SimConfig {
            seed: 1,
            connections,
            buffers: 16,
            buffer_bytes: 16 << 10,
            batch: 512,
            short_receives: 0,
            dry_buffers: 0,
            late_turns: 0,
            lost_cancels: 0,
            is_shuffled: false,
            panics: true,
        }
    }

    /// Every fault, chosen by the seed.
    pub fn stormy(connections: u32, seed: u64) -> SimConfig {
        SimConfig {
            seed,
            buffers: 4,
            batch: 7,
            short_receives: 500,
            dry_buffers: 100,
            late_turns: 200,
            lost_cancels: 500,
            is_shuffled: true,
            ..SimConfig::calm(connections)
        }
    }
}

/// The loop's end of a simulation.
pub struct SimDriver {
    world: Rc<RefCell<World>>,
    /// Memory of the receive buffers; what they are in use for is in the world.
    buffers: Vec<Vec<u8>>,
    /// A copy of the world's, so that a reference can be given out.
    counters: Counters,
}

impl SimDriver {
    /// A driver and the handle of the test that plays with it.
    pub fn new(config: SimConfig) -> (SimDriver, Sim) {
        let world = Rc::new(RefCell::new(World::new(config)));
        let buffers = vec![vec![POISON; config.buffer_bytes]; usize::from(config.buffers)];
        let driver = SimDriver { world: Rc::clone(&world), buffers, counters: Counters::default() };
        (driver, Sim::new(world))
    }

    fn ask(&mut self, operation: Operation) {
        self.world.borrow_mut().queue.push(operation);
    }
}

/// What a buffer holds while nobody should look at it.
const POISON: u8 = 0xdd;

impl Driver for SimDriver {
    fn add_listener(&mut self, _listener: BorrowedFd<'_>) -> io::Result<usize> {
        Ok(self.world.borrow_mut().add_listener())
    }

    fn remove_listener(&mut self, listener: usize) {
        self.world.borrow_mut().remove_listener(listener);
    }

    fn accept(&mut self, listener: usize, token: Token) {
        self.world.borrow_mut().check_accept(listener, token);
        self.ask(Operation::Accept { listener, token });
    }

    fn peer(&self, connection: ConnectionIndex) -> Option<SocketAddr> {
        self.world.borrow().peer(connection)
    }

    fn recv(&mut self, token: Token, poll_first: bool) {
        self.world.borrow_mut().check_recv(token);
        let tries_first = !poll_first;
        self.ask(Operation::Recv { token, into: None, wait_all: false, tries_first });
    }

    unsafe fn recv_into(&mut self, token: Token, into: Piece, wait_all: bool) {
        self.world.borrow_mut().check_recv(token);
        self.world.borrow_mut().check_piece(into, "a receive");
        self.ask(Operation::Recv { token, into: Some(into), wait_all, tries_first: false });
    }

    unsafe fn send(&mut self, token: Token, pieces: [Piece; 2], after: After) {
        let mut world = self.world.borrow_mut();
        world.check_send(token, after);
        for piece in pieces {
            world.check_memory(piece);
        }
        // SAFETY: the caller keeps the pieces valid until the completion.
        let checksum = unsafe { kernel::checksum(pieces) };
        world.queue.push(Operation::Send { token, pieces, after, checksum });
    }

    fn close(&mut self, token: Token) {
        self.world.borrow_mut().check_close(token);
        self.ask(Operation::Close { token });
    }

    fn reset(&mut self, token: Token) {
        self.close(token);
    }

    fn shutdown_write(&mut self, token: Token) {
        self.world.borrow_mut().check_shutdown(token);
        self.ask(Operation::Shutdown { token });
    }

    fn cancel(&mut self, token: Token) {
        self.world.borrow_mut().check_cancel(token);
        self.ask(Operation::Cancel { token });
    }

    fn cancel_accept(&mut self, token: Token) {
        self.ask(Operation::CancelAccept { token });
    }

    unsafe fn file_write(&mut self, token: Token, file: BorrowedFd<'_>, from: Piece, offset: u64) {
        self.world.borrow_mut().check_piece(from, "a file write");
        let file = file.try_clone_to_owned();
        self.ask(Operation::File { token, file, piece: from, offset, is_write: true });
    }

    unsafe fn file_read(&mut self, token: Token, file: BorrowedFd<'_>, into: Piece, offset: u64) {
        self.world.borrow_mut().check_piece(into, "a file read");
        let file = file.try_clone_to_owned();
        self.ask(Operation::File { token, file, piece: into, offset, is_write: false });
    }

    fn buffer(&self, buffer: BufferId, length: usize) -> &[u8] {
        self.world.borrow_mut().check_held(buffer, "read");
        &self.buffers[usize::from(buffer.0)][..length]
    }

    fn recycle(&mut self, buffer: BufferId) {
        self.world.borrow_mut().recycle(buffer);
        self.buffers[usize::from(buffer.0)].fill(POISON);
    }

    fn buffers_free(&self) -> usize {
        self.world.borrow().buffers_free()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn watch_bell(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.world.borrow_mut().bell = Some(EventFd::from(bell.try_clone_to_owned()?));
        Ok(())
    }

    fn has_more(&mut self) -> bool {
        self.world.borrow().has_more()
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.world.borrow().queue.is_empty()
    }

    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        let result = self.run_turn(wait, out);
        self.counters = self.world.borrow().counters;
        result
    }
}
