//! The shared-memory hand-over between Ringhorn's event loops and the interpreters they feed; both ends.
//!
//! Where it stands in the walk of a request: between `event_loop/dispatch.rs`, which fills a slot and
//! queues it, and a runtime's seat, which claims it, calls the application and writes the response that
//! `event_loop/reply.rs` sends.
#![deny(unsafe_code)]

/// Slot number: an index below [`Geometry::slots`].
pub type SlotIndex = u32;

// Ancillary data of the control socket is laid out by hand.
#[allow(unsafe_code)]
pub mod control;
pub mod geometry;
pub mod keys;
#[allow(unsafe_code)]
pub mod loop_end;
pub mod record;
pub mod response;
#[allow(unsafe_code)]
pub mod seats;
#[allow(unsafe_code)]
pub mod worker_end;

pub use geometry::{Geometry, LAYOUT_HASH, LAYOUT_VERSION, LOOPS_MAX, SEATS_MAX};
pub use keys::KeyId;
pub use loop_end::{
    Abandonment, BodyEnd, Counts, Impossible, LoopDescriptors, LoopEnd, Progress, QueueFull,
    RawPiece, Wake, Withdrawal, WorkerSeats,
};
pub use record::{
    Key, MethodId, Protocol, RecordFlags, RecordHead, RecordStart, RecordTooLarge, RecordWriter,
    Variable, Variables,
};
pub use response::{HeadError, ResponseEnd, ResponseWriter, StatedBody, Statement, WriteError};
pub use seats::SeatTable;
pub use worker_end::{
    AttachError, BodyRead, Claim, LoopDescriptorsOwned, RequestWake, Seat, WorkWake, WorkerEnd,
    is_forked,
};
