//! Where everything lies in the segments, and the bounds.
//!
//! Not on the walk of a request itself: every part of the exchange computes its addresses from
//! here. Each segment starts with an [`Identity`] that the other side compares before it touches
//! anything else.
//!
//! | down (one a loop and pool) | up (one a loop and pool) | seats (one a pool) |
//! |---|---|---|
//! | identity | identity | identity |
//! | `DownControl` | `UpControl` | idle bitmap |
//! | ready queue entries | news bitmap | `SeatLine` × seats |
//! | `DownSlot` × slots | `UpSlot` × slots | |
//! | request rings × slots, page aligned | response rings × slots, page aligned | |
//! | | large response rings, page aligned | |
//!
//! Invariants: every offset is a multiple of its line's alignment; rings start on page borders and
//! are whole pages, so that all but the first page of each can be given back.

use crate::keys;

/// Version of the layout: raised by hand when a meaning changes that the hash cannot see.
pub const LAYOUT_VERSION: u32 = 3;
/// Most seats of a pool (two generations together).
pub const SEATS_MAX: usize = 1024;
/// Most event loops.
pub const LOOPS_MAX: usize = 64;
/// Most slots of one loop and pool. Entries have 24 bits for a slot; this is a bound on memory.
pub const SLOTS_MAX: u32 = 1 << 16;
/// Most large response rings of one loop and pool: a bound on memory.
pub const LARGE_RINGS_MAX: u32 = 64;
/// Size of a page; rings are multiples of it.
pub const PAGE_BYTES: usize = 4096;
/// Smallest ring in bytes.
pub const RING_BYTES_MIN: u32 = 2 * PAGE_BYTES as u32;
/// Largest ring in bytes.
pub const RING_BYTES_MAX: u32 = 16 << 20;
/// Queue entries for each slot: dead ones take room too, and a lap must be longer than what is
/// live.
pub const QUEUE_ENTRIES_PER_SLOT: u32 = 4;
/// A slot free for this long gives its pages back.
pub const IDLE_PAGES_NS: u64 = 10_000_000_000;
/// While a ready queue is not empty its loop sleeps no longer than this, and an entry that has
/// waited this long is worth waking a second seat of one interpreter.
pub const WAITED_NS: u64 = 500_000;
/// A seat looks at the other loops' queues at least every so many requests.
pub const OTHER_QUEUES_EVERY: u32 = 16;
/// Longest packet of a gateway protocol, and the default bound of an HTTP head.
pub const HEAD_BYTES_MAX: usize = 65_535;

/// Fixed part of a record in bytes.
pub const RECORD_HEAD_BYTES: usize = 32;
/// Bytes of a named variable beyond its name and value.
pub const NAMED_VARIABLE_BYTES: usize = 6;
/// Bytes of a known variable beyond its value.
pub const KNOWN_VARIABLE_BYTES: usize = 4;
/// What the server may add to a record of its own (addresses, ids, the request line's parts).
pub const ADDED_VARIABLE_BYTES: usize = 16 * 1024;

/// The record of the largest legal packet: all of it variables with a one-byte name and an empty
/// value, five bytes each on the wire (two lengths of two bytes, one byte of name). Longer
/// variables grow by the same two bytes each, so fewer of them grow less.
const LARGEST_RECORD: usize =
    RECORD_HEAD_BYTES + HEAD_BYTES_MAX / 5 * (NAMED_VARIABLE_BYTES + 1) + ADDED_VARIABLE_BYTES;

const _: () = assert!(LARGEST_RECORD <= Geometry::REQUEST_RING_BYTES as usize);

/// Sizes of one loop's segments for one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Requests in flight at most: the bound on requests plus the seats of two generations.
    pub slots: u32,
    /// Seats of the pool, at most [`SEATS_MAX`]; the same for every loop of the pool.
    pub seats: u32,
    /// Bytes of a request ring: a power of two; [`Geometry::REQUEST_RING_BYTES`].
    pub request_ring_bytes: u32,
    /// Bytes of a response ring: a power of two; [`Geometry::RESPONSE_RING_BYTES`].
    pub response_ring_bytes: u32,
    /// Large response rings that the loop grants, at most [`LARGE_RINGS_MAX`]; may be 0.
    pub large_rings: u32,
    /// Bytes of one: a power of two; [`Geometry::LARGE_RING_BYTES`].
    pub large_ring_bytes: u32,
}

