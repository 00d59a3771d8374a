//! The shared-memory hand-over between Ringhorn's event loops and the interpreters they feed; both
//! ends.
//!
//! Where it stands in the walk of a request: between `event_loop/dispatch.rs`, which fills a slot
//! and queues it, and a runtime's seat, which claims it, calls the application and writes the
//! response that `event_loop/reply.rs` sends.
//!
//! This page is the contract for whoever writes another implementation of either end. A runtime in
//! Rust uses [`WorkerEnd`], [`Seat`], [`Claim`] and [`ResponseWriter`]; a loop uses [`LoopEnd`] and
//! [`SeatTable`]; both use [`control`] to meet. `docs/exchange.md` says why it is so.
//!
//! # Memory map
//!
//! Three kinds of segment, each a sealed memfd that starts with an identity (magic, layout version
//! and hash, kind, loop, sizes; `geometry`) which the other side compares before it touches
//! anything else. Offsets follow from the sizes alone; there are no pointers.
//!
//! | segment | part | bytes | written by | read by |
//! |---|---|---|---|---|
//! | down | identity | 128 | loop, once | workers |
//! | | `tail`; sleep flag; generations and closing | 3 × 128 | loop | workers |
//! | | ready queue entries {epoch 40, slot 24} | 8 × capacity | loop | workers |
//! | | slot lines: see `lines::DownSlot` | 64 × slots | loop | owner |
//! | | request rings: record, then the body's ring | ring × slots | loop | owner |
//! | up | identity | 128 | loop, once | workers |
//! | | `head` | 128 | whoever steps | all |
//! | | news bitmap | 8 × ⌈slots/64⌉ | workers set, loop clears | loop |
//! | | slot lines: see `lines::UpSlot` | 128 × slots | owner; loop while FREE | loop, owner |
//! | | response rings | ring × slots | owner | loop, kernel |
//! | seats | identity | 128 | supervisor, once | all |
//! | | idle bitmap | 128 | seats; loop for the dead | loops |
//! | | seat lines: futex word | 128 × seats | seat, wakers | all |
//!
//! A loop and pool have one *down* and one *up*; all loops of a pool share its *seats*. The
//! capacity of the queue is the power of two from 4 × slots up. Workers get *down* by a descriptor
//! that cannot write.
//!
//! # A request, step by step
//!
//! | step | by | writes | ordering |
//! |---|---|---|---|
//! | fill | loop | record, gathered body, both slot lines reset | plain, relaxed |
//! | queue | loop | claim word FREE → QUEUED, new epoch | swap, releases the above |
//! | | loop | entry, then `tail` | relaxed, then release |
//! | wake | loop | seat word IDLE → NOTIFIED, one futex wake | after `fence(SeqCst)` |
//! | take | seat | QUEUED → OWNED, then `head` + 1, won or not | swap, acquires the record |
//! | body | loop, seat | bytes, `body_written`; copied, `body_consumed` | release, acquire |
//! | answer | seat, loop | bytes, `response_written`; `response_sent` | release, acquire |
//! | end | seat | outcome, then claim word OWNED or ABANDONED → DONE | swap, releases all |
//! | tell | seat | news bit; the bell if the loop sleeps | release, `fence(SeqCst)`, flag |
//! | give up | loop | OWNED → ABANDONED; QUEUED → FREE | swap; then wakes the owner |
//! | free | loop | DONE → FREE, or any word of a dead owner | swap |
//!
//! Positions count from the request's start, an index is `position % ring size`, and every request
//! starts at 0. The body's ring begins at the next multiple of 64 after the record and takes the
//! rest of the request ring, so the record stays readable while the body streams.
//!
//! # Waits
//!
//! Every wait is the same two-sided handshake: *I* store "I sleep", fence, look once more, sleep;
//! *you* publish, fence, look whether I sleep, wake. One of us sees the other.
//!
//! | who waits | for | flag | last look | who wakes |
//! |---|---|---|---|---|
//! | loop | news | `sleeping` | bitmap | worker, by the bell |
//! | loop | room for body | `wants_room`, then as above | `body_consumed` | reader, at half free |
//! | seat | work | word IDLE | queues, stop, generations, interrupt | loop |
//! | seat | body bytes | word WAITING | `body_written`, state, claim word | loop |
//! | seat | room for response | word WAITING | half of the ring free, claim word | loop |
//!
//! A worker may be killed between any two of these steps. What it held is found by its seat number
//! in the claim words; a wake-up it swallowed is made good because a loop whose queue is not empty
//! sleeps for 500 µs at most; a bell it did not ring is made good by the sweep at its death.
//!
//! # Proof
//!
//! `src/models` (loom: `make loom`), `tests/kill.rs`, `tests/scribble.rs`, `tests/forked.rs`. The
//! modules without system calls (`keys`, `geometry`, `framing`, `record`, `ring`, `statement`,
//! `claim`, `queue`) can run under Miri: `cargo miri test -p ringhorn-exchange --lib MODULE`.
#![deny(unsafe_code)]
// A model is built from the protocol files alone, and from none of them wholly.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

/// Slot number: an index below [`Geometry::slots`].
pub type SlotIndex = u32;

// The protocol: atomics only, no unsafe, the same code in production and in the models.
mod claim;
mod grant;
mod lines;
mod news;
mod queue;
mod ring;
mod running;
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
mod large_rings;
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
    Geometry, IDLE_PAGES_NS, LARGE_RINGS_MAX, LAYOUT_HASH, LAYOUT_VERSION, LOOPS_MAX, SEATS_MAX,
    SLOTS_MAX, WAITED_NS,
};
pub use keys::KeyId;
pub use running::{Running, Tenure};
#[cfg(not(loom))]
pub use {
    fork::is_forked,
    framing::{DATE_BYTES, HeadError, format_date},
    loop_end::{
        Abandonment, BodyEnd, Counts, Impossible, LoopDescriptors, LoopEnd, Progress, QueueFull,
        RawPiece, Runner, Withdrawal,
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
