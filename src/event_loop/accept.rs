//! New connections.
//!
//! Where it stands in the walk of a request: first. Each loop keeps a few one-shot accepts armed on
//! every shared listener, each linked to the first receive: one-shot accepts rotate over the loops,
//! where a multishot one would send every connection to the loop that armed first.
//!
//! Invariants:
//! - Accepts are armed only while the loop is open (or draining the backlog) and below the bound of
//!   connections, armed accepts included: at the bound the listener's backlog holds the clients.
//!   With several listeners a loop may pass its share by one connection a listener.
//! - Descriptor exhaustion pauses accepting for [`PAUSE`] instead of spinning.

use std::time::Duration;

use super::EventLoop;
use super::state::Mode;
use crate::connection::Phase;
use crate::driver::{Completion, Driver};
use crate::sys::errno;

/// Accepts armed by one loop on one listener. More than one lets a burst be taken in one turn.
pub const ACCEPTS_ARMED: u16 = 4;

/// How long accepting pauses when descriptors or memory run out. Chosen by taste: connections close
/// meanwhile, and the log is not flooded.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a drain waits for the backlog to stay dry, and for the request of a connection that it
/// accepted.
pub const BACKLOG_QUIET: Duration = Duration::from_millis(200);

/// How long a drain takes from the backlog at most: clients that go on connecting would keep it
/// from ever running dry. By taste: what waited when the drain began is taken in a few turns.
pub const BACKLOG_DRAIN_MAX: Duration = Duration::from_secs(1);

/// One listener of the loop.
#[derive(Debug)]
pub struct Listener {
    /// Its number in the driver.
    pub driver_number: usize,
    /// Accepts armed on it.
    pub armed: u16,
    /// No accept is armed before this time, nanoseconds.
    pub paused_until_ns: u64,
    /// The driver gave it up: whoever connects from now on is refused, not left waiting.
    pub is_removed: bool,
}

impl<D: Driver> EventLoop<D> {
    /// Keeps accepts armed on every listener.
    pub(super) fn arm_accepts(&mut self) {
        let is_open = match self.state.mode {
            Mode::Open => true,
            Mode::Draining => !self.is_backlog_dry(),
            Mode::Closed | Mode::Stopping => false,
        };
        if !is_open {
            return;
        }
        for number in 0..self.listeners.len() {
            while self.may_arm(number) {
                let Some(token) = self.state.table.arm(number as u16) else { return };
                self.listeners[number].armed += 1;
                self.driver.accept(self.listeners[number].driver_number, token);
            }
        }
    }

    /// An armed accept is a connection promised: it counts against the bound. Each listener may
    /// have one while there is room at all, so that a busy one cannot starve another.
    fn may_arm(&self, number: usize) -> bool {
        let listener = &self.listeners[number];
        let promised: usize = self.listeners.iter().map(|other| usize::from(other.armed)).sum();
        let connected = self.state.table.open().saturating_sub(promised);
        let bound = self.state.connections_max;
        let has_room = connected + promised < bound || (listener.armed == 0 && connected < bound);
        has_room && listener.armed < ACCEPTS_ARMED && listener.paused_until_ns <= self.state.now_ns
    }

    /// Whether a drain saw no new connection for long enough, or took from the backlog for long
    /// enough.
    pub(super) fn is_backlog_dry(&self) -> bool {
        let now_ns = self.state.now_ns;
        let quiet_since = self.last_accept_ns.max(self.drain_began_ns);
        let ends_ns = self.drain_began_ns.saturating_add(BACKLOG_DRAIN_MAX.as_nanos() as u64);
        // Once disarmed it stays dry: an accept that completed meanwhile arms no others.
        self.leaves_backlog
            || self.is_disarmed
            || now_ns.saturating_sub(quiet_since) >= BACKLOG_QUIET.as_nanos() as u64
            || now_ns >= ends_ns.min(self.drain_ends_ns)
    }

