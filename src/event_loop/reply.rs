//! The reply on its way from the exchange to the client.
//!
//! Where it stands in the walk of a request: last. News of a slot → what the worker stated and
//! wrote → sends straight from the ring → the slot given back → the access record → the next
//! request on the same connection, or the close.
//!
//! Invariants:
//! - The statement is copied once; never a byte beyond it is sent, and the connection is kept only
//!   if exactly that went out and the request was read to its end.
//! - The kernel's hold on ring memory is told to the exchange before a send and taken back with its
//!   completion: a slot is never freed between.
//! - A reader that takes longer than [`SLOW_READER`] gets its bytes from a buffer of the loop: the
//!   ring and its worker go on.
//! - A broken reply is never ended so that it looks whole: the connection is cut.

use std::time::Duration;

use ringhorn_exchange::control::Why;
use ringhorn_exchange::{Abandonment, Impossible, Progress, ResponseEnd, Withdrawal};

use super::accept::BACKLOG_QUIET;
use super::messages::{Lost, Report};
use super::state::State;
use crate::connection::reply::{OutBuffer, Reply};
use crate::connection::{Intent, Phase, Sending, Ticket};
use crate::driver::ConnectionIndex;
use crate::http::Rejection;

/// How long a send from the ring may take before its bytes are moved to a buffer. Chosen by taste:
/// beyond any healthy local peer, far below what a worker should be held for.
const SLOW_READER: Duration = Duration::from_millis(200);

/// Most bytes of a last send that a close is linked behind: it cannot be moved to a buffer when its
/// reader is slow. By taste: what an empty socket buffer takes at once.
const CLOSE_BEHIND_BYTES_MAX: u64 = 16 * 1024;

/// Bytes that a slow reader's buffer may hold whatever its bounds say, or its reply would never go
/// on. By taste: a provided buffer's worth.
const OUT_BYTES_MIN: u64 = 16 * 1024;

/// How long a request stays queued whose client sends nothing more: it may be on its way to a
/// seat, and its client may only have shut down its sending side. By taste.
const LEAVING: Duration = Duration::from_millis(100);

/// Why a request was given up, if that was its client's doing.
const CLIENTS_DOING: [&str; 2] = ["client-closed", "send-timeout"];

impl State {
    /// A seat changed something about a slot of `pool`.
    pub fn on_news(&mut self, pool: usize, slot: u32) {
        let owner = self.pools[pool].owners.get(slot as usize).copied().flatten();
        let Some((index, generation)) = owner else { return };
        if self.table[index].generation != generation {
            return;
        }
        self.pump(index);
    }

    /// Looks at the request's slot: sends what can be sent, feeds what is wanted, ends what is
    /// ended.
    pub fn pump(&mut self, index: ConnectionIndex) {
        let now_ns = self.now_ns;
        let Some((pool, connection, slot)) = self.ticket(index) else { return };
        let progress = match pool.end.progress(slot) {
            Ok(progress) => progress,
            Err(impossible) => return self.on_impossible(index, impossible),
        };
        if let Some(seat) = progress.claimed_by {
            pool.end.hear(seat, now_ns);
        }
        if connection.reply.statement.is_none() {
            connection.reply.statement = progress.statement;
        }
        connection.reply.ended = progress.end;
        connection.reply.framing_bytes = progress.framing_bytes;
        let holds_body = connection.extra.as_ref().is_some_and(|extra| extra.body.is_some());
        if holds_body && progress.body_room > 0 && progress.end.is_none() {
            self.feed(index);
            if self.table[index].ticket.is_none() {
                return;
            }
        }
        if self.table[index].reply.is_buffered {
            self.pump_buffered(index, &progress);
        } else if self.table[index].sending == Sending::Nothing {
            self.send_ring(index, &progress);
        }
    }

    /// Sends what lies in the ring, or ends the request when nothing is left to send.
    fn send_ring(&mut self, index: ConnectionIndex, progress: &Progress) {
        let connection = &self.table[index];
        let reply = &connection.reply;
        let allowed = reply.allowed_behind(reply.sent_bytes);
        let bytes = (progress.unsent as u64).min(allowed);
        if bytes > 0 {
            let close = self.closes_behind(index, bytes);
            self.capture_response_head(index);
            self.intend(index, Intent::SendRing { bytes: bytes as u32, close });
            // A cancelled send would take its linked close along.
            let patience = if close { self.settings.send_timeout } else { SLOW_READER };
            self.set_send_deadline(index, patience, Some(progress));
        } else if let Some(end) = reply.ended {
            // Bytes beyond the statement mean that it was not kept.
            let end = if progress.unsent > 0 { ResponseEnd::Broken } else { end };
            self.end_reply(index, end);
        }
    }

