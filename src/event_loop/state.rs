//! Everything an event loop knows, apart from its driver.
//!
//! The rooms of the loop (`receive`, `admission`, `gather`, `dispatch`, `reply`, `expiry`,
//! `close`…) are `impl` blocks of [`State`]: they read completions' facts and decide, and what they
//! decide is pushed as an [`Intent`]; the driver is touched only afterwards, by `intents.rs` and
//! `accept.rs`. So received bytes can be parsed in the driver's buffer while the state changes.
//!
//! Invariants: one thread owns a `State`; nothing in it blocks; every queue in it is bounded by the
//! connection table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use ringhorn_exchange::{Impossible, LoopEnd, Wake};

use super::accept::ACCEPTS_ARMED;
use super::deadlines::TimerWheel;
use super::messages::{Command, Readiness, Report};
use super::overdue::Orphans;
use super::table::Table;
use crate::config::{ListenerFacts, ListenerProtocol, LoopSettings};
use crate::connection::{Connection, Intent, Ticket};
use crate::driver::ConnectionIndex;
use crate::metrics::LoopCounters;

/// Whether the loop takes new connections and keeps old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No worker is ready yet and nobody asked for health paths: listeners hold the clients.
    Closed,
    /// Accepting and serving.
    Open,
    /// Serving what came, accepting until the backlog is dry, closing what falls idle.
    Draining,
    /// The thread ends after this turn.
    Stopping,
}

/// Requests queued, at which sleeping seats are woken although more completions are at hand: six
/// turns' worth of the accepts armed on one listener, some tens of microseconds of the loop's time.
/// 8 and 24 were measured behind `uwsgi_pass` and with 64 kept connections: 24 costs 2 to 3 % less.
const GATHERED_MAX: u32 = 6 * ACCEPTS_ARMED as u32;

/// The loop's end of one pool's exchange, and which connection waits on each of its slots.
#[derive(Debug)]
pub struct Pool {
    /// Slots, queue and rings.
    pub end: LoopEnd,
    /// By slot: the connection's number and generation.
    pub owners: Vec<Option<(ConnectionIndex, u32)>>,
    /// Requests queued since seats were last woken.
    pub fresh_work: FreshWork,
    /// When a seat was last woken for work that had waited, nanoseconds.
    pub woken_at_ns: u64,
    /// Counts the replacements of the pool's segments.
    pub incarnation: u32,
    /// Sends in flight that read the pool's rings.
    pub kernel_holds: u32,
    /// The pool answered with impossible values: nothing more is asked of it until it is replaced.
    pub is_condemned: bool,
}

impl Pool {
    /// A pool of which no slot is in use.
    pub fn new(end: LoopEnd, incarnation: u32) -> Pool {
        Pool {
            end,
            owners: Vec::new(),
            fresh_work: FreshWork::default(),
            woken_at_ns: 0,
            incarnation,
            kernel_holds: 0,
            is_condemned: false,
        }
    }

    /// Wakes a seat for each request queued since the last time, as far as there are workers at
    /// rest: a busy seat pulls by itself. On a shared core the first one may have served all of
    /// them before its waker goes on. Gives how many were woken.
    ///
    /// # Errors
    /// The exchange holds an impossible value.
    pub fn wake_seats(&mut self) -> Result<u32, Impossible> {
        let requests = self.fresh_work.take();
        for woken in 0..requests {
            if self.end.queue_is_empty()? || !self.end.wake_one(Wake::Fresh) {
                return Ok(woken);
            }
        }
        Ok(requests)
    }

    /// Notes who waits on a slot.
    pub fn set_owner(&mut self, slot: u32, owner: Option<(ConnectionIndex, u32)>) {
        let place = slot as usize;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, None);
        }
        self.owners[place] = owner;
    }
}

/// What the driver has for the next turn already.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Completions, without waiting.
    pub has_more: bool,
    /// Operations that the kernel has not seen.
    pub has_unsubmitted: bool,
}

/// Requests queued since seats were last woken.
#[derive(Clone, Copy, Debug, Default)]
pub struct FreshWork {
    requests: u32,
    /// How many there were when they were last looked at.
    seen: u32,
}

impl FreshWork {
    /// One more was queued.
    pub fn add(&mut self) {
        self.requests += 1;
    }

