//! The seats segment of a pool: made by the supervisor, shared by all loops of the pool, mapped by
//! its workers.
//!
//! Where it stands in the walk of a request: a loop wakes a seat through it; see `seat_line` for
//! how.

use std::io;
use std::os::fd::BorrowedFd;

use crate::geometry::{Geometry, Identity, SEATS_MAX, Segment, seats_bytes};
use crate::memory::Created;
use crate::segments::SeatsView;

/// A pool's seats. Seat numbers count from 0; one is reused only after every loop acknowledged the
/// death of the worker that had it.
#[derive(Debug)]
pub struct SeatTable {
    segment: Created,
    seats: u32,
}

impl SeatTable {
    /// Makes the segment for `seats` seats: enough for two generations of workers.
    ///
    /// # Errors
    /// `InvalidInput` when `seats` is 0 or beyond [`SEATS_MAX`]; else as `memfd_create` and its
    /// kin.
    pub fn create(seats: u32) -> io::Result<SeatTable> {
        if seats == 0 || seats as usize > SEATS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "seats must be between 1 and 1,024",
            ));
        }
        let segment = Created::writable(c"ringhorn-seats", seats_bytes(seats))?;
        segment.mapping.identify(Identity {
            segment: Segment::Seats,
            loop_index: 0,
            geometry: seats_geometry(seats),
        });
        Ok(SeatTable { segment, seats })
    }

    /// The descriptor to pass to workers.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.segment.descriptor()
    }

    /// How many seats there are.
    pub fn seats(&self) -> u32 {
        self.seats
    }

    #[inline]
    pub(crate) fn view(&self) -> SeatsView<'_> {
        SeatsView { mapping: &self.segment.mapping, seats: self.seats }
    }
}

/// What stands in the identity of a seats segment where a loop's has its geometry.
pub(crate) fn seats_geometry(seats: u32) -> Geometry {
    Geometry {
        slots: 0,
        seats,
        request_ring_bytes: 0,
        response_ring_bytes: 0,
        large_rings: 0,
        large_ring_bytes: 0,
    }
}