    /// Whether the close can be hard-linked behind a send of `bytes`: it is the reply's last, the
    /// request was read to its end, nothing else arrived and nothing is armed.
    fn closes_behind(&self, index: ConnectionIndex, bytes: u64) -> bool {
        let connection = &self.table[index];
        let reply = &connection.reply;
        bytes <= CLOSE_BEHIND_BYTES_MAX
            && !self.keeps(index)
            && reply.is_whole_at(reply.sent_bytes + bytes)
            && connection.is_request_read()
            && connection.stashed() == 0
            && !connection.receiving
            && !connection.spooling
            && !connection.linger
    }

    fn keeps(&self, index: ConnectionIndex) -> bool {
        let connection = &self.table[index];
        connection.keep_alive
            && connection.reply.keeps_alive()
            && !connection.peer_finished
            && connection.is_request_read()
            && !connection.spooling
    }

    /// A send of reply bytes ended: `result` bytes or a negative errno.
    pub fn on_reply_sent(&mut self, index: ConnectionIndex, from: Sending, result: i32) {
        let asked = self.table[index].send_bytes;
        let sent = result.max(0) as u32;
        self.count_sent(index, from, sent);
        if self.table[index].phase != Phase::Reply {
            self.step_close(index);
            return;
        }
        let is_cancelled = self.table[index].cancelling;
        self.table[index].cancelling = false;
        if sent < asked && !(is_cancelled && self.is_worth_waiting(index, from, sent)) {
            self.table[index].gone = true;
            self.give_up(index, if is_cancelled { "send-timeout" } else { "client-closed" });
        } else if sent < asked && from == Sending::Ring {
            self.slow_down(index);
        } else {
            if !self.table[index].is_request_read() {
                // The deadline was the send's; now it is the body's again.
                self.set_waiting_deadline(index);
            }
            self.pump_any(index);
        }
    }

    /// Notes what went out, and ends the kernel's hold on where it lay.
    fn count_sent(&mut self, index: ConnectionIndex, from: Sending, sent: u32) {
        self.table[index].reply.sent_bytes += u64::from(sent);
        if from == Sending::Ring {
            self.release_ring(index);
            if let Some((pool, _, slot)) = self.ticket(index) {
                pool.end.sent(slot, sent as usize);
            }
        } else if let Some(out) = self.out(index) {
            out.gone += sent as usize;
        }
    }

    /// A reply's last send ended with the close that was linked behind it.
    pub fn on_closed_behind(&mut self, index: ConnectionIndex, result: i32) {
        self.count_sent(index, Sending::Ring, result.max(0) as u32);
        let reply = self.table[index].reply;
        let status = reply.statement.map_or(0, |statement| statement.status);
        let is_whole = reply.is_whole_at(reply.sent_bytes);
        self.capture_claim(index);
        self.leave_exchange(index);
        if is_whole {
            self.counters.replies.add(1);
            self.finish_access(index, status, None);
        } else {
            self.counters.replies_cut.add(1);
            self.finish_access(index, status, Some("client-closed"));
        }
    }

    /// Whether a cancelled send says that its reader is slow, not dead: from the ring always (its
    /// time was the slow-reader's), from the buffer if it took a byte.
    fn is_worth_waiting(&self, index: ConnectionIndex, from: Sending, sent: u32) -> bool {
        let is_served = matches!(self.table[index].phase, Phase::Reply);
        is_served && (from == Sending::Ring || sent > 0)
    }

    /// The send in flight took too long.
    pub fn on_send_timeout(&mut self, index: ConnectionIndex) {
        self.table[index].cancelling = true;
        self.intend(index, Intent::Cancel);
    }

    /// Moves the rest of the reply through a buffer of the loop, so that its worker can go on.
    fn slow_down(&mut self, index: ConnectionIndex) {
        let sent = self.table[index].reply.sent_bytes;
        self.table[index].reply.is_buffered = true;
        self.table[index].extra().out =
            Some(OutBuffer { taken_bytes: sent, ..OutBuffer::default() });
        self.pump(index);
    }

    /// Goes on with a reply, wherever its bytes are.
    fn pump_any(&mut self, index: ConnectionIndex) {
        if self.table[index].ticket.is_some() {
            self.pump(index);
        } else {
            self.send_buffered(index);
        }
    }

