//! The end of a connection.
//!
//! Where it stands in the walk of a request: behind the reply that is not followed by another.
//!
//! Invariants:
//! - A descriptor is closed only when nothing is armed on it: what is armed is cancelled first, and
//!   each operation's own completion is waited for (io_uring: a close does not cancel).
//! - A client that may still be sending gets a FIN and a bounded drain first: closing with unread
//!   input would reset the connection and could take the answer with it.
//! - The number is retired with the close's completion, never before.

use std::time::Duration;

use super::state::State;
use crate::connection::{Intent, Phase, Sending};
use crate::driver::ConnectionIndex;

/// How long a drain lasts at most. Chosen by taste: a round trip and a slow client's next window.
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl State {
    /// Starts to end a connection whose last answer is out (or will never be).
    pub fn begin_close(&mut self, index: ConnectionIndex) {
        let connection = &mut self.table[index];
        if connection.linger && !connection.gone && !connection.peer_finished {
            connection.linger = false;
            connection.phase = Phase::Drain;
            connection.drained_bytes = 0;
            let receives = connection.receiving;
            self.intend(index, Intent::ShutdownWrite);
            if !receives {
                self.intend(index, Intent::Receive { idle: true });
            }
            self.set_deadline(index, DRAIN_TIME);
            return;
        }
        connection.phase = Phase::Close;
        self.wheel.clear(&mut self.table, index);
        let connection = &mut self.table[index];
        if connection.is_armed() {
            connection.cancelling = true;
            self.intend(index, Intent::Cancel);
        } else {
            self.close_now(index);
        }
    }

    /// Closes a connection that waits for a request. What its client sent until then is still
    /// served: the receive is cancelled, another one tried that does not wait, and what that brings
    /// decides (a cancelled receive may leave bytes in the socket).
    pub fn close_idle(&mut self, index: ConnectionIndex) {
        let connection = &mut self.table[index];
        if !connection.receiving {
            self.begin_close(index);
        } else if !connection.cancelling {
            connection.cancelling = true;
            self.intend(index, Intent::Cancel);
        }
    }

    /// The receive of an idle connection was cancelled to close it.
    pub fn step_idle_close(&mut self, index: ConnectionIndex) {
        let connection = &mut self.table[index];
        connection.looks_last = !connection.looks_last;
        if connection.looks_last {
            self.intend(index, Intent::Receive { idle: false });
            self.intend(index, Intent::Cancel);
        } else {
            connection.cancelling = false;
            self.begin_close(index);
        }
    }

    /// The client of an idle connection sent something: it is not closed. Whether it was about to.
    pub fn keep_from_idle_close(&mut self, index: ConnectionIndex) -> bool {
        let connection = &mut self.table[index];
        if connection.phase != Phase::Head || !connection.cancelling {
            return false;
        }
        connection.cancelling = false;
        connection.looks_last = false;
        true
    }

    fn close_now(&mut self, index: ConnectionIndex) {
        let resets = self.table[index].resets;
        self.intend(index, if resets { Intent::Reset } else { Intent::Close });
    }

    /// An operation ended while the connection closes: the last one lets it close.
    pub fn step_close(&mut self, index: ConnectionIndex) {
        let connection = &self.table[index];
        if connection.phase == Phase::Close && !connection.is_armed() {
            self.close_now(index);
        }
    }

    /// The descriptor is closed (by itself, or behind its last send): the number is free.
    pub fn on_closed(&mut self, index: ConnectionIndex) {
        self.let_go(index);
        self.wheel.remove(&mut self.table, index);
        self.table.retire(index);
    }

    /// Lets go of the memory a connection held for its request.
    pub fn let_go(&mut self, index: ConnectionIndex) {
        let Some(extra) = &mut self.table[index].extra else { return };
        extra.stash = Vec::new();
        let is_idle = self.table[index].sending == Sending::Nothing
            && !self.table[index].spooling
            && !self.table[index].receiving;
        // Memory that the kernel still reads or writes stays until its completion.
        if is_idle {
            self.drop_body(index);
            if let Some(extra) = &mut self.table[index].extra {
                extra.out = None;
            }
        }
    }
}
