//! Receives that stay armed on kept connections.
//!
//! Stands at step 2 of the walk of a request. A kept connection asks for a receive behind each
//! response; armed anew each time, that costs an entry, a poll and its removal. Armed once, the
//! kernel answers each arrival with a completion of its own. The loop knows nothing of it: it asks,
//! and is answered once.
//!
//! ```text
//!   one-shot ──idle receive──▶ armed ──bytes, asked for──▶ armed
//!                                └──bytes not asked for──▶ held; ending ──▶ one-shot for ever
//! ```
//!
//! What comes before it was asked for (a body behind its head, a pipelined request) is held in its
//! buffer until the loop asks. Such a connection is better served by receives that are asked for,
//! which leave the bytes in the socket and read large bodies into their place: its multishot
//! receive is ended, and it gets none any more.
//!
//! Invariants:
//! - Held bytes lie in the buffers of a group of their own, so all connections together hold no
//!   more than that. When it is dry the kernel ends the receive, and one-shot ones go on with the
//!   other group.
//! - Nothing is received into the loop's memory while a multishot receive is armed: it could
//!   overtake.
//! - A completion of an earlier connection in the same slot is known by its generation.
//!
//! Only on kernels from 6.10 on: before 6.8 connections could starve each other (docs/io_uring.md).

use std::io;

use io_uring::cqueue;

use super::books::{Books, CANCELLED, ENDING, FollowUp, HELD, MULTI, OPEN, RECEIVING, SINGLE};
use super::buffers::ProvidedBuffers;
use crate::driver::{BufferId, Completion, Kind, Piece, Token};

/// Buffers of the group: about one batch of completions.
const BUFFERS: u16 = 64;
/// Size of one: a request head with its cookies, and little of what nobody asked for.
const BUFFER_BYTES: u32 = 4096;
/// What tells a buffer of this group from the other's, which has at most 2^15.
const OWN: u16 = 1 << 15;

/// Memory of the loop to receive into.
#[derive(Clone, Copy, Debug)]
pub(super) struct IntoPiece {
    pub(super) piece: Piece,
    pub(super) wait_all: bool,
}

/// What came before it was asked for.
#[derive(Debug)]
struct Held {
    token: Token,
    result: i32,
    buffer: Option<u16>,
    more: bool,
}

/// How a receive that was asked for is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    /// By what is armed or held already.
    IsArmed,
    /// By a receive of its own.
    Once,
    /// By a multishot receive, like those to come.
    Multi,
}

/// State of all multishot receives of a driver.
pub(super) struct Multishot {
    pub(super) buffers: ProvidedBuffers,
    is_known: bool,
    /// In order of arrival; few, since each connection comes here once.
    held: Vec<Held>,
    /// Receives into the loop's memory that wait for a multishot one to end.
    waiting: Vec<(Token, IntoPiece)>,
    /// Completions for the next turn, without waiting.
    pub(super) ready: Vec<Completion>,
}

impl Multishot {
    /// Maps the buffers; they are not touched where the kernel `is_known` not to do it well.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn create(is_known: bool) -> io::Result<Multishot> {
        let buffers = ProvidedBuffers::create(BUFFERS, BUFFER_BYTES)?;
        Ok(Multishot {
            buffers,
            is_known,
            held: Vec::new(),
            waiting: Vec::new(),
            ready: Vec::new(),
        })
    }

    /// Whether the kernel does it well.
    #[cfg(test)]
    pub(super) fn set_known(&mut self, is_known: bool) {
        self.is_known = is_known;
    }

    /// The number in this group of a buffer, if it is of this group.
    pub(super) fn own(buffer: BufferId) -> Option<u16> {
        (buffer.0 & OWN != 0).then_some(buffer.0 & !OWN)
    }

    /// Gives back what is held of a connection that is closed.
    pub(super) fn forget(&mut self, token: Token) {
        self.waiting.retain(|(waiting, _)| waiting.connection != token.connection);
        let buffers = &mut self.buffers;
        self.held.retain(|held| {
            let stays = held.token.connection != token.connection;
            if let Some(id) = held.buffer.filter(|_| !stays) {
                buffers.give_back(id);
            }
            stays
        });
    }

    /// Takes the first that is held of a connection; returns also whether it was the last.
    fn take_held(&mut self, token: Token) -> Option<(Held, bool)> {
        let is_its = |held: &Held| held.token.connection == token.connection;
        let at = self.held.iter().position(is_its)?;
        let held = self.held.remove(at);
        Some((held, !self.held.iter().any(is_its)))
    }
}

impl Books {
    /// How the receive that was just noted is answered; `idle`: nothing is expected soon.
    pub(super) fn how_to_receive(&mut self, token: Token, idle: bool) -> Receive {
        if self.slot(token).flags & HELD != 0 {
            self.answer_with_held(token);
            return Receive::IsArmed;
        }
        let flags = self.slot(token).flags;
        if flags & MULTI != 0 {
            return Receive::IsArmed;
        }
        let has_room = self.multi.buffers.free() > usize::from(BUFFERS / 2);
        if !idle || flags & SINGLE != 0 || !self.multi.is_known || !has_room {
            return Receive::Once;
        }
        self.slot(token).flags |= MULTI;
        self.counters.multishots += 1;
        Receive::Multi
    }