    /// Whether what was accepted last had the time to send its request, or its time is over.
    pub(super) fn has_heard_newcomers(&self) -> bool {
        let now_ns = self.state.now_ns;
        let since_ns = self.last_accept_ns.max(self.drain_began_ns);
        now_ns.saturating_sub(since_ns) >= BACKLOG_QUIET.as_nanos() as u64
            || now_ns >= self.drain_ends_ns
    }

    /// An accept ended.
    pub(super) fn on_accepted(&mut self, completion: Completion) {
        let index = completion.token.connection;
        let number = usize::from(self.state.table[index].listener);
        self.listeners[number].armed -= 1;
        if completion.result < 0 {
            self.on_accept_failed(completion, number);
            return;
        }
        let peer = self.driver.peer(index);
        let now_ns = self.state.now_ns;
        self.last_accept_ns = now_ns;
        self.state.counters.accepted.add(1);
        let connection = &mut self.state.table[index];
        connection.phase = Phase::Head;
        connection.accepted_ns = now_ns;
        connection.peer = peer;
        // Accepted while the drain gave its accepts up: it has as long as the others had.
        let timeout =
            if self.is_disarmed { BACKLOG_QUIET } else { self.state.settings.header_timeout };
        self.state.set_deadline(index, timeout);
        let is_refused = self.state.is_uwsgi(index)
            && peer.is_some_and(|peer| !self.state.settings.uwsgi_allow.contains(peer.ip()));
        if is_refused {
            self.state.counters.peers_refused.add(1);
            let peer = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
            self.state.incident(format!("uwsgi peer {peer} refused (--uwsgi-allow-from)"));
            self.state.table[index].gone = true;
            self.state.begin_close(index);
        }
    }

    /// The accept failed; its linked receive ends with ECANCELED and retires the number.
    fn on_accept_failed(&mut self, completion: Completion, number: usize) {
        let connection = &mut self.state.table[completion.token.connection];
        connection.gone = true;
        let is_over = !connection.receiving;
        if is_over {
            self.state.on_closed(completion.token.connection);
        }
        match -completion.result {
            errno::ECANCELED => {}
            errno::ECONNABORTED | errno::EINTR | errno::EAGAIN | errno::EPROTO => {
                self.state.counters.accept_errors.add(1);
            }
            error => {
                self.state.counters.accept_errors.add(1);
                self.listeners[number].paused_until_ns =
                    self.state.now_ns + PAUSE.as_nanos() as u64;
                self.pause_ends_ns = Some(self.listeners[number].paused_until_ns);
                self.state.incident(format!(
                    "accept failed ({}); accepting pauses for {} ms",
                    std::io::Error::from_raw_os_error(error),
                    PAUSE.as_millis()
                ));
            }
        }
    }

    /// Gives up the listeners whose last accept completed: a drain's clients go elsewhere.
    pub(super) fn remove_listeners(&mut self) {
        for listener in &mut self.listeners {
            if listener.armed == 0 && !listener.is_removed {
                listener.is_removed = true;
                self.driver.remove_listener(listener.driver_number);
            }
        }
    }

    /// Cancels one accept of each listener; the one that is armed instead sees whoever waits.
    pub(super) fn look_at_backlog(&mut self) {
        if self.state.mode != Mode::Open {
            return;
        }
        let mut is_done = vec![false; self.listeners.len()];
        for index in self.state.table.in_use() {
            let connection = &self.state.table[index];
            let listener = usize::from(connection.listener);
            if connection.phase == Phase::Accept && !is_done[listener] {
                is_done[listener] = true;
                self.driver.cancel_accept(self.state.table.token(index));
            }
        }
    }

    /// Cancels the armed accepts: the drain's backlog is dry, or the loop stops.
    pub(super) fn disarm_accepts(&mut self) {
        if self.is_disarmed {
            return;
        }
        self.is_disarmed = true;
        for index in self.state.table.in_use() {
            if self.state.table[index].phase == Phase::Accept {
                self.driver.cancel_accept(self.state.table.token(index));
            }
        }
    }
}
