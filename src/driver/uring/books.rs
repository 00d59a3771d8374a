//! What the driver knows of each connection, and how a kernel completion becomes one of the
//! trait's.
//!
//! Stands between the ring and the loop: `mod.rs` notes here what it asked the kernel for,
//! `translate` notes what came back. No system call is made here.
//!
//! Invariants:
//! - At most one receive and one send are armed on a connection; a close is armed alone. A loop
//!   that breaks this is stopped by an assertion, because the kernel would mix up clients.
//! - A slot is free (all flags clear) before an accept is armed into it: the kernel would silently
//!   replace and close what occupies it.
//! - The failed send before a linked close is kept until the close has come: one `Closed` for both.

use std::net::SocketAddr;

use io_uring::cqueue;

use super::buffers::ProvidedBuffers;
use super::multishot::{IntoPiece, Multishot};
use super::pinned::{PeerAddress, PinnedPool, SendHeader};
use super::user_data::{Operation, Tag};
use crate::driver::{BufferId, Completion, ConnectionIndex, Counters, Kind, Token};

/// State of every connection slot, and what belongs to operations in flight.
pub(super) struct Books {
    slots: Box<[Slot]>,
    pub(super) buffers: ProvidedBuffers,
    pub(super) multi: Multishot,
    pub(super) headers: PinnedPool<SendHeader>,
    pub(super) addresses: PinnedPool<PeerAddress>,
    /// Peers of accepts returned by the last turn: connection and its address record.
    fresh_peers: Vec<(ConnectionIndex, u32)>,
    pub(super) counters: Counters,
    /// Operations the driver itself asks for, found while completions were translated.
    pub(super) follow_ups: Vec<FollowUp>,
    pub(super) bell_is_armed: bool,
}

/// An operation the driver repeats without telling the loop.
#[derive(Clone, Copy, Debug)]
pub(super) enum FollowUp {
    /// The ring of buffers was dry and has been filled since.
    Recv(Token),
    /// The linked close was thrown away with its chain.
    Close(Token),
    /// The cancel came before the kernel had begun what it was to end.
    Cancel(Token),
    /// A multishot receive brought what nobody asked for.
    EndMulti(Token),
    /// The receive that waited for the end of a multishot one.
    RecvInto(Token, IntoPiece),
}

/// One connection.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) flags: u16,
    /// Of the connection that has the slot, as its operations carry it.
    pub(super) generation: u32,
    /// With SENDING: the bytes asked for, or the failure of the last send, which its close reports.
    outcome: i32,
    /// With ACCEPTING an address record, with SENDING a header, else NONE.
    record: u32,
}

const NONE: u32 = u32::MAX;
const FREE: Slot = Slot { flags: 0, generation: 0, outcome: 0, record: NONE };

/// An accept is armed into the slot.
const ACCEPTING: u16 = 1;
/// The slot holds a connection.
pub(super) const OPEN: u16 = 2;
/// The loop asked for a receive and was not answered yet.
pub(super) const RECEIVING: u16 = 4;
const SENDING: u16 = 8;
/// A close is armed, alone or behind the last send.
const CLOSING: u16 = 16;
/// The loop cancelled: a receive that found no buffer must not be repeated behind its back.
pub(super) const CANCELLED: u16 = 32;
/// A multishot receive is armed.
pub(super) const MULTI: u16 = 64;
/// Its cancel is on its way.
pub(super) const ENDING: u16 = 128;
/// This connection has sent what nobody asked for: it gets no multishot receive any more.
pub(super) const SINGLE: u16 = 256;
/// Something came before it was asked for, and is held.
pub(super) const HELD: u16 = 512;

impl Books {
    pub(super) fn new(connections: u32, buffers: ProvidedBuffers, multi: Multishot) -> Books {
        Books {
            slots: vec![FREE; connections as usize].into_boxed_slice(),
            buffers,
            multi,
            headers: PinnedPool::new(),
            addresses: PinnedPool::new(),
            fresh_peers: Vec::new(),
            counters: Counters::default(),
            follow_ups: Vec::new(),
            bell_is_armed: false,
        }
    }

    /// Gives up, without freeing it, all memory the kernel may know.
    pub(super) fn leak(&mut self) {
        self.buffers.leak();
        self.multi.buffers.leak();
        self.headers.leak();
        self.addresses.leak();
    }

