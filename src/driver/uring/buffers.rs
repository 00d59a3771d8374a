//! Provided buffers: memory the kernel chooses from when bytes arrive.
//!
//! Stands at step 1 and 2 of the walk of a request: a receive names no memory, the kernel takes one
//! of these buffers at the moment there is something to put into it, the loop parses in place and
//! gives it back. Idle connections hold none.
//!
//! Invariants:
//! - A buffer is in exactly one place: in the kernel's ring, in `reserve`, or held by the loop.
//! - The ring is first in, first out, so every buffer in it is touched in turn. Therefore it holds
//!   a small set only (`target`), which grows when it ran dry; the others wait, untouched, in
//!   `reserve`.
//! - The mappings outlive the ring's operations: the driver drops them after the ring is quiet.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::mapping::Mapping;
use crate::driver::Piece;

/// The buffers of one driver.
pub(super) struct ProvidedBuffers {
    /// `entries` descriptors shared with the kernel; the tail lies in the first one.
    ring: Mapping,
    arena: Mapping,
    /// Size of `ring` in entries: a power of two.
    entries: u16,
    buffer_bytes: u32,
    /// Tail as last written to `ring`, and as it will be published.
    tail: u16,
    published: u16,
    /// Buffers that the kernel may choose from now, as far as its completions were reaped.
    in_ring: u16,
    /// How many of them `refill` keeps there.
    target: u16,
    /// Buffers not in the ring, last in, first out.
    reserve: Vec<u16>,
    /// Which buffers the loop holds.
    held: Vec<bool>,
    held_count: u16,
}

/// The group of receives that are asked for one by one.
pub(super) const GROUP: u16 = 0;
/// The group of multishot receives (`multishot.rs`).
pub(super) const GROUP_MULTI: u16 = 1;

/// Buffers in the ring at start: one batch of an idle server. Taste, not measured.
const TARGET_START: u16 = 16;

impl ProvidedBuffers {
    /// Maps `count` buffers; nothing of the arena is touched until the kernel writes into it.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` when `count` is 0 or above 32,768 or a buffer is empty.
    pub(super) fn create(count: u16, buffer_bytes: u32) -> io::Result<ProvidedBuffers> {
        if count == 0 || count > 1 << 15 || buffer_bytes == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let entries = count.next_power_of_two();
        Ok(ProvidedBuffers {
            ring: Mapping::create(usize::from(entries) * size_of::<BufRingEntry>())?,
            arena: Mapping::create(usize::from(count) * buffer_bytes as usize)?,
            entries,
            buffer_bytes,
            tail: 0,
            published: 0,
            in_ring: 0,
            target: count.min(TARGET_START),
            // The last one is handed out first: low numbers, low addresses.
            reserve: (0..count).rev().collect(),
            held: vec![false; usize::from(count)],
            held_count: 0,
        })
    }

