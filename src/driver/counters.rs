//! What a driver counts about itself.
//!
//! Stands beside the walk of a request: the loop reads the counters once in a while and hands them
//! to the metrics. Plain integers: a driver belongs to one thread, nothing here is shared.
//!
//! Invariant: every counter only grows, from 0 at start.

/// Totals since the driver was made. A turn is one call of [`Driver::turn`](super::Driver::turn).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `turn`.
    pub turns: u64,
    /// System calls that entered the kernel ring (turns without any work save theirs).
    pub enters: u64,
    /// Enters that were allowed to wait.
    pub sleeps: u64,
    /// Enters that waited until their time was over.
    pub timeouts: u64,
    /// Enters ended by a signal.
    pub interrupted: u64,
    /// Enters that the kernel refused for the moment (EBUSY, EAGAIN) and that were repeated.
    pub refused: u64,
    /// Operations given to the kernel.
    pub submitted: u64,
    /// Completions taken from the kernel.
    pub completed: u64,
    /// Turns that found the completion queue overflown. It should stay 0: the queue is too small.
    pub overflows: u64,
    /// Times the submission queue was full in the middle of a turn.
    pub submission_full: u64,
    /// Accepts that failed, cancelled ones excepted.
    pub accept_errors: u64,
    /// Multishot receives armed.
    pub multishots: u64,
    /// Bytes that came before they were asked for: each ends a multishot receive.
    pub receives_held: u64,
    /// Receives that found no provided buffer, those the driver repeated by itself included.
    pub buffers_exhausted: u64,
    /// Times the set of provided buffers in the kernel's hands was doubled.
    pub buffers_grown: u64,
    /// Sends that failed or were cut short.
    pub send_errors: u64,
    /// Closes that failed.
    pub close_errors: u64,
    /// Rings of the bell.
    pub bells: u64,
    /// Times the kernel ended the poll on the bell and it was armed again.
    pub bell_rearms: u64,
    /// Completions nobody asked for: a bug when not 0.
    pub unknown: u64,
}