    /// Whether its seats can wait one turn longer, which then comes at once: for more requests that
    /// are at hand, or, if there are several, for what is to be submitted: on a shared core the
    /// seat runs as soon as it is woken, and what the kernel does not know yet waits for it. Only
    /// while each turn adds to it, so that other traffic holds nothing up.
    pub fn is_gathering(&mut self, ahead: Ahead) -> bool {
        let grows = self.requests > self.seen;
        self.seen = self.requests;
        let is_worth_it = ahead.has_more || (ahead.has_unsubmitted && self.requests > 1);
        is_worth_it && grows && self.requests < GATHERED_MAX
    }

    /// Takes the number of seats to wake: one a request at most.
    pub fn take(&mut self) -> u32 {
        std::mem::take(self).requests
    }
}

/// A bound shared by all connections of the loop.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    used: u64,
    max: u64,
}

impl Budget {
    /// Nothing used of `max`.
    pub fn new(max: u64) -> Budget {
        Budget { used: 0, max }
    }

    /// Takes `bytes` if the bound allows it.
    pub fn try_take(&mut self, bytes: u64) -> bool {
        let fits = self.used.saturating_add(bytes) <= self.max;
        if fits {
            self.used += bytes;
        }
        fits
    }

    /// Gives bytes back.
    pub fn give(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used);
        self.used = self.used.saturating_sub(bytes);
    }

    /// Whether everything was given back.
    #[cfg(test)]
    pub fn is_unused(&self) -> bool {
        self.used == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct State {
    /// Which loop of the server this is.
    pub index: u16,
    /// What was configured.
    pub settings: Arc<LoopSettings>,
    /// The connections.
    pub table: Table,
    /// Their deadlines.
    pub wheel: TimerWheel,
    /// The exchange, a pool each.
    pub pools: Vec<Pool>,
    /// Condemned pools whose rings the kernel still reads.
    pub retired_pools: Vec<Pool>,
    /// Slots that changed, collected here by each sweep.
    pub news: Vec<u32>,
    /// Reports that someone waits for and the channel had no room for.
    pub unsent_reports: VecDeque<Report>,
    /// The second in which incidents were last reported, and how many.
    pub incident_second: u64,
    /// See `incident_second`.
    pub incidents_this_second: u32,
    /// What the driver is to do, in order.
    pub intents: VecDeque<(ConnectionIndex, Intent)>,
    /// Connections with whole requests in their stash, served once the turn's completions are.
    pub ready: VecDeque<ConnectionIndex>,
    /// Connections whose receive found no provided buffer.
    pub starving: VecDeque<ConnectionIndex>,
    /// Connections that wait for buffer memory or spool room.
    pub stalled: VecDeque<ConnectionIndex>,
    /// Gathered bodies and buffered responses.
    pub memory: Budget,
    /// Spool files.
    pub disk: Budget,
    /// Requests in the exchange.
    pub inflight: u32,
    /// This loop's share of `--max-connections`.
    pub connections_max: usize,
    /// This loop's share of `--max-inflight`.
    pub inflight_max: u32,
    /// What the loop does with clients.
    pub mode: Mode,
    /// What the supervisor said last of the workers.
    pub readiness: Readiness,
    /// Monotonic time of this turn, nanoseconds.
    pub now_ns: u64,
    /// Requests that run although nobody waits for them any more.
    pub orphans: Orphans,
    /// Commands from the supervisor.
    pub commands: Receiver<Command>,
    /// Reports to the supervisor.
    pub reports: Sender<Report>,
    /// Counted for metrics.
    pub counters: Arc<LoopCounters>,
    /// Makes request ids: the boot's nonce and a count.
    pub request_ids: RequestIds,
    /// CGI names and joined values are built here.
    pub scratch: Vec<u8>,
}

impl State {
    /// Asks for `intent` once the state is settled.
    pub fn intend(&mut self, index: ConnectionIndex, intent: Intent) {
        self.intents.push_back((index, intent));
    }

    /// Sets the connection's deadline; a zero duration means that the option is off.
    pub fn set_deadline(&mut self, index: ConnectionIndex, after: Duration) {
        if after.is_zero() {
            self.wheel.clear(&mut self.table, index);
        } else {
            self.wheel.set(&mut self.table, index, self.now_ns, after);
        }
    }

    /// The listener's facts of a connection.
    pub fn listener(&self, index: ConnectionIndex) -> &ListenerFacts {
        &self.settings.listeners[usize::from(self.table[index].listener)]
    }

    /// Whether the connection speaks uwsgi.
    pub fn is_uwsgi(&self, index: ConnectionIndex) -> bool {
        self.listener(index).protocol == ListenerProtocol::Uwsgi
    }

    /// The pool and slot that a connection's request is in, and the connection.
    pub fn ticket(&mut self, index: ConnectionIndex) -> Option<(&mut Pool, &mut Connection, u32)> {
        let Ticket { pool, slot } = self.table[index].ticket?;
        Some((&mut self.pools[usize::from(pool)], &mut self.table[index], slot))
    }

    /// The kernel's hold on a slot's ring ended: the send that read it completed.
    pub fn release_ring(&mut self, index: ConnectionIndex) {
        let Some(hold) = self.table[index].ring_hold.take() else { return };
        let pool = &mut self.pools[usize::from(hold.ticket.pool)];
        if pool.incarnation == hold.incarnation {
            pool.kernel_holds -= 1;
            pool.end.kernel_released(hold.ticket.slot);
            return;
        }
        for retired in &mut self.retired_pools {
            if retired.incarnation == hold.incarnation {
                retired.kernel_holds -= 1;
            }
        }
        self.retired_pools.retain(|retired| retired.kernel_holds > 0);
    }

    /// Sends a report; a full channel drops it and counts (the loop never waits).
    pub fn report(&mut self, report: Report) {
        match self.reports.try_send(report) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.reports_dropped.add(1);
            }
        }
    }

    /// Whether connections are to be closed after their reply.
    pub fn is_draining(&self) -> bool {
        matches!(self.mode, Mode::Draining | Mode::Stopping)
    }
}