    pub(super) fn connections(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Notes an accept and its linked receive; `with_address` hands out a record for the peer's
    /// address.
    pub(super) fn accept_armed(&mut self, token: Token, with_address: bool) -> Option<u32> {
        let record = with_address.then(|| self.addresses.take());
        let slot = self.slot(token);
        assert_eq!(slot.flags, 0, "accept into occupied slot {}", token.connection);
        slot.flags = ACCEPTING | RECEIVING;
        slot.generation = token.generation;
        slot.record = record.unwrap_or(NONE);
        record
    }

    pub(super) fn recv_armed(&mut self, token: Token) {
        let slot = self.slot(token);
        let armed = slot.flags & (OPEN | RECEIVING | CLOSING);
        assert_eq!(armed, OPEN, "receive on connection {} in the wrong state", token.connection);
        slot.flags = (slot.flags | RECEIVING) & !CANCELLED;
    }

    /// Notes a send; with `last`, that a close follows it and `bytes` were asked for.
    pub(super) fn send_armed(&mut self, token: Token, bytes: i32, last: bool) {
        let slot = self.slot(token);
        let forbidden = SENDING | CLOSING | if last { RECEIVING } else { 0 };
        let armed = slot.flags & (OPEN | forbidden);
        assert_eq!(armed, OPEN, "send on connection {} in the wrong state", token.connection);
        slot.flags = (slot.flags | SENDING | if last { CLOSING } else { 0 }) & !CANCELLED;
        slot.outcome = bytes;
    }

    /// Hands out a message header for the send just noted.
    pub(super) fn header_for(&mut self, token: Token) -> *mut SendHeader {
        let record = self.headers.take();
        self.slot(token).record = record;
        self.headers.address(record)
    }

    pub(super) fn close_armed(&mut self, token: Token) {
        let slot = self.slot(token);
        let armed = slot.flags & (OPEN | RECEIVING | SENDING | CLOSING);
        assert_eq!(armed, OPEN, "close of connection {} in the wrong state", token.connection);
        slot.flags |= CLOSING;
    }

    /// Notes a cancel. The connection may be closed already, by a completion that the loop was
    /// given but has not come to: then there is nothing to note.
    pub(super) fn cancel_armed(&mut self, token: Token) {
        let slot = self.slot(token);
        assert_eq!(slot.flags & ACCEPTING, 0, "cancel of accepting slot {}", token.connection);
        if slot.flags & OPEN != 0 {
            slot.flags |= CANCELLED;
        }
    }

    /// The peer of an accept that the last turn returned.
    pub(super) fn peer(&self, connection: ConnectionIndex) -> Option<SocketAddr> {
        let (_, record) = *self.fresh_peers.iter().find(|(fresh, _)| *fresh == connection)?;
        // SAFETY: the accept has completed, else it would not be among the fresh ones, and the
        // record is handed out again only after `forget_peers`.
        unsafe { PeerAddress::read(self.addresses.address(record)) }
    }

    /// Takes back the address records of the last turn's accepts.
    pub(super) fn forget_peers(&mut self) {
        for (_, record) in self.fresh_peers.drain(..) {
            self.addresses.give_back(record);
        }
    }

    /// Notes a completion of the kernel; `None` when it is none of the loop's business.
    pub(super) fn translate(&mut self, bits: u64, result: i32, flags: u32) -> Option<Completion> {
        self.counters.completed += 1;
        let tag =
            Tag::from_bits(bits).filter(|tag| (tag.token.connection as usize) < self.slots.len());
        let Some(tag) = tag else {
            self.counters.unknown += 1;
            return None;
        };
        let token = tag.token;
        let kind = match tag.operation {
            Operation::Accept => {
                self.accept_done(token, result);
                Kind::Accepted
            }
            Operation::Recv => return self.recv_done(token, result, flags),
            Operation::RecvMulti => return self.multi_done(token, result, flags),
            // It found nothing: the receive had ended by itself.
            Operation::EndMulti => return None,
            Operation::RecvInto => {
                self.slot(token).flags &= !RECEIVING;
                Kind::Received
            }
            Operation::Send => {
                self.send_done(token, result);
                self.slot(token).flags &= !SENDING;
                Kind::Sent
            }
            Operation::LastSend => {
                // Only a failure or a short send has a completion here. The close still runs.
                self.send_done(token, result);
                self.slot(token).outcome = result;
                return None;
            }
            Operation::LinkedClose => return self.linked_close_done(token, result),
            Operation::Linger => return None,
            Operation::Close if result == -libc::ECANCELED => {
                // The kernel refused the chain as a whole; the descriptor is still open.
                self.follow_ups.push(FollowUp::Close(token));
                return None;
            }
            Operation::Close => {
                self.counters.close_errors += u64::from(result < 0);
                self.set_free(token);
                Kind::Closed
            }
            Operation::Shutdown => Kind::ShutDown,
            Operation::Cancel if self.cancel_missed(token, result) => {
                self.follow_ups.push(FollowUp::Cancel(token));
                return None;
            }
            Operation::Cancel | Operation::CancelAccept => Kind::Cancelled,
            Operation::File => Kind::FileDone,
            Operation::Bell => {
                self.counters.bells += 1;
                self.bell_is_armed = cqueue::more(flags);
                Kind::Bell
            }
        };
        let more = kind == Kind::Received && result > 0 && cqueue::sock_nonempty(flags);
        Some(Completion { token, kind, result, buffer: None, more })
    }

    /// A cancel that found nothing although an operation is armed: the receive behind an accept is
    /// begun only by the enter after the one that returned the accept.
    fn cancel_missed(&mut self, token: Token, result: i32) -> bool {
        let flags = self.slot(token).flags;
        result <= 0 && flags & CANCELLED != 0 && flags & (RECEIVING | SENDING) != 0
    }

    fn accept_done(&mut self, token: Token, result: i32) {
        let slot = self.slot(token);
        let record = std::mem::replace(&mut slot.record, NONE);
        slot.flags &= !ACCEPTING;
        if result >= 0 {
            slot.flags |= OPEN;
        } else {
            self.counters.accept_errors += u64::from(result != -libc::ECANCELED);
        }
        if record == NONE {
            return;
        }
        if result >= 0 {
            self.fresh_peers.push((token.connection, record));
        } else {
            self.addresses.give_back(record);
        }
    }

    fn recv_done(&mut self, token: Token, mut result: i32, flags: u32) -> Option<Completion> {
        let mut buffer = None;
        if let Some(id) = cqueue::buffer_select(flags) {
            if !self.buffers.take(id) {
                // The kernel named a buffer it was not given: nothing read from it can be trusted.
                self.counters.unknown += 1;
                result = -libc::EIO;
            } else if result > 0 {
                buffer = Some(BufferId(id));
            } else {
                // The end of a stream may consume a buffer; there is nothing in it.
                self.buffers.give_back(id);
            }
        }
        if result == -libc::ENOBUFS {
            self.counters.buffers_exhausted += 1;
            let may_repeat = self.slot(token).flags & CANCELLED == 0;
            if may_repeat && self.buffers.grow() {
                self.counters.buffers_grown += 1;
                self.follow_ups.push(FollowUp::Recv(token));
                return None;
            }
        }
        self.slot(token).flags &= !RECEIVING;
        let more = result > 0 && cqueue::sock_nonempty(flags);
        Some(Completion { token, kind: Kind::Received, result, buffer, more })
    }

    /// A send ended: gives its header back and counts what did not go out whole.
    fn send_done(&mut self, token: Token, result: i32) {
        let slot = self.slot(token);
        let is_whole = result == slot.outcome;
        let record = std::mem::replace(&mut slot.record, NONE);
        if record != NONE {
            self.headers.give_back(record);
        }
        self.counters.send_errors += u64::from(!is_whole);
    }

    fn linked_close_done(&mut self, token: Token, result: i32) -> Option<Completion> {
        // Without a completion of its own the send went out whole; with one, this changes nothing.
        let outcome = self.slot(token).outcome;
        self.send_done(token, outcome);
        if result == -libc::ECANCELED {
            // The kernel refused the chain as a whole; the descriptor is still open.
            self.follow_ups.push(FollowUp::Close(token));
            return None;
        }
        self.counters.close_errors += u64::from(result < 0);
        self.set_free(token);
        Some(Completion { token, kind: Kind::Closed, result: outcome, buffer: None, more: false })
    }

    fn set_free(&mut self, token: Token) {
        if self.slot(token).flags & HELD != 0 {
            self.multi.forget(token);
        }
        *self.slot(token) = FREE;
    }

    pub(super) fn slot(&mut self, token: Token) -> &mut Slot {
        &mut self.slots[token.connection as usize]
    }
}
