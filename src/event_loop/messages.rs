//! What the supervisor tells a loop, and what a loop tells the supervisor.
//!
//! Where it stands in the walk of a request: beside it. Both directions are bounded channels
//! (`config/limits.rs`); a command is followed by a ring of the loop's bell, since a sleeping loop
//! watches nothing else.
//!
//! Invariants: commands are never dropped (the supervisor waits for room). Of reports only access
//! records are dropped when the channel is full; what someone waits for is kept by the loop until
//! it fits (a few for each death of a worker).

use std::time::Duration;

use ringhorn_exchange::control::Interrupt;
use ringhorn_exchange::{LoopEnd, WorkerSeats};

use crate::log::AccessRecord;

/// From the supervisor to one loop.
#[derive(Debug)]
pub enum Command {
    /// The first worker is READY: accept.
    OpenAccepts,
    /// How ready the server is changed.
    Readiness(Readiness),
    /// A worker is READY and its seats may be woken.
    WorkerJoined {
        /// Which pool.
        pool: u8,
        /// Its seats.
        seats: WorkerSeats,
    },
    /// A worker's process ended: answer for what it ran, then acknowledge.
    WorkerDied {
        /// Which pool.
        pool: u8,
        /// Its number.
        worker: u32,
    },
    /// Which generations may pull.
    Generations {
        /// Which pool.
        pool: u8,
        /// The oldest that pulls.
        floor: u32,
        /// The newest that pulls.
        ceiling: u32,
    },
    /// Tell how much there is to do.
    Measure {
        /// Which pool.
        pool: u8,
    },
    /// Look at the backlogs anew: another process accepts from the same listeners, and the kernel
    /// wakes one waiter for a connection. One that is cancelled, stopped or killed takes the
    /// wake-up along, and the connection would wait for the next one to come.
    LookAtBacklog,
    /// A condemned pool's new segments; its workers are dead and acknowledged.
    ReplacePool {
        /// Which pool.
        pool: u8,
        /// The loop's end of the new segments.
        end: Box<LoopEnd>,
    },
    /// Before `Drain`: others serve all listeners, and the backlogs with them.
    LeaveBacklog,
    /// Graceful stop: drain the backlog, finish what runs, close what is idle, then report
    /// `Drained`.
    Drain {
        /// Connections still busy after this long are cut.
        within: Duration,
    },
    /// End the thread now.
    Quit,
}

/// What a pool has to do, as one loop sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait for a seat.
    pub queued: u32,
    /// Requests that seats run.
    pub running: u32,
    /// How long the oldest of those that wait has waited.
    pub longest_wait: Duration,
}

/// What the supervisor knows of the server's readiness; the rest a loop sees itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Workers that are READY.
    pub workers: u32,
    /// The end was asked for: new clients should go elsewhere, although they are still served.
    pub is_stopping: bool,
}

/// Requests that a worker's death cost: as many clients saw a failure, none besides them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Answered with 502: nothing of a response had gone out.
    pub answered: u32,
    /// Cut in the middle of a response.
    pub cut: u32,
}

impl Lost {
    /// What two loops lost.
    #[must_use]
    pub fn and(self, other: Lost) -> Lost {
        Lost { answered: self.answered + other.answered, cut: self.cut + other.cut }
    }

    /// All of them.
    pub fn requests(self) -> u32 {
        self.answered + self.cut
    }
}

/// From a loop to the supervisor.
#[derive(Debug)]
pub enum Report {
    /// A finished request, for the access log.
    Access(Box<AccessRecord>),
    /// Something an operator should read; rate-limited by the loop.
    Incident {
        /// Which loop.
        event_loop: u16,
        /// What happened, one sentence.
        text: String,
    },
    /// Every trace of a dead worker is gone from this loop: its seats may be used again.
    DeathAcknowledged {
        /// Which loop.
        event_loop: u16,
        /// Which pool.
        pool: u8,
        /// Its number.
        worker: u32,
        /// What the death cost.
        lost: Lost,
    },
    /// A request that runs is to be looked at or interrupted.
    Interrupt {
        /// Which pool.
        pool: u8,
        /// Which request, and why.
        interrupt: Box<Interrupt>,
    },
    /// A seat stated an impossible value: its worker is to be killed.
    KillWorker {
        /// Which loop.
        event_loop: u16,
        /// Which pool.
        pool: u8,
        /// The seat.
        seat: u16,
        /// What was impossible.
        why: &'static str,
    },
    /// The pool's shared words are impossible: its workers are to be killed, its segments replaced.
    PoolCondemned {
        /// Which loop.
        event_loop: u16,
        /// Which pool.
        pool: u8,
        /// What was impossible.
        why: &'static str,
    },
    /// How much there is to do, as asked.
    Measured {
        /// Which loop.
        event_loop: u16,
        /// The answer.
        load: Load,
    },
    /// The drain is over: no connection is open.
    Drained {
        /// Which loop.
        event_loop: u16,
    },
    /// The driver broke: the server must end.
    Failed {
        /// Which loop.
        event_loop: u16,
        /// The driver's words.
        error: std::io::Error,
    },
}