impl Geometry {
    /// Default size of a request ring: holds the record of the largest legal head. 128, 256 and
    /// 512 KiB were measured with 1 MiB POSTs echoed (64 connections, one worker, shared core, four
    /// interleaved rounds on a busy machine): 1,065 (746..1,343), 883 (793..1,082) and 800
    /// (633..1,965) µs of CPU a request, 498, 475 and 550 requests a second. The ranges overlap: no
    /// reason seen to double what a burst of large bodies may touch.
    pub const REQUEST_RING_BYTES: u32 = 128 * 1024;
    /// Default size of a response ring. Measured with 1 MiB responses (64 connections, one worker,
    /// shared core, interleaved rounds, µs of CPU a response). 64 KiB, 256 KiB and 1 MiB, two
    /// rounds: 576 and 730, 429 and 464, 353 and 465. 256 and 512 KiB, three runs of three or four
    /// rounds on a busy machine: 567 (478..670) and 558 (552..592), 652 (525..1,065) and 492
    /// (433..764), 644 (543..796) and 483 (445..496); responses a second 662 and 608, 301 and 308,
    /// 714 and 663. 2 MiB, which takes all of it at once, in the first run: 473 (461..516), but 423
    /// a second. Only a slot that served such a response has touched all of its ring.
    pub const RESPONSE_RING_BYTES: u32 = 512 * 1024;
    /// Default size of a large ring: takes a response of 1 MiB at once. Without large rings a
    /// response of 1 MiB went through 512 KiB of the slot's own: 331 (308..412) µs of CPU each with
    /// 64 connections, one worker, shared core; with them 255 (247..306), in one interleaved run of
    /// six rounds. Two more things were tried: own rings of 2 MiB took 285 (the rings of 64 slots
    /// in turn are cold), and a large ring for the asking alone, without one for the request
    /// claimed next, 5 % more than with it.
    pub const LARGE_RING_BYTES: u32 = 2 << 20;

    /// Checks the bounds and computes all offsets.
    ///
    /// # Errors
    /// One sentence of what is out of bounds.
    pub(crate) fn layout(self) -> Result<Layout, &'static str> {
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return Err("slots must be between 1 and 65,536");
        }
        if self.seats == 0 || self.seats as usize > SEATS_MAX {
            return Err("seats must be between 1 and 1,024");
        }
        if self.large_rings > LARGE_RINGS_MAX {
            return Err("large rings must be 64 at most");
        }
        for ring in [self.request_ring_bytes, self.response_ring_bytes, self.large_ring_bytes] {
            if !ring.is_power_of_two() || !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&ring) {
                return Err("a ring must be a power of two between 8 KiB and 16 MiB");
            }
        }
        Ok(Layout::of(self))
    }
}

/// Byte offsets and counts of one loop's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub geometry: Geometry,
    pub queue_entries: usize,
    pub news_words: usize,
    pub down_control: usize,
    pub entries: usize,
    pub down_slots: usize,
    pub request_rings: usize,
    pub down_bytes: usize,
    pub up_control: usize,
    pub news: usize,
    pub up_slots: usize,
    pub response_rings: usize,
    pub large_rings: usize,
    pub up_bytes: usize,
}

/// Room for the identity at the start of each segment: one pair of lines.
pub(crate) const IDENTITY_BYTES: usize = 128;
/// Bytes of a slot's line in each segment, a seat's line, and the control lines.
pub(crate) const DOWN_SLOT_BYTES: usize = 64;
pub(crate) const UP_SLOT_BYTES: usize = 128;
pub(crate) const SEAT_LINE_BYTES: usize = 128;
pub(crate) const DOWN_CONTROL_BYTES: usize = 384;
pub(crate) const UP_CONTROL_BYTES: usize = 128;
/// Words of the idle bitmap.
pub(crate) const IDLE_WORDS: usize = SEATS_MAX / 64;
/// Where the seat lines start in the seats segment.
pub(crate) const SEAT_LINES_AT: usize = IDENTITY_BYTES + IDLE_WORDS * 8;

const _: () = assert!(SEAT_LINES_AT.is_multiple_of(SEAT_LINE_BYTES));

