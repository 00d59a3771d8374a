//! The loop's end (signatures).
use crate::SlotIndex;
use crate::geometry::Geometry;
use crate::record::RecordWriter;
use crate::response::{ResponseEnd, Statement};
use crate::seats::SeatTable;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
/// A value that no correct worker writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// What was seen.
    pub what: &'static str,
    /// In which slot.
    pub slot: Option<SlotIndex>,
    /// Some: that seat's worker is to be killed. None: the pool is condemned.
    pub seat: Option<u16>,
}
/// How the request body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// All of it was written.
    Complete,
    /// Client gone, timed out or malformed: reading it raises.
    Broken,
}
/// The ready queue has no room: answer 503, cancel the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;
/// Outcome of `withdraw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Nobody had it; the slot is free again.
    Withdrawn,
    /// A seat runs it.
    Running,
}
/// Outcome of `abandon`. In both cases the slot stays the caller's until `release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandonment {
    /// The seat is told; `release` will quarantine the slot until the seat is done or dead.
    Abandoned,
    /// The seat had finished first: its response is whole.
    Finished,
}
/// What a request's slot says now. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Progress {
    /// The seat that owns it.
    pub claimed_by: Option<u16>,
    /// When.
    pub claimed_at_ns: Option<u64>,
    /// When the head was committed.
    pub first_byte_at_ns: Option<u64>,
    /// What the worker stated with its first bytes.
    pub statement: Option<Statement>,
    /// Response bytes written and not yet `sent`.
    pub unsent: usize,
    /// Set once the seat is done.
    pub end: Option<ResponseEnd>,
    /// Request body bytes that `write_body` would take now.
    pub body_room: usize,
}
/// Bytes in the mapping.
#[derive(Clone, Copy, Debug)]
pub struct RawPiece {
    /// First byte.
    pub pointer: *const u8,
    /// Length in bytes; 0 = nothing.
    pub length: usize,
}
/// Why a seat is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// New work was queued.
    Fresh,
    /// The queue's head has waited for 500 µs.
    Waited,
}
/// A worker of the pool, as the loop knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSeats {
    /// The worker's number, unique in the server's life.
    pub worker: u32,
    /// Its seats.
    pub seats: Range<u16>,
    /// Its generation.
    pub generation: u32,
    /// One lock for all its threads (GIL).
    pub one_lock: bool,
    /// Paired with this loop (same core).
    pub paired: bool,
}
/// How many slots are in each state. They add up to the slots of the geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Usable now.
    pub free: u32,
    /// Reserved, not queued.
    pub reserved: u32,
    /// Queued, no seat has it.
    pub queued: u32,
    /// A seat owns it, or its response is still with the loop.
    pub running: u32,
    /// Released by the loop, still held by a seat or the kernel.
    pub quarantined: u32,
}
/// The descriptors to pass to a worker, in this order.
#[derive(Clone, Copy, Debug)]
pub struct LoopDescriptors<'a> {
    /// Written by the loop; cannot be mapped writable.
    pub down: BorrowedFd<'a>,
    /// Written by workers.
    pub up: BorrowedFd<'a>,
    /// The loop's eventfd.
    pub bell: BorrowedFd<'a>,
}
/// The loop's end for one pool.
#[derive(Debug)]
pub struct LoopEnd {
    _not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}
