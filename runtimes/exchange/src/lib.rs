//! The shared-memory hand-over between Ringhorn's event loops and the interpreters they feed; both
//! ends.
//!
//! Where it stands in the walk of a request: between `event_loop/dispatch.rs`, which fills a slot
//! and queues it, and a runtime's seat, which claims it, calls the application and writes the
//! response that `event_loop/reply.rs` sends.
#![deny(unsafe_code)]
// A model is built from the protocol files alone, and from none of them wholly.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

/// Slot number: an index below [`Geometry::slots`].
pub type SlotIndex = u32;

// The protocol: atomics only, no unsafe, the same code in production and in the models.
mod claim;
mod lines;
mod news;
mod queue;
mod ring;
mod seat_line;
// The futex and bell system calls.
#[allow(unsafe_code)]
mod sync;

// The memory and the two ends: not part of a model.
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod clock;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod control;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod fork;
#[cfg(not(loom))]
mod framing;
mod geometry;
pub mod keys;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod loop_end;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod memory;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod request;
#[cfg(not(loom))]
mod response;
#[cfg(not(loom))]
mod seats;
#[cfg(not(loom))]
mod segments;
#[cfg(not(loom))]
mod slots;
#[cfg(not(loom))]
mod statement;
#[cfg(not(loom))]
mod wake;
#[cfg(not(loom))]
mod worker_end;

pub use geometry::{
    Geometry, IDLE_PAGES_NS, LAYOUT_HASH, LAYOUT_VERSION, LOOPS_MAX, SEATS_MAX, SLOTS_MAX,
    WAITED_NS,
};
pub use keys::KeyId;
#[cfg(not(loom))]
pub use {
    fork::is_forked,
    framing::HeadError,
    loop_end::{
        Abandonment, BodyEnd, Counts, Impossible, LoopDescriptors, LoopEnd, Progress, QueueFull,
        RawPiece, Withdrawal,
    },
    record::{
        Key, MethodId, Protocol, RecordFlags, RecordHead, RecordStart, RecordTooLarge,
        RecordWriter, Variable, Variables,
    },
    request::{BodyRead, Claim},
    response::{ResponseWriter, WriteError},
    seats::SeatTable,
    statement::{ResponseEnd, StatedBody, Statement},
    wake::{Wake, WorkerSeats},
    worker_end::{AttachError, LoopDescriptorsOwned, RequestWake, Seat, WorkWake, WorkerEnd},
};

#[cfg(all(test, loom))]
mod models;
