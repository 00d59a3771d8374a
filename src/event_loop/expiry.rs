//! What a passed deadline means: it depends on what the connection waits for.
//!
//! Where it stands in the walk of a request: beside it; called once a tick at most.
//!
//! Invariants: a passed deadline is cleared; whoever still waits sets a new one.

use std::time::Duration;

use ringhorn_exchange::Progress;

use super::state::State;
use crate::connection::{Intent, Phase, Sending};
use crate::driver::ConnectionIndex;
use crate::http::Rejection;

/// How long a request waits before its connection is listened to again, and the least time between
/// two looks at it. By taste: beyond what a quick answer takes.
const LOOK: Duration = Duration::from_millis(100);

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
        let progress = match self.ticket(index).map(|(pool, _, slot)| pool.end.progress(slot)) {
            None => None,
            Some(Ok(progress)) => Some(progress),
            Some(Err(impossible)) => return self.on_impossible(index, impossible),
        };
        if progress.is_some_and(|progress| self.check_run_time(index, &progress)) {
            return;
        }
        if matches!(self.table[index].sending, Sending::Ring | Sending::Buffer) {
            self.on_sending_deadline(index, progress.as_ref());
            return;
        }
        let is_queued = progress.is_some_and(|progress| progress.claimed_by.is_none());
        if self.table[index].peer_finished
            && (is_queued || self.settings.cancel_on_disconnect)
            && self.table[index].ticket.is_some()
        {
            self.give_up(index, "client-closed");
            return;
        }
        if is_queued
            && let Some(bound) = self.settings.queue_timeout
            && self.waited(index) >= bound
        {
            self.overloaded(index, "the request waited longer than --queue-timeout");
            return;
        }
        if self.table[index].is_request_read() {
            self.listen_while_waiting(index);
        } else if self.body_time_left(index).is_some_and(|left| left.is_zero()) {
            self.on_body_timeout(index);
        }
        self.set_waiting_deadline(index);
    }

    /// Looks at a send in flight: it took too long, or it was not its time that passed.
    fn on_sending_deadline(&mut self, index: ConnectionIndex, progress: Option<&Progress>) {
        let send_left = self.table[index].send_due_ns.saturating_sub(self.now_ns);
        let send_left = (send_left > 0).then(|| Duration::from_nanos(send_left));
        if send_left.is_none() {
            self.on_send_timeout(index);
        }
        // The request's own deadline goes on beside the send's.
        self.set_earliest(index, [send_left, self.run_time_left(index, progress)]);
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
        let progress = self.progress(index);
        let is_queued = progress.is_some_and(|progress| progress.claimed_by.is_none());
        let run = self.run_time_left(index, progress.as_ref());
        self.set_look(index, is_queued, run);
    }

    /// Sets the first look at a request that was queued just now.
    pub fn set_queued_deadline(&mut self, index: ConnectionIndex) {
        let run = self.run_time_behind(Duration::ZERO, false);
        self.set_look(index, true, run);
    }

    fn set_look(&mut self, index: ConnectionIndex, is_queued: bool, run: Option<Duration>) {
        let until_timeout = self
            .settings
            .queue_timeout
            .filter(|_| is_queued && self.table[index].queued_ns != 0)
            .map(|bound| bound.saturating_sub(self.waited(index)).max(LOOK));
        let body = self.body_time_left(index).map(|left| left.max(LOOK));
        let connection = &self.table[index];
        let needs_watch = !connection.keep_alive
            && !connection.receiving
            && !connection.peer_finished
            && connection.is_request_read();
        let watch = needs_watch.then_some(LOOK);
        self.set_earliest(index, [until_timeout, body, watch, run]);
    }

    /// Sets the deadline of a connection whose request is in the exchange, or that of the request.
    pub fn set_reply_deadline(&mut self, index: ConnectionIndex, wait: Option<Duration>) {
        let progress = self.progress(index);
        self.set_earliest(index, [wait, self.run_time_left(index, progress.as_ref())]);
    }

    /// Sets the deadline of a send of reply bytes, or that of the request if it is earlier.
    pub fn set_send_deadline(
        &mut self,
        index: ConnectionIndex,
        patience: Duration,
        progress: Option<&Progress>,
    ) {
        let bound = (!patience.is_zero()).then_some(patience);
        let due_ns =
            bound.map_or(u64::MAX, |bound| self.now_ns.saturating_add(bound.as_nanos() as u64));
        self.table[index].send_due_ns = due_ns;
        self.set_earliest(index, [bound, self.run_time_left(index, progress)]);
    }

    /// Sets the deadline of a body that is asked for, gathered or streamed.
    pub fn set_body_deadline(&mut self, index: ConnectionIndex) {
        let bound = self.settings.body_timeout;
        if self.table[index].phase == Phase::Reply {
            self.set_reply_deadline(index, (!bound.is_zero()).then_some(bound));
        } else {
            self.set_deadline(index, bound);
        }
    }

    fn set_earliest<const N: usize>(
        &mut self,
        index: ConnectionIndex,
        waits: [Option<Duration>; N],
    ) {
        match waits.into_iter().flatten().min() {
            Some(wait) => self.wheel.set(&mut self.table, index, self.now_ns, wait),
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