    /// Takes what the ring holds into the buffer, as far as its bounds allow, and sends from there.
    fn pump_buffered(&mut self, index: ConnectionIndex, progress: &Progress) {
        let taken = self.out(index).map_or(0, |out| out.taken_bytes);
        let held = self.out(index).map_or(0, |out| out.held() as u64);
        let allowed = self.table[index].reply.allowed_behind(taken);
        let room = self.settings.response_buffer_bytes.saturating_sub(held);
        let wanted = (progress.unsent as u64).min(allowed);
        let mut bytes = wanted.min(room);
        let mut takes = bytes > 0 && self.hold_memory(index, held + bytes);
        if !takes && held == 0 && wanted > 0 {
            (bytes, takes) = (wanted.min(OUT_BYTES_MIN), true);
        }
        if takes {
            self.take_from_ring(index, bytes as usize);
        }
        let left = progress.unsent as u64 - if takes { bytes } else { 0 };
        if (left == 0 || allowed == 0) && self.table[index].reply.ended.is_some() {
            // The worker and its slot are free; the slow reader costs a buffer only.
            self.capture_claim(index);
            self.leave_exchange(index);
        }
        self.send_buffered(index);
    }

    fn take_from_ring(&mut self, index: ConnectionIndex, bytes: usize) {
        let Some((pool, connection, slot)) = self.ticket(index) else { return };
        let Some(out) = connection.extra.as_mut().and_then(|extra| extra.out.as_mut()) else {
            return;
        };
        pool.end.copy_unsent(slot, bytes, &mut out.pending);
        out.taken_bytes += bytes as u64;
        pool.end.sent(slot, bytes);
    }

    /// Sends the buffer's front, or ends the reply when all of it is gone.
    fn send_buffered(&mut self, index: ConnectionIndex) {
        if self.table[index].sending != Sending::Nothing {
            return;
        }
        let is_in_exchange = self.table[index].ticket.is_some();
        let Some(out) = self.out(index) else { return };
        out.turn_over();
        if out.gone < out.in_flight.len() {
            self.intend(index, Intent::SendBuffer);
            let progress = self.progress(index);
            self.set_send_deadline(index, self.settings.send_timeout, progress.as_ref());
        } else if !is_in_exchange && let Some(end) = self.table[index].reply.ended {
            self.end_reply(index, end);
        }
    }

    fn out(&mut self, index: ConnectionIndex) -> Option<&mut OutBuffer> {
        self.table[index].extra.as_mut()?.out.as_mut()
    }

    /// The worker ended the reply and everything it wrote went out.
    fn end_reply(&mut self, index: ConnectionIndex, end: ResponseEnd) {
        let reply = &self.table[index].reply;
        let is_whole = end == ResponseEnd::Complete && reply.is_whole_at(reply.sent_bytes);
        let status = reply.statement.map_or(0, |statement| statement.status);
        // Also in a drain: a client that was told it may send its next request gets it answered.
        let keeps = is_whole && self.keeps(index);
        if reply.statement.is_none() {
            // The worker gave up before it stated anything; it logged why.
            self.counters.replies_broken.add(1);
            self.refuse(index, NO_REPLY);
            return;
        }
        self.capture_claim(index);
        self.leave_exchange(index);
        if is_whole {
            self.counters.replies.add(1);
            self.finish_access(index, status, None);
        } else {
            self.counters.replies_broken.add(1);
            self.finish_access(index, status, Some("reply-cut-short"));
        }
        if keeps {
            self.next_request(index);
        } else {
            let reads_on = !self.table[index].is_request_read() || self.table[index].stashed() > 0;
            // A body that broke off may still be coming.
            let connection = &mut self.table[index];
            connection.linger = (connection.linger || reads_on) && is_whole;
            self.table[index].resets = !is_whole && self.table[index].reply.ends_by_closing();
            self.let_go(index);
            self.begin_close(index);
        }
    }

    /// The connection waits for its next request, or finds it in its stash.
    pub fn next_request(&mut self, index: ConnectionIndex) {
        self.drop_body(index);
        let connection = &mut self.table[index];
        connection.phase = Phase::Head;
        connection.reply = Reply::default();
        connection.is_head_request = false;
        if connection.stashed() > 0 {
            connection.extra().out = None;
            self.ready.push_back(index);
            // That of the last send may pass this very turn, and be taken for an idle one's.
            self.wheel.clear(&mut self.table, index);
            return;
        }
        connection.extra = None;
        if !connection.receiving {
            self.intend(index, Intent::Receive { idle: true });
        }
        let patience =
            if self.is_draining() { BACKLOG_QUIET } else { self.settings.keep_alive_timeout };
        self.set_deadline(index, patience);
    }

    /// The client will send nothing more while its request is in the exchange.
    pub fn on_client_finished(&mut self, index: ConnectionIndex) {
        if !self.table[index].is_request_read() {
            self.break_body(index);
        }
        if let Some((pool, _, slot)) = self.ticket(index) {
            pool.end.set_client_left(slot);
        }
        // It may have shut down its writing side only. A request still queued a moment later is
        // taken back as its client's who left; a running one's answer is always tried, unless
        // `--cancel-on-disconnect` says otherwise.
        if self.table[index].sending == Sending::Nothing {
            self.set_reply_deadline(index, Some(LEAVING));
        }
    }

