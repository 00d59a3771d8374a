//! One event loop: a thread, a ring, a share of the connections.
//!
//! Where it stands in the walk of a request: everywhere but in the application. A turn is
//! submit → reap → act: [`EventLoop::turn`] asks the driver once, copies what completed, and only
//! then acts on it; what is decided is carried out at once and reaches the kernel with the next
//! turn's one `enter`.
//!
//! | file | step |
//! |---|---|
//! | `accept.rs` | accept completion → a connection |
//! | `receive.rs` | bytes → codec → head, body or rest |
//! | `admission.rs` | head → refused, gathered or dispatched |
//! | `health.rs` | head of a health path → answered here |
//! | `gather.rs` | bodies in memory, in spool files, into the ring |
//! | `dispatch.rs`, `request_record.rs`, `uwsgi_record.rs` | slot, record, ready queue |
//! | `reply.rs` | news → send → slot given back → next request or close |
//! | `close.rs`, `expiry.rs`, `deadlines.rs`, `overdue.rs` | ends and deadlines |
//! | `commands.rs`, `messages.rs` | the supervisor |
//! | `intents.rs` | what was decided → driver operations |
//!
//! Invariants: the thread never blocks but in the driver's turn, never runs an application, and
//! never acts while completions are being drained. Before it sleeps without a timer it has seen
//! every ready queue empty and then every bitmap empty.

mod accept;
mod access;
mod admission;
mod close;
mod commands;
pub mod deadlines;
mod dispatch;
mod expiry;
mod gather;
mod health;
#[allow(unsafe_code)] // Operations borrow memory until their completion; see the file.
mod intents;
pub mod messages;
mod overdue;
mod receive;
mod reply;
mod request_record;
mod start;
mod state;
mod table;
mod turn;
mod uwsgi_record;

pub use messages::{Command, Load, Lost, Readiness, Report};
pub use start::{LoopSetup, connection_numbers, start};

use accept::Listener;
use state::State;

use crate::driver::{Completion, ConnectionIndex, Driver};
use crate::sys::eventfd::EventFd;

/// See the module.
#[derive(Debug)]
pub struct EventLoop<D: Driver> {
    driver: D,
    state: State,
    listeners: Vec<Listener>,
    completions: Vec<Completion>,
    reports_bell: EventFd,
    due: Vec<ConnectionIndex>,
    last_accept_ns: u64,
    drain_began_ns: u64,
    drain_ends_ns: u64,
    pause_ends_ns: Option<u64>,
    is_disarmed: bool,
    /// A drain takes nothing more from the backlogs.
    leaves_backlog: bool,
    has_closed_idle: bool,
    /// The drain's time is over and whoever still waited was told.
    has_refused_rest: bool,
    has_drained: bool,
    /// It has not turned yet.
    is_fresh: bool,
    /// Requests counted when pages were last looked at, when to look next, and until when.
    requests_seen: u64,
    pages_next_ns: u64,
    pages_until_ns: u64,
    /// Monotonic nanoseconds; a test's loop lives in virtual time.
    clock: fn() -> u64,
}

#[cfg(test)]
mod tests;
