//! The atomics, futex and bell that the protocol files are written against.
//!
//! In production these are the plain ones, laid out as the shared memory needs them. Under `--cfg
//! loom` they are loom's, each operation counted as one step of the thread that makes it, so that a
//! model can let a party stop for ever after any of its steps. The protocol files (claim, queue,
//! ring, news, seats, waits) import only from here; that is why the models run the code that ships.
//!
//! Orderings: a value is published by a `Release` store or swap and taken by an `Acquire` load.
//! Where two sides each write one thing and read the other's (every sleep and wake flag), both put
//! `fence(SeqCst)` between: at least one of them then sees the other's write.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
/// For what one process keeps to itself: no lock lies in shared memory.
#[cfg(not(loom))]
pub use std::sync::Mutex;

#[cfg(not(loom))]
mod real;
#[cfg(not(loom))]
pub use real::{Bell, FutexWord};

#[cfg(loom)]
mod model;
#[cfg(loom)]
pub use loom::sync::Mutex;
#[cfg(loom)]
pub use loom::sync::atomic::{Ordering, fence};
#[cfg(loom)]
pub use model::{AtomicU32, AtomicU64, Bell, FutexWord, Stopped, mortal};

/// Why a futex wait returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FutexWake {
    /// Woken, or the word had changed, or for no reason.
    Woken,
    /// A signal handler ran on this thread.
    Signal,
    /// The time passed.
    TimedOut,
}