/// Makes request ids that are unique over loops and restarts: `nonce-loop-count` in hexadecimal.
#[derive(Debug)]
pub struct RequestIds {
    prefix: [u8; 10],
    count: u64,
}

/// Length of a made request id.
pub const REQUEST_ID_BYTES: usize = 20;

impl RequestIds {
    /// Ids of this loop, told from those of other boots by `nonce`.
    pub fn new(nonce: u32, loop_index: u16) -> RequestIds {
        let mut prefix = [0; 10];
        write_hex(&mut prefix[..8], u64::from(nonce));
        write_hex(&mut prefix[8..], u64::from(loop_index & 0xff));
        RequestIds { prefix, count: 0 }
    }

    /// The next id.
    pub fn make(&mut self) -> [u8; REQUEST_ID_BYTES] {
        self.count += 1;
        let mut id = [0; REQUEST_ID_BYTES];
        id[..10].copy_from_slice(&self.prefix);
        write_hex(&mut id[10..], self.count);
        id
    }
}

fn write_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_gathered_while_every_turn_adds_to_it_up_to_a_bound() {
        let ahead = |has_more, has_unsubmitted| Ahead { has_more, has_unsubmitted };
        let (more, unsubmitted, nothing) =
            (ahead(true, false), ahead(false, true), ahead(false, false));
        let mut work = FreshWork::default();
        assert!(!work.is_gathering(more), "nothing to wake for");
        work.add();
        assert!(work.is_gathering(more));
        assert!(!work.is_gathering(more), "the turn brought no request");
        assert_eq!((work.take(), work.take()), (1, 0));

        work.add();
        assert!(!work.is_gathering(unsubmitted), "one request is not held up");
        work.add();
        assert!(work.is_gathering(unsubmitted));
        work.add();
        assert!(!work.is_gathering(nothing), "the loop would sleep");
        assert_eq!(work.take(), 3);

        for _ in 0..GATHERED_MAX - 1 {
            work.add();
            assert!(work.is_gathering(more));
        }
        work.add();
        assert!(!work.is_gathering(more));
        assert_eq!(work.take(), GATHERED_MAX);
    }

    #[test]
    fn budget_is_a_bound() {
        let mut budget = Budget::new(10);
        assert!(budget.try_take(10) && !budget.try_take(1));
        budget.give(4);
        assert!(budget.try_take(4) && !budget.try_take(1));
        assert!(!budget.try_take(u64::MAX));
    }

    #[test]
    fn ids_differ() {
        let mut ids = RequestIds::new(0xdead_beef, 3);
        assert_eq!(&ids.make(), b"deadbeef030000000001");
        assert_eq!(&ids.make(), b"deadbeef030000000002");
    }
}
