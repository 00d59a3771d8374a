//! The shared memory of a pool: made here, given to loops, its descriptors handed to workers.
//!
//! Once at start, and again when a loop found that it cannot be trusted any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ringhorn_exchange::{Geometry, LARGE_RINGS_MAX, LoopEnd, SeatTable};

use super::fault::{ExitCode, Fault};
use super::generations::Generations;
use super::loops::LoopMemory;
use crate::config::LoopSettings;
use crate::sys::eventfd::EventFd;

/// Descriptors of a pool's segments.
#[derive(Debug)]
pub struct PoolMemory {
    seats: Arc<SeatTable>,
    loops: Vec<LoopMemory>,
}

impl PoolMemory {
    /// Makes the segments of a pool of so many seats for the loops with these bells. Returned
    /// beside it: each loop's end.
    ///
    /// # Errors
    /// The kernel has no memory or no descriptors left.
    pub fn create(
        seats: u32,
        settings: &LoopSettings,
        bells: &[EventFd],
        generations: Generations,
    ) -> Result<(PoolMemory, Vec<LoopEnd>), Fault> {
        let make = || {
            let table = Arc::new(SeatTable::create(seats)?);
            let geometry = geometry(seats, settings);
            let mut loops = Vec::new();
            let mut ends = Vec::new();
            for (index, bell) in bells.iter().enumerate() {
                let own_bell = OwnedFd::from(bell.try_clone()?);
                // At most EVENT_LOOPS_MAX of them.
                let mut end =
                    LoopEnd::create(index as u16, geometry, Arc::clone(&table), own_bell)?;
                end.set_generations(generations.floor, generations.ceiling);
                loops.push(descriptors(&end)?);
                ends.push(end);
            }
            Ok((PoolMemory { seats: table, loops }, ends))
        };
        make().map_err(|error: io::Error| {
            Fault::new(
                ExitCode::Runtime,
                format!("cannot make the shared memory of a pool: {error}"),
                "raise the memory limit or the limit of open files, or lower --max-inflight",
            )
        })
    }

    /// What goes with a worker's Setup: the seats, then down, up and bell of each loop.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.seats.descriptor()];
        for memory in &self.loops {
            all.extend([memory.down.as_fd(), memory.up.as_fd(), memory.bell.as_fd()]);
        }
        all
    }

    /// How many loops it is for.
    pub fn loops(&self) -> u16 {
        self.loops.len() as u16
    }
}

/// Slots for the loop's share of the requests in flight, and one for each seat that may hold a
/// quarantined slot. The table of seats is that of two generations already.
fn geometry(seats: u32, settings: &LoopSettings) -> Geometry {
    let inflight = settings.share(u64::from(settings.inflight_max)) as u32;
    Geometry {
        slots: inflight + seats,
        seats,
        request_ring_bytes: Geometry::REQUEST_RING_BYTES,
        response_ring_bytes: Geometry::RESPONSE_RING_BYTES,
        large_rings: large_rings(seats, settings),
        large_ring_bytes: Geometry::LARGE_RING_BYTES,
    }
}

/// Large response rings of each loop: its share of the seats, each of which fills one at a time;
/// eight at least, since one is filled while others are sent, and 32 (64 MiB) at most.
fn large_rings(seats: u32, settings: &LoopSettings) -> u32 {
    const { assert!(LARGE_RINGS_EACH_MAX <= LARGE_RINGS_MAX) };
    seats.div_ceil(u32::from(settings.event_loops).max(1)).clamp(8, LARGE_RINGS_EACH_MAX)
}

const LARGE_RINGS_EACH_MAX: u32 = 32;

fn descriptors(end: &LoopEnd) -> io::Result<LoopMemory> {
    let theirs = end.descriptors();
    Ok(LoopMemory {
        down: theirs.down.try_clone_to_owned()?,
        up: theirs.up.try_clone_to_owned()?,
        bell: theirs.bell.try_clone_to_owned()?,
    })
}
