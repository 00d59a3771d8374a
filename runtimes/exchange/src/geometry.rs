//! (signatures; layout follows)
/// Version of the layout.
pub const LAYOUT_VERSION: u32 = 1;
/// Hash of the layout: both ends must agree.
pub const LAYOUT_HASH: u64 = crate::keys::names_hash(0xcbf2_9ce4_8422_2325);
/// Most seats of a pool (two generations together).
pub const SEATS_MAX: usize = 1024;
/// Most event loops.
pub const LOOPS_MAX: usize = 64;

/// Sizes of one loop's segments for one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Requests in flight at most: bound + seats of two generations.
    pub slots: u32,
    /// Seats of the pool, at most [`SEATS_MAX`].
    pub seats: u32,
    /// Bytes of a request ring: a power of two; [`Geometry::REQUEST_RING_BYTES`].
    pub request_ring_bytes: u32,
    /// Bytes of a response ring: a power of two; [`Geometry::RESPONSE_RING_BYTES`].
    pub response_ring_bytes: u32,
}

impl Geometry {
    /// Default size of a request ring.
    pub const REQUEST_RING_BYTES: u32 = 128 * 1024;
    /// Default size of a response ring.
    pub const RESPONSE_RING_BYTES: u32 = 64 * 1024;
}
