//! The parts of a mapped segment by name, for either end.
//!
//! Where it stands in the walk of a request: between the layout (numbers) and the protocol
//! (references). Nothing here decides anything.

use crate::SlotIndex;
use crate::geometry::{
    DOWN_SLOT_BYTES, Geometry, IDENTITY_BYTES, IDLE_WORDS, Layout, SEAT_LINE_BYTES, SEAT_LINES_AT,
    UP_SLOT_BYTES,
};
use crate::large_rings::ResponseRing;
use crate::lines::{DownControl, DownSlot, UpControl, UpSlot};
use crate::memory::Mapping;
use crate::news::News;
use crate::queue::ReadyQueue;
use crate::ring::RingBytes;
use crate::seat_line::{IdleSeats, SeatLine};
use crate::sync::AtomicU64;

/// The loop's two segments, as either end has mapped them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopView<'a> {
    pub layout: &'a Layout,
    pub down: &'a Mapping,
    pub up: &'a Mapping,
}

impl<'a> LoopView<'a> {
    #[inline]
    pub fn down_control(self) -> &'a DownControl {
        self.down.at(self.layout.down_control)
    }

    #[inline]
    pub fn up_control(self) -> &'a UpControl {
        self.up.at(self.layout.up_control)
    }

    #[inline]
    pub fn queue(self) -> ReadyQueue<'a> {
        ReadyQueue {
            entries: self.down.slice(self.layout.entries, self.layout.queue_entries),
            head: &self.up_control().head.value,
            tail: &self.down_control().tail.value,
        }
    }

    #[inline]
    pub fn news(self) -> News<'a> {
        News { words: self.up.slice(self.layout.news, self.layout.news_words) }
    }

    /// # Panics
    /// When the slot does not exist; so do the next four.
    #[inline]
    pub fn down_slot(self, slot: SlotIndex) -> &'a DownSlot {
        self.check(slot);
        self.down.at(self.layout.down_slots + slot as usize * DOWN_SLOT_BYTES)
    }

    #[inline]
    pub fn up_slot(self, slot: SlotIndex) -> &'a UpSlot {
        self.check(slot);
        self.up.at(self.layout.up_slots + slot as usize * UP_SLOT_BYTES)
    }

    /// The claim word; `None` when the slot does not exist.
    #[inline]
    pub fn word(self, slot: SlotIndex) -> Option<&'a AtomicU64> {
        (slot < self.layout.geometry.slots).then(|| &self.up_slot(slot).word)
    }

    /// The whole request ring: record and body.
    #[inline]
    pub fn request_ring(self, slot: SlotIndex) -> RingBytes {
        self.down.ring(self.request_ring_at(slot), self.layout.geometry.request_ring_bytes as usize)
    }

    /// The part of the request ring that the body has, after `body_at` bytes of record.
    #[inline]
    pub fn body_ring(self, slot: SlotIndex, body_at: usize) -> RingBytes {
        let size = self.layout.geometry.request_ring_bytes as usize;
        self.down.ring(self.request_ring_at(slot) + body_at, size - body_at)
    }

    /// # Panics
    /// When the slot or the large ring does not exist.
    #[inline]
    pub fn response_ring(self, slot: SlotIndex, ring: ResponseRing) -> RingBytes {
        let at = match ring {
            ResponseRing::Own => self.response_ring_at(slot),
            ResponseRing::Large(ring) => self.large_ring_at(ring),
        };
        self.up.ring(at, self.layout.geometry.response_bytes(ring))
    }

    /// # Panics
    /// When the large ring does not exist.
    #[inline]
    pub fn large_ring_at(self, ring: u32) -> usize {
        let Geometry { large_rings, large_ring_bytes, .. } = self.layout.geometry;
        assert!(ring < large_rings, "large ring {ring} does not exist");
        self.layout.large_rings + ring as usize * large_ring_bytes as usize
    }

    #[inline]
    pub fn request_ring_at(self, slot: SlotIndex) -> usize {
        self.check(slot);
        self.layout.request_rings + slot as usize * self.layout.geometry.request_ring_bytes as usize
    }

    #[inline]
    pub fn response_ring_at(self, slot: SlotIndex) -> usize {
        self.check(slot);
        self.layout.response_rings
            + slot as usize * self.layout.geometry.response_ring_bytes as usize
    }

    #[inline]
    fn check(self, slot: SlotIndex) {
        assert!(slot < self.layout.geometry.slots, "slot {slot} does not exist");
    }
}

/// A pool's seats segment, as either end has mapped it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeatsView<'a> {
    pub mapping: &'a Mapping,
    pub seats: u32,
}

impl<'a> SeatsView<'a> {
    #[inline]
    pub fn idle(self) -> IdleSeats<'a> {
        IdleSeats { words: self.mapping.slice(IDENTITY_BYTES, IDLE_WORDS) }
    }

    /// A seat's line; `None` when the seat does not exist.
    #[inline]
    pub fn find(self, seat: u16) -> Option<&'a SeatLine> {
        (u32::from(seat) < self.seats).then(|| self.line(seat))
    }

    /// # Panics
    /// When the seat does not exist.
    #[inline]
    pub fn line(self, seat: u16) -> &'a SeatLine {
        assert!(u32::from(seat) < self.seats, "seat {seat} does not exist");
        self.mapping.at(SEAT_LINES_AT + usize::from(seat) * SEAT_LINE_BYTES)
    }
}
