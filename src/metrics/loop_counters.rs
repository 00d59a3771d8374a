//! What one event loop counts.
//!
//! Where it stands in the walk of a request: every room of the loop adds here; the control plane
//! reads.
//!
//! Invariants: one thread writes a counter, any thread reads it. Relaxed throughout: a counter
//! orders nothing, a reader wants a recent value and no more.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning thread calls it, so a load and a store do (no locked instruction).
    pub fn add(&self, count: u64) {
        // Relaxed: single writer, see the module.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// A recent value.
    pub fn read(&self) -> u64 {
        // Relaxed: see the module.
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one loop. Names end in what they count; all are totals since start.
#[derive(Debug, Default)]
pub struct LoopCounters {
    /// Connections accepted.
    pub accepted: Counter,
    /// Accepts that failed (descriptor limits, memory).
    pub accept_errors: Counter,
    /// Peers turned away (`--uwsgi-allow-from`).
    pub peers_refused: Counter,
    /// Requests handed to the exchange.
    pub requests: Counter,
    /// Requests for a health path, answered by the loop.
    pub health_answers: Counter,
    /// Seats woken for requests that waited.
    pub seats_woken: Counter,
    /// Requests whose reply went out whole.
    pub replies: Counter,
    /// Requests refused because the bytes were malformed or over a limit.
    pub malformed: Counter,
    /// Requests refused with 503: bounds of queue, memory, disk or time.
    pub overloaded: Counter,
    /// Clients that left while their request was queued (499).
    pub left_while_queued: Counter,
    /// Replies cut because the client left or took nothing for too long.
    pub replies_cut: Counter,
    /// Requests that ran into `--timeout`.
    pub timeouts: Counter,
    /// Requests whose worker died while it ran them.
    pub worker_deaths: Counter,
    /// Replies that ended short of what they stated, or by an application's fault.
    pub replies_broken: Counter,
    /// Receives that found no provided buffer.
    pub buffers_dry: Counter,
    /// Reports dropped because the channel was full.
    pub reports_dropped: Counter,
    /// Completions of connections that were gone.
    pub stale_completions: Counter,
    /// Turns of the loop.
    pub turns: Counter,
    /// Impossible values stated by workers.
    pub impossible: Counter,
}
