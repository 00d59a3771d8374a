//! A seat that ends one request and begins the next, and a thread that interrupts the first.

use super::*;
use crate::running::{Running, Tenure};

const FIRST: Tenure = Tenure { event_loop: 0, slot: 0, epoch: 1 };
const NEXT: Tenure = Tenure { event_loop: 0, slot: 0, epoch: 2 };

/// The exception that is pending in the seat's thread: whoever touches it must be alone.
struct Seat {
    running: Running,
    pending: UnsafeCell<u64>,
}

// SAFETY: the cell is the point of the model: loom fails when two threads touch it at a time.
#[allow(unsafe_code)]
unsafe impl Sync for Seat {}

impl Seat {
    fn set_pending(&self, value: u64) {
        // SAFETY: checked by loom.
        #[allow(unsafe_code)]
        self.pending.with_mut(|cell| unsafe { *cell = value });
    }

    fn pending(&self) -> u64 {
        // SAFETY: checked by loom.
        #[allow(unsafe_code)]
        self.pending.with(|cell| unsafe { *cell })
    }
}

#[test]
fn an_interrupt_never_reaches_the_next_request() {
    loom::model(|| {
        let seat = Arc::new(Seat { running: Running::default(), pending: UnsafeCell::new(0) });
        seat.running.begin(FIRST);
        let other = {
            let seat = Arc::clone(&seat);
            // Its client left, then its deadline passed.
            loom::thread::spawn(move || {
                let reached = seat.running.interrupt(FIRST, || seat.set_pending(1)).is_some();
                let again = seat.running.interrupt(FIRST, || seat.set_pending(1)).is_some();
                assert!(reached || !again);
                reached
            })
        };
        let was_marked = seat.running.end();
        if was_marked {
            seat.running.settle();
            assert_eq!(seat.pending(), 1, "settled before the interrupt was through");
            seat.set_pending(0);
        }
        seat.running.begin(NEXT);
        // Alone with it: loom would see a race.
        assert_eq!(seat.pending(), 0, "the next request is hit");
        assert_eq!(other.join().unwrap(), was_marked);
        assert!(!seat.running.end());
    });
}
