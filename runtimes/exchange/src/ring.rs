//! A byte ring of one writer and one reader, by positions.
//!
//! Where it stands in the walk of a request: the request body flows down through one, the response
//! up through another. Positions are 64-bit and count from the start of the request; the ring index
//! is `position % size`, so a new request starts at offset 0 and a small one touches one page.
//!
//! `written` belongs to the writer, `consumed` to the reader; each keeps its own count privately
//! and only publishes it. What the other side published is checked before it is used: a count that
//! runs backwards or apart by more than the ring is impossible.
//!
//! Orderings: bytes are copied in, then `written` is released; the reader acquires it and then
//! copies. The reader releases `consumed` after it copied out; the writer acquires it before it
//! writes there again. Bytes are never read and written at one time, so they need not be atomic;
//! they are copied, never borrowed, where the other side could break that.

use crate::sync::{AtomicU64, Ordering};

pub use memory::RingBytes;

/// Bytes that may be written now: `size - (written - consumed)`. `None`: `consumed` is impossible,
/// it lies beyond `written`, behind what was seen before, or further back than the ring is long.
#[inline]
pub fn room(size: usize, written: u64, consumed: u64, seen: u64) -> Option<usize> {
    if consumed < seen || consumed > written {
        return None;
    }
    // `written - consumed <= size` holds because the writer never wrote beyond an older `consumed`.
    (size as u64).checked_sub(written - consumed).map(|room| room as usize)
}

/// Bytes that may be read now: `written - consumed`. `None`: `written` is impossible, it lies
/// behind what was seen before or further than the ring is long.
#[inline]
pub fn available(size: usize, written: u64, consumed: u64, seen: u64) -> Option<usize> {
    if written < seen {
        return None;
    }
    match written.checked_sub(consumed) {
        Some(bytes) if bytes <= size as u64 => Some(bytes as usize),
        _ => None,
    }
}

/// Whether a writer that waits for room is worth waking: at least half of the ring is free. The
/// sleeper's own last look asks the same, or a wake between the two would be lost.
#[inline]
pub fn is_roomy(size: usize, written: u64, consumed: u64) -> bool {
    written.wrapping_sub(consumed) <= (size / 2) as u64
}

/// Publishes a position (`written` after its bytes, `consumed` after the copy).
#[inline]
pub fn publish(position: &AtomicU64, value: u64) {
    position.store(value, Ordering::Release);
}

/// Takes the other side's position.
#[inline]
pub fn look(position: &AtomicU64) -> u64 {
    position.load(Ordering::Acquire)
}

#[cfg(not(loom))]
pub use memory::LinearWriter;

#[cfg(not(loom))]
#[allow(unsafe_code)]
mod memory {
    //! The ring's bytes in a mapping.

    use std::ptr;

    /// The bytes of one ring inside a mapping. Copies only; the caller holds the mapping alive.
    #[derive(Clone, Copy, Debug)]
    pub struct RingBytes {
        start: *mut u8,
        size: usize,
    }

    impl RingBytes {
        /// # Safety
        /// `start` begins `size` mapped bytes that stay mapped while the value is used; they are
        /// writable if `copy_in` is used. `size` is not 0.
        #[inline]
        pub unsafe fn new(start: *mut u8, size: usize) -> RingBytes {
            RingBytes { start, size }
        }

        /// Length of the ring in bytes.
        #[inline]
        pub fn size(&self) -> usize {
            self.size
        }

        /// The bytes from `position` on, `length` of them, as at most two pieces.
        ///
        /// # Panics
        /// When `length` exceeds the ring.
        #[inline]
        pub fn pieces(&self, position: u64, length: usize) -> [(*mut u8, usize); 2] {
            assert!(length <= self.size);
            // The division is saved where it would not change the position: small requests.
            let size = self.size as u64;
            let at = if position < size { position } else { position % size } as usize;
            let first = length.min(self.size - at);
            // SAFETY: `at < size` and `first <= size - at`: both stay inside the ring's bytes.
            [(unsafe { self.start.add(at) }, first), (self.start, length - first)]
        }

        /// Copies `bytes` in at `position`. The caller has made sure that they fit beside what the
        /// reader may still read.
        ///
        /// # Panics
        /// When `bytes` is longer than the ring.
        #[inline]
        pub fn copy_in(&self, position: u64, bytes: &[u8]) {
            let [(first, first_length), (second, second_length)] =
                self.pieces(position, bytes.len());
            // SAFETY: both pieces lie inside the mapping (keeper: `pieces`), are ours to write
            // until `written` is published (keeper: the position protocol), and `bytes` is process
            // memory, which never overlaps the mapping.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), first, first_length);
                if second_length > 0 {
                    ptr::copy_nonoverlapping(
                        bytes.as_ptr().add(first_length),
                        second,
                        second_length,
                    );
                }
            }
        }