    /// Where the kernel finds the ring, for its registration: address and entries.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.ring.pointer() as u64, self.entries)
    }

    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Fills the ring up to its target and shows the kernel what was added. Called before every
    /// enter.
    pub(super) fn refill(&mut self) {
        while self.in_ring < self.target {
            let Some(id) = self.reserve.pop() else { break };
            self.provide(id);
        }
        if self.tail != self.published {
            // SAFETY: the mapping holds at least one entry, was zeroed by the kernel and is never
            // unmapped before the driver's drop; the tail is two aligned bytes of its first entry.
            let tail =
                unsafe { &*BufRingEntry::tail(self.ring.pointer().cast()).cast::<AtomicU16>() };
            // Release: the kernel loads the tail with acquire and then reads the entries below it.
            tail.store(self.tail, Ordering::Release);
            self.published = self.tail;
        }
    }

    /// The kernel filled this buffer: the loop holds it now. False for a number that cannot be.
    pub(super) fn take(&mut self, id: u16) -> bool {
        match self.held.get_mut(usize::from(id)) {
            Some(held) if !*held && self.in_ring > 0 => {
                *held = true;
                self.held_count += 1;
                self.in_ring -= 1;
                true
            }
            _ => false,
        }
    }

    /// The loop is done with it.
    pub(super) fn give_back(&mut self, id: u16) {
        let held = &mut self.held[usize::from(id)];
        assert!(*held, "buffer {id} was given back twice");
        *held = false;
        self.held_count -= 1;
        if self.in_ring < self.target {
            self.provide(id);
        } else {
            self.reserve.push(id);
        }
    }

    /// A receive found the ring dry: makes it hold one more from now on, so that it settles at the
    /// size of the bursts seen. False when every buffer is in use, so that only the loop can help,
    /// by giving some back.
    pub(super) fn grow(&mut self) -> bool {
        if self.reserve.is_empty() {
            // True when others were added since the kernel looked.
            return self.in_ring > 0;
        }
        self.target = (self.target + 1).min(self.held.len() as u16);
        true
    }

    /// Buffers the loop does not hold.
    pub(super) fn free(&self) -> usize {
        self.held.len() - usize::from(self.held_count)
    }

    /// The first `length` bytes of a buffer the loop holds.
    pub(super) fn bytes(&self, id: u16, length: usize) -> &[u8] {
        assert!(self.held[usize::from(id)], "buffer {id} is not held");
        assert!(length <= self.buffer_bytes as usize);
        // SAFETY: the buffer lies inside the arena (`held` has one flag for each), which lives as
        // long as `self`. The kernel writes only into buffers in its ring; this one left it at
        // `take` and returns at `give_back`, which needs `&mut self`, so not while the slice lives.
        unsafe { std::slice::from_raw_parts(self.address(id), length) }
    }

    /// Copies the front of what was received into a buffer to memory, and moves the rest to the
    /// front. Returns how many bytes went.
    ///
    /// # Safety
    /// `into` is valid for writes of its length, and nobody reads it meanwhile.
    pub(super) unsafe fn move_out(&mut self, id: u16, length: usize, into: Piece) -> usize {
        let bytes = self.bytes(id, length);
        let count = length.min(into.length);
        // SAFETY: `bytes` has `count` bytes, and so has `into` (the caller); ours are in the
        // arena, which nobody else has a piece of.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), into.pointer.cast_mut(), count) };
        let start = self.address(id);
        // SAFETY: both ranges lie in the buffer (`bytes` asserted its length), which is held: the
        // kernel does not write to it, and `&mut self` excludes readers.
        unsafe { std::ptr::copy(start.add(count), start, length - count) };
        count
    }

    /// Gives the memory up for ever: the kernel may still write into it. Nothing may be used
    /// afterwards.
    pub(super) fn leak(&mut self) {
        self.ring.leak();
        self.arena.leak();
    }

    fn address(&self, id: u16) -> *mut u8 {
        // SAFETY: `id` is below the count of buffers: the offset stays inside the arena.
        unsafe { self.arena.pointer().add(usize::from(id) * self.buffer_bytes as usize) }
    }

    /// Writes the entry at the tail; the kernel does not look there before the tail is published.
    fn provide(&mut self, id: u16) {
        let address = self.address(id) as u64;
        let index = usize::from(self.tail & (self.entries - 1));
        // SAFETY: `index` is below `entries`. The kernel owns only entries between its head and the
        // published tail; at most `entries` buffers exist, so this slot is outside of them. Only
        // address, length and id are written, one by one: the tail overlaps the first entry's
        // fourth field, which stays as it is.
        unsafe {
            let entry = &mut *self.ring.pointer().cast::<BufRingEntry>().add(index);
            entry.set_addr(address);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        self.in_ring += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::ProvidedBuffers;

    #[test]
    fn a_buffer_is_in_one_place() {
        let mut buffers = ProvidedBuffers::create(40, 4096).unwrap();
        buffers.refill();
        assert_eq!((buffers.in_ring, buffers.reserve.len(), buffers.free()), (16, 24, 40));
        assert!(buffers.take(0));
        assert!(!buffers.take(0), "held already");
        assert!(!buffers.take(40), "no such buffer");
        assert_eq!((buffers.in_ring, buffers.free()), (15, 39));
        assert_eq!(buffers.bytes(0, 4096).len(), 4096);
        buffers.refill();
        assert_eq!((buffers.in_ring, buffers.reserve.len()), (16, 23));
        buffers.give_back(0);
        assert_eq!((buffers.in_ring, buffers.reserve.len(), buffers.free()), (16, 24, 40));
    }

    #[test]
    fn grows_only_as_far_as_there_are_buffers() {
        let mut buffers = ProvidedBuffers::create(20, 4096).unwrap();
        buffers.refill();
        for id in 0..16 {
            assert!(buffers.take(id));
        }
        assert!(buffers.grow());
        buffers.refill();
        assert_eq!((buffers.in_ring, buffers.target), (4, 17));
        assert!(buffers.grow(), "four were added since");
        for id in 16..20 {
            assert!(buffers.take(id));
        }
        assert!(!buffers.grow(), "the loop holds them all");
        assert_eq!(buffers.free(), 0);
    }

    #[test]
    fn refuses_impossible_sizes() {
        for (count, bytes) in [(0, 4096), (u16::MAX, 4096), (1, 0)] {
            assert!(ProvidedBuffers::create(count, bytes).is_err());
        }
    }
}