#[allow(clippy::unimplemented, missing_docs, clippy::missing_errors_doc, unused_variables)]
impl LoopEnd {
    pub fn create(
        loop_index: u16,
        geometry: Geometry,
        seats: Arc<SeatTable>,
        bell: OwnedFd,
    ) -> io::Result<LoopEnd> {
        unimplemented!()
    }
    pub fn descriptors(&self) -> LoopDescriptors<'_> {
        unimplemented!()
    }
    pub fn reserve(&mut self) -> Option<SlotIndex> {
        unimplemented!()
    }
    pub fn record(&mut self, slot: SlotIndex) -> RecordWriter<'_> {
        unimplemented!()
    }
    pub fn cancel_reservation(&mut self, slot: SlotIndex) {
        unimplemented!()
    }
    pub fn write_body(&mut self, slot: SlotIndex, bytes: &[u8]) -> Result<usize, Impossible> {
        unimplemented!()
    }
    pub fn finish_body(&mut self, slot: SlotIndex, end: BodyEnd) {
        unimplemented!()
    }
    pub fn enqueue(&mut self, slot: SlotIndex, now_ns: u64) -> Result<(), QueueFull> {
        unimplemented!()
    }
    pub fn withdraw(&mut self, slot: SlotIndex) -> Result<Withdrawal, Impossible> {
        unimplemented!()
    }
    /// Every slot that was enqueued is given back exactly once: by `withdraw` → `Withdrawn`, else by
    /// `release`. So `abandon` must be followed by `release`, at once or when the caller's sends ended.
    pub fn abandon(&mut self, slot: SlotIndex) -> Result<Abandonment, Impossible> {
        unimplemented!()
    }
    pub fn sweep(&mut self, news: &mut Vec<SlotIndex>) {
        unimplemented!()
    }
    pub fn progress(&mut self, slot: SlotIndex) -> Result<Progress, Impossible> {
        unimplemented!()
    }
    pub fn unsent(&self, slot: SlotIndex) -> [RawPiece; 2] {
        unimplemented!()
    }
    /// Appends the first `bytes` of `unsent` to `into` (a safe copy; `bytes` at most what is unsent).
    pub fn copy_unsent(&self, slot: SlotIndex, bytes: usize, into: &mut Vec<u8>) {
        unimplemented!()
    }
    /// The number of the worker whose seat this is.
    pub fn worker_of(&self, seat: u16) -> Option<u32> {
        unimplemented!()
    }
    pub fn sent(&mut self, slot: SlotIndex, bytes: usize) {
        unimplemented!()
    }
    pub fn kernel_holds(&mut self, slot: SlotIndex) {
        unimplemented!()
    }
    pub fn kernel_released(&mut self, slot: SlotIndex) {
        unimplemented!()
    }
    /// true = free now; false = quarantined, freed later by itself. Not the caller's any more either way.
    pub fn release(&mut self, slot: SlotIndex) -> Result<bool, Impossible> {
        unimplemented!()
    }
    pub fn wake_one(&mut self, wake: Wake) -> bool {
        unimplemented!()
    }
    pub fn queue_is_empty(&mut self) -> Result<bool, Impossible> {
        unimplemented!()
    }
    pub fn oldest_queued_ns(&self) -> Option<u64> {
        unimplemented!()
    }
    pub fn prepare_sleep(&mut self) -> Result<bool, Impossible> {
        unimplemented!()
    }
    pub fn awake(&mut self) {
        unimplemented!()
    }
    pub fn set_closing(&mut self, closing: bool) {
        unimplemented!()
    }
    /// "Close after this one": read by the writer before the head.
    pub fn set_close_after(&mut self, slot: SlotIndex) {
        unimplemented!()
    }
    pub fn set_generations(&mut self, floor: u32, ceiling: u32) {
        unimplemented!()
    }
    /// Before the worker's Setup is sent: it may claim as soon as it has attached.
    pub fn worker_joined(&mut self, worker: WorkerSeats) {
        unimplemented!()
    }
    /// Call `sweep` once more afterwards: responses that were whole before the death are news then.
    pub fn worker_died(
        &mut self,
        worker: u32,
        owned: &mut Vec<SlotIndex>,
    ) -> Result<(), Impossible> {
        unimplemented!()
    }
    pub fn counts(&self) -> Counts {
        unimplemented!()
    }
    pub fn give_back_pages(&mut self, now_ns: u64) -> u32 {
        unimplemented!()
    }
}
