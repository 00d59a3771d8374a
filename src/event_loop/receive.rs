//! Received bytes: a head, a body, what is pipelined behind them, or nothing any more.
//!
//! Where it stands in the walk of a request: second, behind the accept. Bytes are parsed where the
//! driver put them and copied only when a request is not whole in them.
//!
//! Invariants: what a connection received and did not consume lies in its stash, and while any does
//! no receive is armed; so a client can make the loop hold one provided buffer's worth beyond a
//! head.

use super::state::State;
use crate::connection::{Intent, Phase, Sending};
use crate::driver::ConnectionIndex;
use crate::http::Rejection;
use crate::protocol::{Parsed, http1, uwsgi};

/// Bytes dropped at most in a drain before the close; a client that sends more is cut.
const DRAIN_BYTES_MAX: u32 = 1 << 20;

impl State {
    /// Bytes arrived in a provided buffer.
    pub fn on_bytes(&mut self, index: ConnectionIndex, bytes: &[u8]) {
        match self.table[index].phase {
            Phase::Head => {
                self.keep_from_idle_close(index);
                self.on_head_bytes(index, bytes);
            }
            Phase::Body => self.on_body_bytes(index, bytes),
            Phase::Reply if !self.table[index].is_request_read() => {
                self.on_body_bytes(index, bytes);
            }
            // Pipelined behind the request in flight, or the watch on a waiting client heard it.
            Phase::Reply => self.table[index].extra().stash.extend_from_slice(bytes),
            Phase::Drain => self.on_drained(index, bytes.len()),
            // Pipelined behind a health answer.
            Phase::OwnReply if self.table[index].keep_alive => {
                self.table[index].extra().stash.extend_from_slice(bytes);
            }
            Phase::OwnReply => self.intend(index, Intent::Receive { idle: true }),
            Phase::Close | Phase::Free | Phase::Accept => self.step_close(index),
        }
    }

    fn on_head_bytes(&mut self, index: ConnectionIndex, bytes: &[u8]) {
        if self.table[index].stashed() == 0 {
            let consumed = self.serve(index, bytes);
            self.keep_rest(index, &bytes[consumed..]);
        } else {
            self.table[index].extra().stash.extend_from_slice(bytes);
            self.serve_stash(index);
        }
    }

    /// Serves the next request from the stash (a head that came in pieces, or pipelined ones).
    pub fn serve_stash(&mut self, index: ConnectionIndex) {
        if self.table[index].phase != Phase::Head {
            return;
        }
        let mut stash = std::mem::take(&mut self.table[index].extra().stash);
        let consumed = self.serve(index, &stash);
        if self.is_keeping_input(index) && consumed < stash.len() {
            stash.drain(..consumed);
            self.table[index].extra().stash = stash;
            self.account_for_stash(index);
        }
        self.watch(index);
    }

    fn keep_rest(&mut self, index: ConnectionIndex, rest: &[u8]) {
        if !rest.is_empty() && self.is_keeping_input(index) {
            self.table[index].extra().stash.extend_from_slice(rest);
            self.account_for_stash(index);
        }
        self.watch(index);
    }

    /// Bytes kept count against the bound of all buffers, a partial head's too.
    fn account_for_stash(&mut self, index: ConnectionIndex) {
        let bytes = self.table[index].stashed() as u64;
        if !self.hold_memory(index, bytes) && self.table[index].phase == Phase::Head {
            self.overloaded(index, "partial requests fill --buffer-memory-max");
        }
    }

    fn is_keeping_input(&self, index: ConnectionIndex) -> bool {
        match self.table[index].phase {
            Phase::Head | Phase::Body | Phase::Reply => true,
            Phase::OwnReply => self.table[index].keep_alive,
            Phase::Free | Phase::Accept | Phase::Drain | Phase::Close => false,
        }
    }

    /// Parses one request at the front of `input`; returns how many bytes were consumed.
    fn serve(&mut self, index: ConnectionIndex, input: &[u8]) -> usize {
        if self.is_uwsgi(index) {
            self.serve_uwsgi(index, input)
        } else {
            self.serve_http(index, input)
        }
    }

    fn serve_http(&mut self, index: ConnectionIndex, input: &[u8]) -> usize {
        let limits = self.head_limits();
        let mut scan = self.table[index].scan;
        let mut fields = http1::FieldTable::new();
        match http1::parse_head(input, &mut scan, &limits, &mut fields) {
            Parsed::Head(head) => {
                self.table[index].scan = http1::HeadScan::default();
                self.on_http_head(index, &head, input)
            }
            Parsed::Partial => {
                self.table[index].scan = scan;
                self.on_partial_head(index)
            }
            Parsed::Reject(rejection) => self.on_malformed(index, input, rejection),
        }
    }

    fn serve_uwsgi(&mut self, index: ConnectionIndex, input: &[u8]) -> usize {
        match uwsgi::parse_packet(input) {
            Parsed::Head(packet) => self.on_uwsgi_packet(index, &packet, input),
            Parsed::Partial => self.on_partial_head(index),
            Parsed::Reject(rejection) => self.on_malformed(index, input, rejection),
        }
    }

    fn on_partial_head(&mut self, index: ConnectionIndex) -> usize {
        // The whole head has one deadline, from its first byte: a slow drip does not renew it.
        if !self.table[index].is_head_begun {
            self.table[index].is_head_begun = true;
            self.set_deadline(index, self.settings.header_timeout);
        }
        self.intend(index, Intent::Receive { idle: false });
        0
    }

