//! Which seat numbers are given to which worker.
//!
//! A worker has a block of neighbouring seats. A block is given out again only after every loop
//! acknowledged the death of its worker: until then a loop may still hold a claim word with such a
//! number in it, and would take the newcomer for the dead.

use std::ops::Range;

/// The blocks of a pool: twice as many as workers, so that replacements never wait for the dead.
#[derive(Debug)]
pub struct SeatBlocks {
    threads: u16,
    is_taken: Vec<bool>,
}

impl SeatBlocks {
    /// Blocks for so many workers of so many threads; their product is at most half of the
    /// exchange's seats (`Config::concurrency`).
    pub fn new(workers: u32, threads: u32) -> SeatBlocks {
        SeatBlocks { threads: threads as u16, is_taken: vec![false; 2 * workers as usize] }
    }

    /// Most workers that can serve at once and be replaced one after the other.
    pub fn workers_max(&self) -> usize {
        self.is_taken.len() / 2
    }

    /// All seats of the pool.
    pub fn seats(&self) -> u32 {
        self.is_taken.len() as u32 * u32::from(self.threads)
    }

    /// Takes a block; `None` while every one belongs to a living or unacknowledged worker.
    pub fn take(&mut self) -> Option<Range<u16>> {
        let block = self.is_taken.iter().position(|taken| !taken)?;
        self.is_taken[block] = true;
        let first = block as u16 * self.threads;
        Some(first..first + self.threads)
    }

    /// Gives a block back.
    pub fn give_back(&mut self, seats: &Range<u16>) {
        let block = usize::from(seats.start / self.threads);
        assert!(self.is_taken[block], "a block is given back once");
        self.is_taken[block] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_one_workers_at_a_time() {
        let mut blocks = SeatBlocks::new(1, 8);
        assert_eq!(blocks.seats(), 16);
        let first = blocks.take().unwrap();
        assert_eq!((first.clone(), blocks.take()), (0..8, Some(8..16)));
        assert_eq!(blocks.take(), None);
        blocks.give_back(&first);
        assert_eq!(blocks.take(), Some(0..8));
    }
}
