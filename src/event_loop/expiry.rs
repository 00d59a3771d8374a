//! What a passed deadline means: it depends on what the connection waits for.
//!
//! Where it stands in the walk of a request: beside it; called once a tick at most.
//!
//! Invariants: a passed deadline is cleared; whoever still waits sets a new one.

use std::time::Duration;

use super::deadlines::TICK_MS;
use super::state::State;
use crate::connection::{Intent, Phase, Sending};
use crate::driver::ConnectionIndex;
use crate::http::Rejection;

impl State {
    /// The connection's deadline passed.
    pub fn on_deadline(&mut self, index: ConnectionIndex) {
        match self.table[index].phase {
            Phase::Head if self.table[index].is_head_begun => self.refuse(index, HEAD_TIMEOUT),
            // An idle connection, or one that never sent a byte.
            Phase::Head => self.close_idle(index),
            Phase::Body => self.on_body_timeout(index),
            Phase::Reply => self.on_reply_deadline(index),
            Phase::OwnReply | Phase::Drain => {
                self.table[index].linger = false;
                self.table[index].gone = true;
                self.begin_close(index);
            }
            Phase::Accept | Phase::Close | Phase::Free => {}
        }
    }

    fn on_reply_deadline(&mut self, index: ConnectionIndex) {
        if matches!(self.table[index].sending, Sending::Ring | Sending::Buffer) {
            self.on_send_timeout(index);
            return;
        }
        if self.is_queued(index) {
            if self.table[index].peer_finished {
                self.give_up(index, "client-closed");
                return;
            }
            if let Some(bound) = self.settings.queue_timeout
                && self.waited(index) >= bound
            {
                self.overloaded(index, "the request waited longer than --queue-timeout");
                return;
            }
        }
        if self.table[index].is_request_read() {
            self.listen_while_waiting(index);
        } else if self.body_time_left(index).is_some_and(|left| left.is_zero()) {
            self.on_body_timeout(index);
        }
        self.set_waiting_deadline(index);
    }

    /// How long the client of a streamed body may still take to send more. `None`: for ever, or
    /// the body is all here.
    fn body_time_left(&mut self, index: ConnectionIndex) -> Option<Duration> {
        let (now_ns, bound) = (self.now_ns, self.settings.body_timeout);
        let receives = self.table[index].receiving;
        let body = self.body(index).filter(|body| !body.is_complete())?;
        if bound.is_zero() {
            return None;
        }
        // The application does not read: that is its time, not the client's.
        let since_ns = if receives { body.asked_ns } else { now_ns };
        Some(bound.saturating_sub(Duration::from_nanos(now_ns.saturating_sub(since_ns))))
    }

    /// Sets the next look at a request that waits in the exchange.
    pub fn set_waiting_deadline(&mut self, index: ConnectionIndex) {
        let tick = Duration::from_millis(TICK_MS);
        let until_timeout = self
            .settings
            .queue_timeout
            .filter(|_| self.table[index].queued_ns != 0)
            .map(|bound| bound.saturating_sub(self.waited(index)).max(tick));
        let until_timeout = until_timeout.filter(|_| self.is_queued(index));
        let body = self.body_time_left(index).map(|left| left.max(tick));
        let connection = &self.table[index];
        let needs_watch = !connection.keep_alive
            && !connection.receiving
            && !connection.peer_finished
            && connection.is_request_read();
        let watch = needs_watch.then_some(tick);
        match [until_timeout, body, watch].into_iter().flatten().min() {
            Some(wait) => self.set_deadline(index, wait),
            None => self.wheel.clear(&mut self.table, index),
        }
    }

    /// Hears whether the client of a closing connection leaves while it waits. Armed only for
    /// requests that wait long: a quick one closes behind its send without a cancel.
    fn listen_while_waiting(&mut self, index: ConnectionIndex) {
        let connection = &self.table[index];
        if !connection.receiving && !connection.peer_finished && connection.stashed() == 0 {
            self.intend(index, Intent::Receive { idle: true });
        }
    }

    /// Whether no seat has claimed the request yet.
    pub fn is_queued(&mut self, index: ConnectionIndex) -> bool {
        let Some((pool, _, slot)) = self.ticket(index) else { return false };
        pool.end.progress(slot).is_ok_and(|progress| progress.claimed_by.is_none())
    }

    fn waited(&self, index: ConnectionIndex) -> Duration {
        Duration::from_nanos(self.now_ns.saturating_sub(self.table[index].queued_ns))
    }
}

const HEAD_TIMEOUT: Rejection =
    Rejection { status: 408, reason: "the request head stopped coming (--header-timeout)" };