    fn on_malformed(&mut self, index: ConnectionIndex, input: &[u8], why: Rejection) -> usize {
        self.counters.malformed.add(1);
        if why.is_silent() {
            // No request of this protocol: its sender could not read an answer either.
            let modifier = input.first().copied().unwrap_or_default();
            self.incident(format!(
                "connection closed without an answer: {} (modifier1 {modifier})",
                why.reason
            ));
            self.table[index].linger = true;
            self.begin_close(index);
        } else {
            self.refuse(index, why);
        }
        input.len()
    }

    /// Keeps an ear on a client whose request is in the exchange: the receive for its next request
    /// is armed now, and hears if it leaves.
    pub fn watch(&mut self, index: ConnectionIndex) {
        let connection = &self.table[index];
        let is_wanted = connection.phase == Phase::Reply
            && connection.keep_alive
            && !connection.receiving
            && !connection.peer_finished
            && connection.stashed() == 0
            && connection.is_request_read();
        if is_wanted {
            self.intend(index, Intent::Receive { idle: true });
        }
    }

    /// The peer finished sending.
    pub fn on_end_of_input(&mut self, index: ConnectionIndex) {
        self.table[index].peer_finished = true;
        match self.table[index].phase {
            Phase::Body => self.on_body_cut_short(index),
            Phase::Reply => self.on_client_finished(index),
            // Its answer is on its way; the close follows.
            Phase::OwnReply => {}
            Phase::Head if self.table[index].stashed() > 0 => {
                self.counters.malformed.add(1);
                self.refuse(index, HEAD_CUT_SHORT);
            }
            Phase::Head | Phase::Drain | Phase::Accept | Phase::Close | Phase::Free => {
                self.table[index].linger = false;
                self.begin_close(index);
            }
        }
    }

    /// The connection is broken: nothing can be sent any more.
    pub fn on_reset(&mut self, index: ConnectionIndex) {
        let connection = &mut self.table[index];
        connection.peer_finished = true;
        connection.gone = true;
        if connection.ticket.is_some() || connection.phase == Phase::Reply {
            self.give_up(index, "client-closed");
        } else {
            self.begin_close(index);
        }
    }

    /// Bytes of a client that is still sending were dropped.
    pub fn on_drained(&mut self, index: ConnectionIndex, bytes: usize) {
        let connection = &mut self.table[index];
        connection.drained_bytes = connection.drained_bytes.saturating_add(bytes as u32);
        if connection.drained_bytes > DRAIN_BYTES_MAX {
            connection.linger = false;
            self.begin_close(index);
        } else {
            self.intend(index, Intent::Receive { idle: true });
        }
    }

    /// A receive or send was cancelled, as asked.
    pub fn on_cancelled(&mut self, index: ConnectionIndex) {
        match self.table[index].phase {
            Phase::Close => self.step_close(index),
            // The body's deadline cancelled a receive that had brought nothing.
            Phase::Body => self.refuse(index, BODY_TIMEOUT),
            // A cancel is for everything armed: that of a slow send took the receive with it.
            Phase::Reply if !self.table[index].is_request_read() => {
                if self.is_body_unwanted(index) {
                    return;
                }
                if self.body(index).is_some_and(|body| body.is_late) {
                    self.break_body(index);
                } else {
                    self.feed(index);
                }
            }
            Phase::Reply => self.watch(index),
            Phase::Head if self.table[index].cancelling => self.step_idle_close(index),
            Phase::Head | Phase::Drain => self.intend(index, Intent::Receive { idle: true }),
            Phase::OwnReply | Phase::Accept | Phase::Free => {}
        }
    }

    /// Takes up connections whose receive found no provided buffer, as far as there are some now.
    pub fn feed_starving(&mut self, buffers_free: usize) {
        for _ in 0..buffers_free.min(self.starving.len()) {
            let Some(index) = self.starving.pop_front() else { return };
            let connection = &self.table[index];
            // Beside a last send, whose close is linked, nothing may be armed; behind any other
            // the reply asks for what it needs.
            let is_waiting = !connection.receiving
                && !connection.spooling
                && !matches!(connection.sending, Sending::Own | Sending::Ring)
                && !matches!(connection.phase, Phase::Free | Phase::Close | Phase::Accept);
            if is_waiting {
                // Polling first cannot run dry again while the socket is empty.
                self.intend(index, Intent::Receive { idle: true });
            }
        }
    }

    fn head_limits(&self) -> http1::HeadLimits {
        let limits = self.settings.head_limits;
        http1::HeadLimits {
            request_line_bytes: limits.line_bytes as usize,
            fields: limits.fields as usize,
            field_bytes: limits.field_bytes as usize,
            head_bytes: limits.head_bytes as usize,
        }
    }

    /// See [`State::head_limits`]; for the second parse of a gathered request's head.
    pub fn head_limits_again(&self) -> http1::HeadLimits {
        self.head_limits()
    }
}

const HEAD_CUT_SHORT: Rejection =
    Rejection { status: 400, reason: "the connection ended inside a request head" };

/// The body's bytes stopped coming (`--body-timeout`).
pub const BODY_TIMEOUT: Rejection =
    Rejection { status: 408, reason: "the request body stopped coming (--body-timeout)" };