        /// Copies `into.len()` bytes out from `position`, which the caller has seen published.
        ///
        /// # Panics
        /// When `into` is longer than the ring.
        #[inline]
        pub fn copy_out(&self, position: u64, into: &mut [u8]) {
            let [(first, first_length), (second, second_length)] =
                self.pieces(position, into.len());
            // SAFETY: as in `copy_in`, in the other direction: the bytes are ours to read until
            // `consumed` is published.
            unsafe {
                ptr::copy_nonoverlapping(first, into.as_mut_ptr(), first_length);
                if second_length > 0 {
                    ptr::copy_nonoverlapping(
                        second,
                        into.as_mut_ptr().add(first_length),
                        second_length,
                    );
                }
            }
        }
    }

    /// Fills a ring's memory from its start on, once: for the record. What does not fit is not
    /// written and remembered.
    #[derive(Debug)]
    pub struct LinearWriter {
        ring: RingBytes,
        at: usize,
        overflowed: bool,
    }

    impl LinearWriter {
        /// Starts at offset `at`.
        pub fn new(ring: RingBytes, at: usize) -> LinearWriter {
            LinearWriter { ring, at, overflowed: at > ring.size }
        }

        /// Offset of the next byte.
        #[inline]
        pub fn at(&self) -> usize {
            self.at
        }

        /// Length of the ring in bytes.
        pub fn ring_bytes(&self) -> usize {
            self.ring.size
        }

        /// Whether something did not fit.
        #[inline]
        pub fn has_overflowed(&self) -> bool {
            self.overflowed
        }

        /// Appends bytes.
        #[inline]
        pub fn push(&mut self, bytes: &[u8]) {
            if self.overflowed || bytes.len() > self.ring.size - self.at {
                self.overflowed = true;
                return;
            }
            // SAFETY: `at + len <= size` (just checked), the memory is writable and ours alone
            // while the slot is reserved (keeper: the loop's books), and `bytes` is process memory.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), self.ring.start.add(self.at), bytes.len());
            }
            self.at += bytes.len();
        }

        /// Appends four bytes and then others, as one.
        #[inline]
        pub fn push_behind(&mut self, first: [u8; 4], bytes: &[u8]) {
            if self.overflowed || bytes.len() + first.len() > self.ring.size - self.at {
                self.overflowed = true;
                return;
            }
            // SAFETY: as in `push`, with the room for both just checked.
            unsafe {
                let at = self.ring.start.add(self.at);
                ptr::copy_nonoverlapping(first.as_ptr(), at, first.len());
                ptr::copy_nonoverlapping(bytes.as_ptr(), at.add(first.len()), bytes.len());
            }
            self.at += first.len() + bytes.len();
        }

        /// Replaces bytes that were pushed before.
        ///
        /// # Panics
        /// When they were not.
        pub fn patch(&mut self, at: usize, bytes: &[u8]) {
            assert!(at <= self.at && bytes.len() <= self.at - at);
            self.ring.copy_in(at as u64, bytes);
        }
    }
}

#[cfg(loom)]
mod memory {
    //! The ring's bytes in a model: each one a cell, so that loom sees every race.

    use loom::cell::UnsafeCell;

    /// The bytes of one ring.
    #[derive(Debug)]
    pub struct RingBytes {
        cells: Vec<UnsafeCell<u8>>,
    }

    impl RingBytes {
        /// A ring of `size` bytes.
        pub fn of_size(size: usize) -> RingBytes {
            RingBytes { cells: (0..size).map(|_| UnsafeCell::new(0)).collect() }
        }

        /// Length of the ring in bytes.
        pub fn size(&self) -> usize {
            self.cells.len()
        }

        /// Copies `bytes` in at `position`.
        #[allow(unsafe_code)]
        pub fn copy_in(&self, position: u64, bytes: &[u8]) {
            for (byte, at) in bytes.iter().zip(position..) {
                let cell = &self.cells[(at % self.cells.len() as u64) as usize];
                // SAFETY: loom fails the model if another thread touches the cell at the same time.
                cell.with_mut(|cell| unsafe { *cell = *byte });
            }
        }

        /// Copies bytes out from `position`.
        #[allow(unsafe_code)]
        pub fn copy_out(&self, position: u64, into: &mut [u8]) {
            for (byte, at) in into.iter_mut().zip(position..) {
                let cell = &self.cells[(at % self.cells.len() as u64) as usize];
                // SAFETY: as above.
                *byte = cell.with(|cell| unsafe { *cell });
            }
        }
    }

    // SAFETY: the position protocol decides who touches which cell; loom checks it.
    #[allow(unsafe_code)]
    unsafe impl Sync for RingBytes {}
}

#[cfg(all(test, not(loom)))]
mod tests;
