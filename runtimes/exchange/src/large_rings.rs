//! The loop's large response rings: a few, handed from response to response.
//!
//! Where it stands in the walk of a request: a response that is known to be large asks for one
//! before its first byte (`response`), the loop grants one when it hears of that
//! (`loop_end::progress`), the response states that it goes through it, and the ring belongs to the
//! slot until the slot is freed. So a large
//! response is handed over whole, and through memory that the one before it left in the
//! processor's caches, where the rings of a hundred slots in turn would all be cold.
//!
//! Invariants: a ring is granted to one slot at a time; what is said of a slot's memory (freeing,
//! quarantine, operations of the kernel) holds for the ring it was granted. Which rings are free
//! stands here, in the loop's own memory, and is never read back.

use crate::geometry::{Geometry, IDLE_PAGES_NS};
use crate::grant::Grant;

/// Which ring a response goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseRing {
    /// The slot's own.
    Own,
    /// This one of the loop's large ones.
    Large(u32),
}

impl Geometry {
    /// Size of a ring in bytes.
    #[inline]
    pub(crate) fn response_bytes(&self, ring: ResponseRing) -> usize {
        match ring {
            ResponseRing::Own => self.response_ring_bytes as usize,
            ResponseRing::Large(_) => self.large_ring_bytes as usize,
        }
    }

    /// A response of fewer bytes does not ask for a large ring: the question costs a wake-up, which
    /// does not pay for what fits the slot's own ring. Measured with 64 connections, one worker,
    /// shared core: asking cost 22.0 → 26.6 µs of CPU a response of 70 KiB, 62.6 → 78.5 for 256
    /// KiB, and saved 132 → 112 for 480 KiB and 331 → 255 for 1 MiB.
    #[inline]
    pub(crate) fn asks_from_bytes(&self) -> u64 {
        u64::from(self.response_ring_bytes / 4 * 3)
    }
}

/// Which large rings are free, and which of them hold pages.
#[derive(Debug)]
pub(crate) struct LargeRings {
    /// Last in, first out: what was used last is still in the caches.
    free: Vec<u32>,
    /// By ring: since when it lies free with pages in it, as `give_back_pages` saw first.
    idle_since_ns: Vec<Option<u64>>,
    /// By ring: it was written since its pages were last given back.
    is_touched: Vec<bool>,
}

impl LargeRings {
    pub fn new(rings: u32) -> LargeRings {
        LargeRings {
            free: (0..rings).rev().collect(),
            idle_since_ns: vec![None; rings as usize],
            is_touched: vec![false; rings as usize],
        }
    }

    /// Takes a free ring for one slot.
    pub fn grant(&mut self) -> Grant {
        let Some(ring) = self.free.pop() else { return Grant::Denied };
        self.idle_since_ns[ring as usize] = None;
        self.is_touched[ring as usize] = true;
        Grant::Ring(ring)
    }

    /// Whether one can be granted now.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The slot that had been granted `ring` is free.
    pub fn give_back(&mut self, ring: u32) {
        debug_assert!(!self.free.contains(&ring), "large ring {ring} was given back twice");
        self.free.push(ring);
    }

    /// Calls `empty` for each ring that has been free for 10 s and holds pages; gives how many.
    pub fn give_back_pages(&mut self, now_ns: u64, mut empty: impl FnMut(u32)) -> u32 {
        let mut emptied = 0;
        for &ring in &self.free {
            let place = ring as usize;
            if !self.is_touched[place] {
                continue;
            }
            let since = *self.idle_since_ns[place].get_or_insert(now_ns);
            if now_ns.saturating_sub(since) >= IDLE_PAGES_NS {
                empty(ring);
                self.is_touched[place] = false;
                emptied += 1;
            }
        }
        emptied
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_ring_given_back_is_granted_first_and_none_twice() {
        let mut rings = LargeRings::new(3);
        let all: Vec<_> = (0..3).map(|_| rings.grant()).collect();
        assert_eq!(all, [Grant::Ring(0), Grant::Ring(1), Grant::Ring(2)]);
        assert_eq!(rings.grant(), Grant::Denied);
        rings.give_back(1);
        rings.give_back(0);
        assert_eq!(rings.grant(), Grant::Ring(0));
        assert_eq!(rings.grant(), Grant::Ring(1));
        assert_eq!(rings.grant(), Grant::Denied);
    }

    #[test]
    fn pages_of_a_ring_are_given_back_once_when_it_lay_free_for_ten_seconds() {
        let mut rings = LargeRings::new(2);
        let mut emptied = Vec::new();
        let mut look = |rings: &mut LargeRings, now_ns| {
            rings.give_back_pages(now_ns, |ring| emptied.push(ring));
        };
        assert_eq!(rings.grant(), Grant::Ring(0));
        look(&mut rings, 0);
        rings.give_back(0);
        look(&mut rings, 5);
        look(&mut rings, 4 + IDLE_PAGES_NS);
        look(&mut rings, 5 + IDLE_PAGES_NS);
        look(&mut rings, 5 + 3 * IDLE_PAGES_NS);
        assert_eq!(emptied, [0], "not while it was used, not early, not again, not the other");
    }
}