    /// Whether the receive into memory that was just noted can go to the kernel. If not, it is
    /// answered with what is held, or waits for the end of a multishot receive, which the caller
    /// brings about.
    ///
    /// # Safety
    /// The piece is valid for writes, and nobody reads it, until the receive's completion.
    pub(super) unsafe fn can_receive_into(&mut self, token: Token, into: IntoPiece) -> bool {
        let flags = self.slot(token).flags;
        if flags & (HELD | MULTI) == 0 {
            return true;
        }
        self.multi.waiting.push((token, into));
        self.slot(token).flags |= SINGLE;
        if flags & HELD != 0 {
            self.answer_with_held(token);
        }
        false
    }

    /// Whether a multishot receive is armed that must end before the connection closes.
    pub(super) fn multi_must_end(&mut self, token: Token) -> bool {
        let slot = self.slot(token);
        let must_end = slot.flags & (MULTI | ENDING) == MULTI;
        if must_end {
            slot.flags |= ENDING;
        }
        must_end
    }

    /// The kernel answered a multishot receive.
    pub(super) fn multi_done(
        &mut self,
        token: Token,
        mut result: i32,
        flags: u32,
    ) -> Option<Completion> {
        let mut buffer = cqueue::buffer_select(flags);
        if let Some(id) = buffer
            && !self.multi.buffers.take(id)
        {
            // As for one-shot receives: a buffer that the kernel was not given.
            self.counters.unknown += 1;
            (buffer, result) = (None, -libc::EIO);
        }
        let slot = self.slot(token);
        let is_current = slot.flags & (OPEN | MULTI) == OPEN | MULTI;
        if !is_current || slot.generation != token.generation || result <= 0 {
            // Of a connection that is closed, or a buffer with nothing in it.
            if let Some(id) = buffer.take() {
                self.multi.buffers.give_back(id);
            }
        }
        let slot = self.slot(token);
        if !is_current || slot.generation != token.generation {
            return None;
        }
        if !cqueue::more(flags) {
            slot.flags &= !(MULTI | ENDING);
        }
        let (is_asked, is_cancelled) = (slot.flags & RECEIVING != 0, slot.flags & CANCELLED != 0);
        if result == -libc::ENOBUFS && is_cancelled {
            // It is not repeated behind the loop's back: the cancel may have been carried out.
            result = -libc::ECANCELED;
        }
        let is_ended_by_us = result == -libc::ECANCELED && !is_cancelled;
        if is_ended_by_us || result == -libc::ENOBUFS {
            self.multi_ended(token, result);
            return None;
        }
        let held = Held { token, result, buffer, more: result > 0 && cqueue::sock_nonempty(flags) };
        if is_asked {
            return Some(self.answer(held));
        }
        if result != -libc::ECANCELED {
            self.hold(held);
        }
        None
    }

    /// A multishot receive ended although the connection lives: whoever asked is answered by
    /// another receive.
    fn multi_ended(&mut self, token: Token, result: i32) {
        if result == -libc::ENOBUFS {
            // Of use to later ones: this connection goes on without.
            self.multi.buffers.grow();
        }
        if self.slot(token).flags & RECEIVING == 0 {
            return;
        }
        let waits = |(waiting, _): &(Token, IntoPiece)| *waiting == token;
        match self.multi.waiting.iter().position(waits) {
            Some(at) => {
                let (token, into) = self.multi.waiting.swap_remove(at);
                self.follow_ups.push(FollowUp::RecvInto(token, into));
            }
            None => self.follow_ups.push(FollowUp::Recv(token)),
        }
    }

    fn hold(&mut self, held: Held) {
        let token = held.token;
        self.counters.receives_held += 1;
        self.multi.held.push(held);
        self.slot(token).flags |= HELD | SINGLE;
        if self.multi_must_end(token) {
            self.follow_ups.push(FollowUp::EndMulti(token));
        }
    }

    /// Answers the receive that was asked for with the first that is held.
    fn answer_with_held(&mut self, token: Token) {
        let Some((held, was_last)) = self.multi.take_held(token) else { return };
        if was_last {
            self.slot(token).flags &= !HELD;
        }
        let completion = self.answer(held);
        self.multi.ready.push(completion);
    }

    /// The completion of a receive: with its buffer, or with the bytes where the loop wanted them.
    fn answer(&mut self, held: Held) -> Completion {
        let Held { token, mut result, buffer, more } = held;
        self.slot(token).flags &= !RECEIVING;
        let mut buffer_for_loop = buffer.map(|id| BufferId(id | OWN));
        let waits = |(waiting, _): &(Token, IntoPiece)| *waiting == token;
        if let Some(at) = self.multi.waiting.iter().position(waits) {
            let (_, into) = self.multi.waiting.swap_remove(at);
            if let (Some(id), true) = (buffer, result > 0) {
                // SAFETY: whoever asked for this receive keeps the piece valid and unread until its
                // completion, which is made here.
                let moved =
                    unsafe { self.multi.buffers.move_out(id, result as usize, into.piece) as i32 };
                self.keep_rest(Held { token, result: result - moved, buffer, more });
                result = moved;
            }
            buffer_for_loop = None;
        }
        Completion { token, kind: Kind::Received, result, buffer: buffer_for_loop, more }
    }

    /// What did not fit where the loop wanted it comes before everything else that is held.
    fn keep_rest(&mut self, rest: Held) {
        if rest.result > 0 {
            self.slot(rest.token).flags |= HELD;
            self.multi.held.insert(0, rest);
        } else if let Some(id) = rest.buffer {
            self.multi.buffers.give_back(id);
        }
    }
}