    /// The client left or takes nothing: the request is taken back or abandoned, nothing is
    /// answered.
    pub fn give_up(&mut self, index: ConnectionIndex, why: &'static str) {
        let status = self.table[index].reply.statement.map_or(499, |statement| statement.status);
        self.capture_claim(index);
        let ticket = self.table[index].ticket;
        match self.leave_exchange(index) {
            Left::Withdrawn => self.counters.left_while_queued.add(1),
            Left::Running => {
                self.counters.replies_cut.add(1);
                if self.settings.cancel_on_disconnect && CLIENTS_DOING.contains(&why) {
                    self.interrupt(ticket, Why::ClientLeft);
                }
            }
            Left::Ended => self.counters.replies_cut.add(1),
            Left::Nothing => {}
        }
        self.finish_access(index, status, Some(why));
        self.table[index].gone = true;
        self.table[index].resets = self.table[index].reply.ends_by_closing();
        self.let_go(index);
        self.begin_close(index);
    }

    /// Takes the connection's request out of the exchange, however far it got.
    pub fn leave_exchange(&mut self, index: ConnectionIndex) -> Left {
        let Some(Ticket { pool, slot }) = self.table[index].ticket.take() else {
            return Left::Nothing;
        };
        self.pools[usize::from(pool)].set_owner(slot, None);
        self.inflight -= 1;
        let ended = self.table[index].reply.ended.is_some();
        let runner = self.pools[usize::from(pool)].end.runner(slot);
        match self.take_back(pool, slot, ended) {
            // Nobody waits for it any more, but its deadline holds, if it was not that.
            Ok(Left::Running) if !runner.is_some_and(|runner| runner.is_abandoned) => {
                self.note_orphan(pool, slot, self.table[index].is_slow_logged);
                Ok(Left::Running)
            }
            left => left,
        }
        .unwrap_or_else(|impossible| {
            self.counters.impossible.add(1);
            self.report_impossible(pool, impossible);
            Left::Running
        })
    }

    fn take_back(&mut self, pool: u8, slot: u32, ended: bool) -> Result<Left, Impossible> {
        let end = &mut self.pools[usize::from(pool)].end;
        if ended {
            end.release(slot)?;
            return Ok(Left::Ended);
        }
        if end.withdraw(slot)? == Withdrawal::Withdrawn {
            return Ok(Left::Withdrawn);
        }
        // Abandoned or finished a moment ago: the slot is given back by itself, once its seat is
        // done.
        let abandonment = end.abandon(slot)?;
        end.release(slot)?;
        Ok(match abandonment {
            Abandonment::Abandoned => Left::Running,
            Abandonment::Finished => Left::Ended,
        })
    }

    /// A worker stated what cannot be: it is killed, or the pool condemned; this request gets 502.
    pub fn on_impossible(&mut self, index: ConnectionIndex, impossible: Impossible) {
        self.counters.impossible.add(1);
        let pool = self.table[index].ticket.map_or(0, |ticket| ticket.pool);
        self.report_impossible(pool, impossible);
        // A condemned pool was answered for as a whole.
        if self.table[index].ticket.is_some() {
            self.answer_for_dead(index);
        }
    }

    /// Reports an impossible value to the supervisor, which kills.
    pub fn report_impossible(&mut self, pool: u8, impossible: Impossible) {
        let event_loop = self.index;
        let why = impossible.what;
        match impossible.seat {
            Some(seat) => {
                self.report_surely(Report::KillWorker { event_loop, pool, seat, why });
            }
            None => self.condemn(pool, why),
        }
    }

    /// The request's worker is dead: 502, or a cut if bytes went out. Gives which it was.
    pub fn answer_for_dead(&mut self, index: ConnectionIndex) -> Lost {
        self.counters.worker_deaths.add(1);
        if self.table[index].reply.sent_bytes == 0 && self.table[index].sending == Sending::Nothing
        {
            self.refuse(index, WORKER_DIED);
            Lost { answered: 1, cut: 0 }
        } else {
            self.give_up(index, "worker-died");
            Lost { answered: 0, cut: 1 }
        }
    }
}

/// How far a request had got when it left the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was not in it.
    Nothing,
    /// Taken back from the queue: no seat ever saw it.
    Withdrawn,
    /// A seat runs it on, unheard.
    Running,
    /// The worker had ended it.
    Ended,
}

const WORKER_DIED: Rejection =
    Rejection { status: 502, reason: "the worker died while it ran the request" };
const NO_REPLY: Rejection =
    Rejection { status: 502, reason: "the worker ended the request without a reply" };
