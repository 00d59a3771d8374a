//! What a seat runs now, as other threads of its worker may ask: so that a request, and no other
//! one, can be interrupted.
//!
//! Where it stands in the walk of a request: beside it, in the worker's own memory. The seat notes
//! the claim when it begins and takes the note back before it pulls again; a thread that is to
//! interrupt the request marks the note first.
//!
//! ```text
//!   0 ──seat: begin──▶ tenure ──other: mark, by swap──▶ tenure, marked
//!   ▲                    │ seat: end, by swap              │ seat: end, by swap → settle
//!   └────────────────────┴─────────────────────────────────┘
//! ```
//!
//! Orderings: all three steps are read-modify-writes or stores of one word, so they have one order:
//! the end either comes before the mark, which then fails, or takes it along and says so. What the
//! interrupting thread does to the seat's thread it does under the gate, which it took before the
//! mark; a seat that found a mark passes the gate too, so whatever was done to it is done by then.
//! Nothing else is published with the word: relaxed would do for the note itself, and acquire and
//! release cost nothing more on the machines that count.

use crate::SlotIndex;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// One use of one slot of one loop: which request is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    /// The loop's number: below 64.
    pub event_loop: u16,
    /// The slot: below 2^24.
    pub slot: SlotIndex,
    /// Which use of it.
    pub epoch: u64,
}

const MARKED: u64 = 1;
const RUNS: u64 = 2;

impl Tenure {
    /// One word, never 0. Of the epoch 32 bits: two uses of one slot that look the same lie
    /// 4,294,967,296 requests apart, and what compares them is a message on its way.
    const fn pack(self) -> u64 {
        (self.epoch & 0xffff_ffff) << 32
            | ((self.slot & 0xff_ffff) as u64) << 8
            | ((self.event_loop & 0x3f) as u64) << 2
            | RUNS
    }
}

/// What one seat runs. Shared by the seat and whoever may interrupt it.
#[derive(Debug)]
pub struct Running {
    word: AtomicU64,
    gate: Mutex<()>,
}

impl Default for Running {
    fn default() -> Self {
        Running { word: AtomicU64::new(0), gate: Mutex::new(()) }
    }
}

impl Running {
    /// Seat: it runs this one now.
    #[inline]
    pub fn begin(&self, tenure: Tenure) {
        self.word.store(tenure.pack(), Ordering::Release);
    }

    /// Seat: it is through with it. True: somebody interrupts it, or did; call
    /// [`settle`](Self::settle), then undo what is left of that.
    #[inline]
    pub fn end(&self) -> bool {
        self.word.swap(0, Ordering::AcqRel) & MARKED != 0
    }

    /// Seat, after `end` said true: returns once the interrupting thread is through as well.
    pub fn settle(&self) {
        drop(self.gate.lock());
    }

    /// Whether the seat runs nothing. May be old when it arrives.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.word.load(Ordering::Acquire) == 0
    }

    /// Whether the seat runs exactly this one. True may be old when it arrives.
    #[inline]
    pub fn is(&self, tenure: Tenure) -> bool {
        self.word.load(Ordering::Acquire) & !MARKED == tenure.pack()
    }

    /// Interrupts exactly this one, also if it was before: `act` is called while the seat cannot
    /// pull another. `None`: the seat runs it no more.
    pub fn interrupt<R>(&self, tenure: Tenure, act: impl FnOnce() -> R) -> Option<R> {
        let _gate = self.gate.lock();
        let (note, marked) = (tenure.pack(), tenure.pack() | MARKED);
        let swap = |from| {
            self.word.compare_exchange(from, marked, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        (swap(note) || swap(marked)).then(act)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TENURE: Tenure = Tenure { event_loop: 63, slot: 0xff_ffff, epoch: 0xff_ffff_ffff };

    #[test]
    fn only_what_runs_is_interrupted() {
        let running = Running::default();
        assert_eq!(running.interrupt(TENURE, || ()), None, "nothing runs");
        running.begin(TENURE);
        assert!(running.is(TENURE));
        for other in [
            Tenure { event_loop: 62, ..TENURE },
            Tenure { slot: 1, ..TENURE },
            Tenure { epoch: TENURE.epoch - 1, ..TENURE },
        ] {
            assert!(!running.is(other));
            assert_eq!(running.interrupt(other, || ()), None);
        }
        assert_eq!(running.interrupt(TENURE, || 7), Some(7));
        assert!(running.is(TENURE), "it runs on");
        assert_eq!(running.interrupt(TENURE, || 8), Some(8), "it may be needed again");
        assert!(running.end());
        running.settle();
        assert_eq!(running.interrupt(TENURE, || ()), None);
        running.begin(TENURE);
        assert!(!running.end(), "the mark went with its request");
    }

    #[test]
    fn the_first_use_of_the_first_slot_is_not_nothing() {
        let running = Running::default();
        running.begin(Tenure::default());
        assert!(running.is(Tenure::default()));
    }
}
