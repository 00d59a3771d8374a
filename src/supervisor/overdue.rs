//! Requests that run too long, as the supervisor sees them: loops say which, workers are told.
//!
//! Beside the walk of a request. The event loop keeps the deadline and has answered already; the
//! worker logs the stack, interrupts, keeps the grace, and says here when a request does not unwind
//! in it. Then the worker takes no more work and its other requests finish, while a replacement
//! boots (`places.rs`). Only where no other worker serves it takes work until that is READY, or
//! nobody would. It ends itself when only stuck ones are left, and is killed at
//! `--graceful-timeout` if they never are alone.

use ringhorn_exchange::control::{Interrupt, Stuck, Why};

use super::pool::Pool;
use super::recycling;

impl Pool<'_> {
    /// A request ran for long or too long, or lost its client: its worker is told.
    pub fn interrupt(&self, interrupt: Interrupt) {
        let worker = self.workers.values().find(|worker| worker.seats.contains(&interrupt.seat));
        // Gone meanwhile, and the request with it.
        let Some(worker) = worker else { return };
        let (number, pid) = (worker.number, worker.pid);
        let (request, id) = (&interrupt.request, &interrupt.request_id);
        match interrupt.why {
            Why::Timeout => tracing::error!(
                "worker {number} (pid {pid}): {request} (request {id}) ran longer than --timeout"
            ),
            Why::Slow => tracing::warn!(
                "worker {number} (pid {pid}): {request} (request {id}) runs longer than \
                 --slow-request-log"
            ),
            Why::ClientLeft => tracing::debug!(
                "worker {number} (pid {pid}): the client of {request} (request {id}) left"
            ),
        }
        worker.interrupt(interrupt);
    }

    /// A request that was interrupted runs on.
    pub(super) fn is_stuck(&mut self, number: u32, stuck: &Stuck) {
        let pid = self.pid_of(number);
        tracing::error!(
            "worker {number} (pid {pid}): the request of seat {} did not unwind within \
             --interrupt-grace",
            stuck.seat
        );
        self.replace(number, recycling::Why::Stuck);
        if self.serves_without(number) {
            self.leave(number);
        }
    }
}