impl Layout {
    fn of(geometry: Geometry) -> Layout {
        let slots = geometry.slots as usize;
        let queue_entries = (geometry.slots * QUEUE_ENTRIES_PER_SLOT).next_power_of_two() as usize;
        let news_words = slots.div_ceil(64);
        let down_control = IDENTITY_BYTES;
        let entries = down_control + DOWN_CONTROL_BYTES;
        let down_slots = (entries + queue_entries * 8).next_multiple_of(128);
        let request_rings = (down_slots + slots * DOWN_SLOT_BYTES).next_multiple_of(PAGE_BYTES);
        let up_control = IDENTITY_BYTES;
        let news = up_control + UP_CONTROL_BYTES;
        let up_slots = (news + news_words * 8).next_multiple_of(128);
        let response_rings = (up_slots + slots * UP_SLOT_BYTES).next_multiple_of(PAGE_BYTES);
        let large_rings = response_rings + slots * geometry.response_ring_bytes as usize;
        let large_bytes = geometry.large_rings as usize * geometry.large_ring_bytes as usize;
        Layout {
            geometry,
            queue_entries,
            news_words,
            down_control,
            entries,
            down_slots,
            request_rings,
            down_bytes: request_rings + slots * geometry.request_ring_bytes as usize,
            up_control,
            news,
            up_slots,
            response_rings,
            large_rings,
            up_bytes: large_rings + large_bytes,
        }
    }
}

/// Bytes of the seats segment.
pub(crate) const fn seats_bytes(seats: u32) -> usize {
    (SEAT_LINES_AT + seats as usize * SEAT_LINE_BYTES).next_multiple_of(PAGE_BYTES)
}

/// Which segment an identity stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Segment {
    Down = 1,
    Up = 2,
    Seats = 3,
}

/// First word of every segment: "RINGHORN" as bytes.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"RINGHORN");

/// Words of an identity, in order.
pub(crate) const IDENTITY_WORDS: usize = 11;
const _: () = assert!(IDENTITY_WORDS * 8 <= IDENTITY_BYTES);

/// What stands at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub segment: Segment,
    pub loop_index: u16,
    pub geometry: Geometry,
}

impl Identity {
    /// As words of shared memory.
    pub fn words(self) -> [u64; IDENTITY_WORDS] {
        let Geometry {
            slots,
            seats,
            request_ring_bytes,
            response_ring_bytes,
            large_rings,
            large_ring_bytes,
        } = self.geometry;
        [
            MAGIC,
            LAYOUT_VERSION.into(),
            LAYOUT_HASH,
            self.segment as u64,
            self.loop_index.into(),
            slots.into(),
            seats.into(),
            request_ring_bytes.into(),
            response_ring_bytes.into(),
            large_rings.into(),
            large_ring_bytes.into(),
        ]
    }

    /// Reads them back for the segment that is expected.
    ///
    /// # Errors
    /// Which check failed.
    pub fn of_words(
        words: [u64; IDENTITY_WORDS],
        segment: Segment,
    ) -> Result<Identity, &'static str> {
        if words[0] != MAGIC {
            return Err("no magic number");
        }
        if words[1] != u64::from(LAYOUT_VERSION) {
            return Err("another layout version");
        }
        if words[2] != LAYOUT_HASH {
            return Err("another layout hash");
        }
        if words[3] != segment as u64 {
            return Err("another kind of segment");
        }
        let narrow = |word: u64| u32::try_from(word).map_err(|_| "a size out of bounds");
        Ok(Identity {
            segment,
            loop_index: u16::try_from(words[4]).map_err(|_| "a loop index out of bounds")?,
            geometry: Geometry {
                slots: narrow(words[5])?,
                seats: narrow(words[6])?,
                request_ring_bytes: narrow(words[7])?,
                response_ring_bytes: narrow(words[8])?,
                large_rings: narrow(words[9])?,
                large_ring_bytes: narrow(words[10])?,
            },
        })
    }
}

