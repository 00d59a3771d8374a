//! From intent to operation: the only file of the loop that asks the driver for I/O on a
//! connection, and the only one that hands memory to the kernel.
//!
//! Where it stands in the walk of a request: behind every decision, at the end of each completion's
//! handling; what is asked for here reaches the kernel with the turn's one `enter`.
//!
//! Invariants (what the SAFETY notes below rest on):
//! - Memory under an operation belongs to the connection's [`Extra`](crate::connection::Extra) or
//!   to a slot of the exchange. The connection's flags (`sending`, `receiving_body`, `spooling`)
//!   are set here with the operation and cleared only by its completion; while one is set, the
//!   memory it names is neither dropped nor grown (`State::let_go`, `State::drop_body`,
//!   `Table::retire`).
//! - A slot's ring is held by `LoopEnd::kernel_holds` from here to `kernel_released`.

use super::EventLoop;
use super::state::State;
use crate::connection::refusal::CONTINUE;
use crate::connection::{Intent, RingHold, Sending};
use crate::driver::{After, ConnectionIndex, Driver, Piece};
use std::os::fd::AsFd as _;

const NO_PIECE: Piece = Piece { pointer: std::ptr::null(), length: 0 };

impl<D: Driver> EventLoop<D> {
    /// Carries out everything that was decided.
    pub(super) fn carry_out(&mut self) {
        while let Some((index, intent)) = self.state.intents.pop_front() {
            self.carry_out_one(index, intent);
        }
    }

    fn carry_out_one(&mut self, index: ConnectionIndex, intent: Intent) {
        let token = self.state.table.token(index);
        match intent {
            Intent::Receive { idle } => self.receive(index, idle),
            Intent::ReceiveBody => self.receive_body(index),
            Intent::SendRing { bytes, close } => self.send_ring(index, bytes, close),
            Intent::SendBuffer => self.send_own_memory(index, Sending::Buffer),
            Intent::SendOwn(which) => self.send_own_memory(index, which),
            Intent::SpoolWrite => self.spool(index, true),
            Intent::SpoolRead => self.spool(index, false),
            Intent::Cancel => self.driver.cancel(token),
            Intent::ShutdownWrite => {
                self.state.table[index].shutting_down = true;
                self.driver.shutdown_write(token);
            }
            Intent::Close => self.driver.close(token),
            Intent::Reset => self.driver.reset(token),
        }
    }

    fn receive(&mut self, index: ConnectionIndex, idle: bool) {
        let token = self.state.table.token(index);
        let connection = &mut self.state.table[index];
        if connection.receiving || connection.is_closing() {
            return;
        }
        connection.receiving = true;
        self.driver.recv(token, idle);
    }

    fn receive_body(&mut self, index: ConnectionIndex) {
        let token = self.state.table.token(index);
        let window = self.state.body_window(index);
        let connection = &mut self.state.table[index];
        if connection.receiving || connection.is_closing() {
            return;
        }
        let Some(body) = connection.extra.as_mut().and_then(|extra| extra.body.as_mut()) else {
            return;
        };
        let left = usize::try_from(body.remaining().unwrap_or(0)).unwrap_or(usize::MAX);
        let bytes = left.min(window);
        if bytes == 0 {
            return;
        }
        body.memory.reserve(bytes);
        let spare = &mut body.memory.spare_capacity_mut()[..bytes];
        let into = Piece { pointer: spare.as_ptr().cast(), length: bytes };
        connection.receiving = true;
        connection.receiving_body = true;
        // SAFETY: `spare` is the body's own spare capacity. `receiving_body` keeps the vector from
        // being dropped or grown until the completion (module invariant).
        unsafe { self.driver.recv_into(token, into, true) };
    }

