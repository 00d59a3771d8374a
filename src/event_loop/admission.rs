//! What becomes of a request head: refused, gathered, or handed to the exchange at once.
//!
//! Where it stands in the walk of a request: behind the codec, before `gather.rs` and
//! `dispatch.rs`.
//!
//! Invariants: every bound is tested here, before the request costs anything: body size (413),
//! requests in flight, buffer memory, spool space (503 with Retry-After). A refusal is sent whole
//! and its connection closed behind a bounded drain, so that the client reads it.

use super::dispatch::{BodyAtHand, Head};
use super::state::State;
use crate::connection::body::{BODY_TOO_LARGE, Body};
use crate::connection::refusal::{self, RefusalShape, write_refusal};
use crate::connection::{Intent, Phase, Sending};
use crate::driver::ConnectionIndex;
use crate::http::{BodyFraming, Rejection, Version};
use crate::protocol::{http1, uwsgi};

impl State {
    /// A whole HTTP head at the front of `input`; returns the bytes consumed.
    pub fn on_http_head(
        &mut self,
        index: ConnectionIndex,
        head: &http1::RequestHead<'_, '_>,
        input: &[u8],
    ) -> usize {
        let keeps = head.keep_alive && !self.settings.keep_alive_timeout.is_zero();
        let expects = head.expect_continue && head.version == Version::Http11;
        let draining = self.is_draining();
        let connection = &mut self.table[index];
        connection.keep_alive = keeps && !draining;
        connection.is_head_request = head.method == b"HEAD";
        let body = RequestBody { framing: head.framing, head_bytes: head.head_bytes, expects };
        self.on_head(index, &Head::Http(head), body, input)
    }

    /// A whole uwsgi packet at the front of `input`; returns the bytes consumed.
    pub fn on_uwsgi_packet(
        &mut self,
        index: ConnectionIndex,
        packet: &uwsgi::Packet<'_>,
        input: &[u8],
    ) -> usize {
        self.table[index].keep_alive = false;
        if packet.is_ping() {
            self.answer(index, &uwsgi::PONG);
            return input.len();
        }
        let head = match uwsgi::request_head(packet) {
            Ok(head) => head,
            Err(rejection) => {
                self.counters.malformed.add(1);
                self.refuse(index, rejection);
                return input.len();
            }
        };
        self.table[index].is_head_request = head.method == b"HEAD";
        let framing = match head.content_length {
            None | Some(0) => BodyFraming::Empty,
            Some(bytes) => BodyFraming::Length(bytes),
        };
        let body = RequestBody { framing, head_bytes: packet.consumed, expects: false };
        self.on_head(index, &Head::Uwsgi(packet, &head), body, input)
    }

    /// Decides by the body: none or whole at hand → the exchange; else it is gathered.
    fn on_head(
        &mut self,
        index: ConnectionIndex,
        head: &Head<'_>,
        body: RequestBody,
        input: &[u8],
    ) -> usize {
        self.wheel.clear(&mut self.table, index);
        self.table[index].is_head_begun = false;
        if let Some(answer) = self.health_answer(head) {
            return self.answer_health(index, head, body, answer, input.len());
        }
        self.capture(index, head);
        let rest = &input[body.head_bytes..];
        match body.framing {
            BodyFraming::Empty | BodyFraming::Length(0) => {
                self.dispatch(index, head, BodyAtHand::Whole(&[]));
                body.head_bytes
            }
            BodyFraming::Length(bytes) if self.is_too_large(bytes) => {
                self.refuse(index, BODY_TOO_LARGE);
                input.len()
            }
            BodyFraming::Length(bytes) if bytes <= rest.len() as u64 => {
                let bytes = bytes as usize;
                self.dispatch(index, head, BodyAtHand::Whole(&rest[..bytes]));
                body.head_bytes + bytes
            }
            BodyFraming::Length(_) | BodyFraming::Chunked => {
                body.head_bytes + self.begin_body(index, body, input)
            }
        }
    }

    fn is_too_large(&self, bytes: u64) -> bool {
        let max = self.settings.body_bytes_max;
        max != 0 && bytes > max
    }

    /// Starts to gather a body of which `input` holds the head and the first bytes; returns how
    /// many bytes behind the head it took.
    fn begin_body(&mut self, index: ConnectionIndex, body: RequestBody, input: &[u8]) -> usize {
        let (head, rest) = input.split_at(body.head_bytes);
        if self.inflight >= self.inflight_max {
            self.overloaded(index, "too many requests in flight (--max-inflight)");
            return rest.len();
        }
        if !self.hold_memory(index, (head.len() + rest.len()) as u64) {
            self.overloaded(index, "request bodies fill --buffer-memory-max");
            return rest.len();
        }
        if let BodyFraming::Length(bytes) = body.framing {
            let spools =
                bytes > self.settings.body_buffer_bytes && bytes <= self.settings.body_spool_bytes;
            if spools && !self.hold_disk(index, bytes) {
                self.overloaded(index, "request bodies fill --spool-disk-max");
                return rest.len();
            }
        }
        let connection = &mut self.table[index];
        connection.phase = Phase::Body;
        let extra = connection.extra();
        extra.head.extend_from_slice(head);
        extra.body = Some(Body::new(body.framing));
        if body.expects && rest.is_empty() {
            extra.own.extend_from_slice(refusal::CONTINUE);
            self.intend(index, Intent::SendOwn(Sending::Continue));
        }
        self.take_body(index, rest)
    }

    /// Refuses with 503: a bound was reached.
    pub fn overloaded(&mut self, index: ConnectionIndex, reason: &'static str) {
        self.counters.overloaded.add(1);
        self.refuse(index, refusal::overloaded(reason));
    }

    /// Answers with an error of the server's own and closes behind it.
    pub fn refuse(&mut self, index: ConnectionIndex, rejection: Rejection) {
        tracing::debug!(status = rejection.status, reason = rejection.reason, "request refused");
        self.leave_exchange(index);
        self.finish_access(index, rejection.status, Some(rejection.reason));
        let shape = RefusalShape {
            is_uwsgi: self.is_uwsgi(index),
            is_head: self.table[index].is_head_request,
        };
        let mut answer = Vec::with_capacity(256);
        write_refusal(&mut answer, rejection, shape, &[]);
        self.answer(index, &answer);
    }

    /// Sends bytes of the server's own, then drains and closes.
    pub fn answer(&mut self, index: ConnectionIndex, bytes: &[u8]) {
        self.let_go(index);
        let connection = &mut self.table[index];
        connection.keep_alive = false;
        connection.linger = true;
        let is_free = matches!(connection.sending, Sending::Nothing | Sending::Continue);
        if connection.gone || !is_free {
            // Bytes of another answer are on their way: a second one would corrupt it.
            connection.gone = true;
            self.begin_close(index);
            return;
        }
        connection.phase = Phase::OwnReply;
        connection.extra().own = bytes.to_vec();
        if connection.sending == Sending::Nothing {
            self.intend(index, Intent::SendOwn(Sending::Own));
        }
        self.set_deadline(index, self.settings.send_timeout);
    }
}

/// What a head says about its body.
#[derive(Clone, Copy)]
pub(super) struct RequestBody {
    pub framing: BodyFraming,
    /// Bytes of the head at the front of the input.
    pub head_bytes: usize,
    /// The client waits for `100 Continue`.
    pub expects: bool,
}