/// Hash of everything both ends must agree on: sizes, bounds and the known names. Two builds that
/// differ refuse each other.
pub const LAYOUT_HASH: u64 = {
    let numbers = [
        LAYOUT_VERSION as u64,
        SEATS_MAX as u64,
        LOOPS_MAX as u64,
        QUEUE_ENTRIES_PER_SLOT as u64,
        PAGE_BYTES as u64,
        RECORD_HEAD_BYTES as u64,
        NAMED_VARIABLE_BYTES as u64,
        KNOWN_VARIABLE_BYTES as u64,
        IDENTITY_BYTES as u64,
        DOWN_SLOT_BYTES as u64,
        UP_SLOT_BYTES as u64,
        SEAT_LINE_BYTES as u64,
        DOWN_CONTROL_BYTES as u64,
        UP_CONTROL_BYTES as u64,
        SEAT_LINES_AT as u64,
        LARGE_RINGS_MAX as u64,
        cfg!(target_endian = "big") as u64,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < numbers.len() {
        hash = (hash ^ numbers[at]).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    keys::names_hash(hash)
};

#[cfg(not(loom))]
mod sizes {
    //! The lines are as large as the layout says.

    use std::mem::{align_of, offset_of, size_of};

    use super::*;
    use crate::lines::{DownControl, DownSlot, UpControl, UpSlot};
    use crate::seat_line::SeatLine;

    const _: () = assert!(size_of::<DownControl>() == DOWN_CONTROL_BYTES);
    const _: () = assert!(align_of::<DownControl>() <= IDENTITY_BYTES);
    const _: () = assert!(size_of::<UpControl>() == UP_CONTROL_BYTES);
    const _: () = assert!(size_of::<DownSlot>() == DOWN_SLOT_BYTES);
    const _: () = assert!(size_of::<UpSlot>() == UP_SLOT_BYTES);
    // One of the two lines is enough: what a request costs in cache misses.
    const _: () = assert!(offset_of!(UpSlot, first_byte_at) + 8 <= 64);
    const _: () = assert!(size_of::<SeatLine>() == SEAT_LINE_BYTES);
}

#[cfg(all(test, not(loom)))]
mod tests {
    //! Bounds and offsets. Pure: `cargo miri test geometry` can run it.

    use super::*;

    const SMALL: Geometry = Geometry {
        slots: 3,
        seats: 2,
        request_ring_bytes: 8192,
        response_ring_bytes: 16384,
        large_rings: 2,
        large_ring_bytes: 32768,
    };

    #[test]
    fn parts_do_not_overlap_and_are_aligned() {
        for slots in [1, 2, 63, 64, 65, 1000, SLOTS_MAX] {
            let layout = Geometry { slots, ..SMALL }.layout().unwrap();
            assert!(layout.queue_entries.is_power_of_two());
            assert!(layout.queue_entries >= 4 * slots as usize);
            assert!(layout.entries + layout.queue_entries * 8 <= layout.down_slots);
            assert!(layout.down_slots + slots as usize * DOWN_SLOT_BYTES <= layout.request_rings);
            assert!(layout.news + layout.news_words * 8 <= layout.up_slots);
            assert!(layout.up_slots + slots as usize * UP_SLOT_BYTES <= layout.response_rings);
            for aligned in [layout.down_slots, layout.up_slots] {
                assert_eq!(aligned % 128, 0);
            }
            let own = slots as usize * SMALL.response_ring_bytes as usize;
            assert!(layout.response_rings + own <= layout.large_rings);
            assert_eq!(layout.large_rings + 2 * 32768, layout.up_bytes);
            for aligned in [layout.request_rings, layout.response_rings, layout.large_rings] {
                assert_eq!(aligned % PAGE_BYTES, 0);
            }
        }
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        for bad in [
            Geometry { slots: 0, ..SMALL },
            Geometry { slots: SLOTS_MAX + 1, ..SMALL },
            Geometry { seats: 0, ..SMALL },
            Geometry { seats: SEATS_MAX as u32 + 1, ..SMALL },
            Geometry { request_ring_bytes: 4096, ..SMALL },
            Geometry { request_ring_bytes: 12288, ..SMALL },
            Geometry { response_ring_bytes: 2 * RING_BYTES_MAX, ..SMALL },
            Geometry { large_ring_bytes: 2 * RING_BYTES_MAX, ..SMALL },
            Geometry { large_ring_bytes: 8191, ..SMALL },
            Geometry { large_rings: LARGE_RINGS_MAX + 1, ..SMALL },
        ] {
            assert!(bad.layout().is_err(), "{bad:?}");
        }
        assert!(SMALL.layout().is_ok());
    }

    #[test]
    fn an_identity_is_read_back_and_any_other_refused() {
        let identity = Identity { segment: Segment::Up, loop_index: 63, geometry: SMALL };
        assert_eq!(Identity::of_words(identity.words(), Segment::Up), Ok(identity));
        assert!(Identity::of_words(identity.words(), Segment::Down).is_err());
        for at in 0..4 {
            let mut words = identity.words();
            words[at] ^= 1;
            assert!(Identity::of_words(words, Segment::Up).is_err(), "word {at}");
        }
        let mut words = identity.words();
        words[5] = u64::MAX;
        assert!(Identity::of_words(words, Segment::Up).is_err());
    }
}
