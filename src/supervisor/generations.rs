//! Which generation of workers pulls requests.
//!
//! Seats pull only while floor ≤ their generation ≤ ceiling. A reload starts the next generation
//! beside the current one; when it is READY the ceiling rises to it, and the floor once no worker
//! of an older one is to serve any more.

/// The first generation.
const FIRST: u32 = 1;

/// Generations of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generations {
    /// The oldest that pulls.
    pub floor: u32,
    /// The newest that pulls; new workers belong to it, except those of a reload.
    pub ceiling: u32,
}

impl Generations {
    /// Only the first one exists.
    pub const fn first() -> Generations {
        Generations { floor: FIRST, ceiling: FIRST }
    }
}