    fn send_ring(&mut self, index: ConnectionIndex, bytes: u32, close: bool) {
        let token = self.state.table.token(index);
        let Some((pool, connection, slot)) = self.state.ticket(index) else { return };
        // News can be heard twice in a turn, and both times say that there is something to send.
        if connection.sending != Sending::Nothing {
            return;
        }
        let mut pieces = pool
            .end
            .unsent(slot)
            .map(|piece| Piece { pointer: piece.pointer, length: piece.length });
        pieces[0].length = pieces[0].length.min(bytes as usize);
        pieces[1].length = pieces[1].length.min(bytes as usize - pieces[0].length);
        connection.sending = Sending::Ring;
        connection.send_bytes = (pieces[0].length + pieces[1].length) as u32;
        connection.ring_hold =
            connection.ticket.map(|ticket| RingHold { ticket, incarnation: pool.incarnation });
        pool.kernel_holds += 1;
        pool.end.kernel_holds(slot);
        let after = if close { After::Close } else { After::Keep };
        // SAFETY: the pieces lie in the slot's response ring, mapped for the loop's life; the slot
        // is not freed before `kernel_released`, which the completion calls (module invariant).
        unsafe { self.driver.send(token, pieces, after) };
    }

    fn send_own_memory(&mut self, index: ConnectionIndex, which: Sending) {
        let token = self.state.table.token(index);
        let connection = &mut self.state.table[index];
        if connection.sending != Sending::Nothing || connection.is_closing() {
            return;
        }
        let Some(extra) = connection.extra.as_ref() else { return };
        let bytes: &[u8] = match which {
            Sending::Continue => CONTINUE,
            Sending::Own => &extra.own,
            Sending::Buffer => extra.out.as_ref().map_or(&[], |out| &out.in_flight[out.gone..]),
            Sending::Nothing | Sending::Ring => &[],
        };
        if bytes.is_empty() {
            // Let go of since the intent.
            return;
        }
        let piece = Piece { pointer: bytes.as_ptr(), length: bytes.len() };
        connection.sending = which;
        connection.send_bytes = piece.length as u32;
        // SAFETY: a constant, or the connection's own vector, which `sending` keeps from being
        // dropped or grown until the completion (module invariant).
        unsafe { self.driver.send(token, [piece, NO_PIECE], After::Keep) };
    }

    fn spool(&mut self, index: ConnectionIndex, writes: bool) {
        let token = self.state.table.token(index);
        let connection = &mut self.state.table[index];
        let Some(body) = connection.extra.as_mut().and_then(|extra| extra.body.as_mut()) else {
            return;
        };
        let Some(spool) = body.spool.as_mut().filter(|_| !connection.spooling) else { return };
        connection.spooling = true;
        if writes {
            let from = Piece { pointer: body.memory.as_ptr(), length: body.memory.len() };
            // SAFETY: the body's memory; `spooling` keeps it until the completion (module
            // invariant).
            unsafe { self.driver.file_write(token, spool.file.as_fd(), from, spool.written) };
        } else {
            let bytes = State::spool_piece_bytes(spool.written - spool.read);
            body.spool_piece.clear();
            body.spool_piece.resize(bytes, 0);
            body.spool_consumed = bytes;
            let into = Piece { pointer: body.spool_piece.as_mut_ptr(), length: bytes };
            // SAFETY: as above, for the piece read back.
            unsafe { self.driver.file_read(token, spool.file.as_fd(), into, spool.read) };
        }
    }

    /// A receive straight into the body's memory ended with `bytes` bytes.
    pub(super) fn on_received_body(&mut self, index: ConnectionIndex, bytes: usize) {
        let connection = &mut self.state.table[index];
        let body = connection.extra.as_mut().and_then(|extra| extra.body.as_mut());
        if let Some(body) = body {
            let length = body.memory.len() + bytes;
            assert!(length <= body.memory.capacity(), "the kernel wrote no more than it was given");
            // SAFETY: the completed receive wrote the `bytes` bytes behind the vector's length,
            // within its capacity (asserted); the vector did not change meanwhile (module
            // invariant).
            unsafe { body.memory.set_len(length) };
            body.note_received(bytes as u64);
        }
        self.state.on_body_received(index, bytes);
    }
}
