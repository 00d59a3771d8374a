//! How long a request may run: `--timeout` from its claim, `--slow-request-log` on the way.
//!
//! Where it stands in the walk of a request: beside it, from the claim to the last byte. The loop
//! keeps the time, whatever Python does: it gives the request up and answers, and asks the worker,
//! by way of the supervisor, to log the thread's stack and to raise an exception in it.
//!
//! Invariants:
//! - Nobody tells the loop of a claim; it finds out by looking. A request that still waits is
//!   looked at again after one timeout, since it cannot be overdue before, and then at its claim
//!   plus the timeout. So no deadline is missed by more than the wheel's tick.
//! - Who swaps OWNED to ABANDONED decides: a seat that was done first is not interrupted, and its
//!   response goes out.
//! - A request that nobody waits for any more has its deadline all the same ([`Orphans`]), or one
//!   that hangs would keep its thread for ever. There are no more of them than threads.

use std::time::Duration;

use ringhorn_exchange::control::{Interrupt, Why};
use ringhorn_exchange::{Abandonment, Key, KeyId, Progress, Tenure, Variables};

use super::messages::Report;
use super::state::State;
use crate::connection::{Sending, Ticket};
use crate::driver::ConnectionIndex;
use crate::http::Rejection;

/// Bytes of a request line, and of an id, that are logged.
const LOGGED_BYTES_MAX: usize = 2048;

/// A moment that never comes.
const NEVER_NS: u64 = u64::MAX;

/// Requests that run although nobody waits for them any more.
#[derive(Debug)]
pub struct Orphans {
    list: Vec<Orphan>,
    /// The first moment at which one is to be looked at.
    due_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Orphan {
    ticket: Ticket,
    /// Which incarnation of the pool's segments.
    incarnation: u32,
    epoch: u64,
    timeout_ns: u64,
    slow_ns: u64,
}

impl Default for Orphans {
    fn default() -> Self {
        Orphans { list: Vec::new(), due_ns: NEVER_NS }
    }
}

impl Orphans {
    /// How long the loop may sleep for their sake.
    pub fn sleep(&self, now_ns: u64) -> Option<Duration> {
        let is_waiting = self.due_ns != NEVER_NS;
        is_waiting.then(|| Duration::from_nanos(self.due_ns.saturating_sub(now_ns)))
    }

    fn settle_due(&mut self) {
        let moments = self.list.iter().map(|orphan| orphan.timeout_ns.min(orphan.slow_ns));
        self.due_ns = moments.min().unwrap_or(NEVER_NS);
    }
}

impl State {
    /// What the slot of the connection's request says, if the request is in the exchange. An
    /// impossible value is reported by whoever acts on the request next.
    pub fn progress(&mut self, index: ConnectionIndex) -> Option<Progress> {
        let (pool, _, slot) = self.ticket(index)?;
        if !pool.end.is_in_flight(slot) {
            return None;
        }
        pool.end.progress(slot).ok()
    }

    /// When a running request is to be looked at next; one that still waits for a seat may be
    /// claimed any moment.
    pub fn run_time_left(
        &self,
        index: ConnectionIndex,
        progress: Option<&Progress>,
    ) -> Option<Duration> {
        let progress = progress.filter(|progress| progress.end.is_none())?;
        let ran = self.ran(progress).unwrap_or_default();
        self.run_time_behind(ran, self.table[index].is_slow_logged)
    }

    /// When a request that has run for so long is to be looked at next.
    pub fn run_time_behind(&self, ran: Duration, is_slow_logged: bool) -> Option<Duration> {
        let slow = self.settings.slow_request_log.filter(|_| !is_slow_logged);
        let bound = [self.settings.timeout, slow].into_iter().flatten().min()?;
        Some(bound.saturating_sub(ran))
    }

    /// How long a request has run; `None`: no seat has it yet.
    fn ran(&self, progress: &Progress) -> Option<Duration> {
        progress.claimed_by?;
        // A seat that has not written the moment yet has claimed it just now.
        let claimed_ns = progress.claimed_at_ns.unwrap_or(self.now_ns);
        Some(Duration::from_nanos(self.now_ns.saturating_sub(claimed_ns)))
    }

    /// Acts on a request that has run too long or for long. True: it was ended.
    pub fn check_run_time(&mut self, index: ConnectionIndex, progress: &Progress) -> bool {
        let Some(ran) = self.ran(progress).filter(|_| progress.end.is_none()) else { return false };
        if self.settings.timeout.is_some_and(|bound| ran >= bound) {
            self.time_out(index);
            return true;
        }
        if !self.table[index].is_slow_logged
            && self.settings.slow_request_log.is_some_and(|bound| ran >= bound)
        {
            self.table[index].is_slow_logged = true;
            self.interrupt(self.table[index].ticket, Why::Slow);
        }
        false
    }

    /// The request's deadline passed: 504 at once, or a cut if bytes went out.
    fn time_out(&mut self, index: ConnectionIndex) {
        let ticket = self.table[index].ticket;
        let Some((pool, _, slot)) = self.ticket(index) else { return };
        match pool.end.abandon(slot) {
            Err(impossible) => return self.on_impossible(index, impossible),
            // Its seat was done a moment before: the whole response is there.
            Ok(Abandonment::Finished) => return self.pump(index),
            Ok(Abandonment::Abandoned) => {}
        }
        self.counters.timeouts.add(1);
        self.interrupt(ticket, Why::Timeout);
        let connection = &self.table[index];
        let is_unanswered = connection.reply.sent_bytes == 0
            && matches!(connection.sending, Sending::Nothing | Sending::Continue);
        if is_unanswered {
            self.capture_claim(index);
            self.refuse(index, TIMED_OUT);
        } else {
            self.give_up(index, "timeout");
        }
    }

    /// Has a request that runs looked at or interrupted by its worker.
    pub fn interrupt(&mut self, ticket: Option<Ticket>, why: Why) {
        let Some(Ticket { pool, slot }) = ticket else { return };
        let end = &self.pools[usize::from(pool)].end;
        let Some(runner) = end.runner(slot) else { return };
        let (request, request_id) = described(end.variables(slot));
        let tenure = Tenure { event_loop: self.index, slot, epoch: runner.epoch };
        let grace = self.settings.interrupt_grace.as_millis();
        let grace_ms = u32::try_from(grace).unwrap_or(u32::MAX);
        let interrupt = Interrupt { why, seat: runner.seat, tenure, grace_ms, request, request_id };
        self.report_surely(Report::Interrupt { pool, interrupt: Box::new(interrupt) });
    }

    /// A request that was given up runs on: its deadline holds.
    pub fn note_orphan(&mut self, pool: u8, slot: u32, is_slow_logged: bool) {
        let place = &self.pools[usize::from(pool)];
        let Some(runner) = place.end.runner(slot) else { return };
        let since_ns = runner.claimed_at_ns.unwrap_or(self.now_ns).min(self.now_ns);
        let at = |bound: Option<Duration>| {
            bound.map_or(NEVER_NS, |bound| since_ns.saturating_add(bound.as_nanos() as u64))
        };
        let orphan = Orphan {
            ticket: Ticket { pool, slot },
            incarnation: place.incarnation,
            epoch: runner.epoch,
            timeout_ns: at(self.settings.timeout),
            slow_ns: at(self.settings.slow_request_log.filter(|_| !is_slow_logged)),
        };
        if orphan.timeout_ns.min(orphan.slow_ns) != NEVER_NS {
            self.orphans.list.push(orphan);
            self.orphans.settle_due();
        }
    }

    /// Looks at requests that nobody waits for, if it is time.
    pub fn expire_orphans(&mut self) {
        if self.now_ns < self.orphans.due_ns {
            return;
        }
        let mut list = std::mem::take(&mut self.orphans.list);
        list.retain_mut(|orphan| self.is_still_due(orphan));
        self.orphans.list = list;
        self.orphans.settle_due();
    }

    /// Looks at one of them; false: it is over, or everything about it was said.
    fn is_still_due(&mut self, orphan: &mut Orphan) -> bool {
        let pool = &self.pools[usize::from(orphan.ticket.pool)];
        let runner = pool.end.runner(orphan.ticket.slot);
        if pool.incarnation != orphan.incarnation
            || runner.is_none_or(|runner| runner.epoch != orphan.epoch)
        {
            return false;
        }
        if self.now_ns >= orphan.timeout_ns {
            self.counters.timeouts.add(1);
            self.interrupt(Some(orphan.ticket), Why::Timeout);
            return false;
        }
        if self.now_ns >= orphan.slow_ns {
            orphan.slow_ns = NEVER_NS;
            self.interrupt(Some(orphan.ticket), Why::Slow);
        }
        true
    }
}

/// The request line and the id of a request, printable, from its record.
fn described(variables: Variables<'_>) -> (String, String) {
    let (mut method, mut protocol, mut id) = (&b"-"[..], &b""[..], &b"-"[..]);
    let (mut target, mut path) = (None, &b"-"[..]);
    for variable in variables {
        let Key::Known(key) = variable.key else { continue };
        match key {
            KeyId::REQUEST_METHOD => method = variable.value,
            KeyId::REQUEST_URI => target = Some(variable.value),
            // What a gateway says at least.
            KeyId::PATH_INFO => path = variable.value,
            KeyId::SERVER_PROTOCOL => protocol = variable.value,
            KeyId::REQUEST_ID => id = variable.value,
            _ => {}
        }
    }
    let text = |bytes: &[u8]| bytes[..bytes.len().min(LOGGED_BYTES_MAX)].escape_ascii().to_string();
    let line = format!("{} {} {}", text(method), text(target.unwrap_or(path)), text(protocol));
    (line.trim_end().to_owned(), text(id))
}

const TIMED_OUT: Rejection =
    Rejection { status: 504, reason: "the request ran longer than --timeout" };
