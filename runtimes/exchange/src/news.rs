//! News: how a worker tells its loop that a slot changed, and how the loop goes to sleep beside it.
//!
//! Where it stands in the walk of a request: after the seat published bytes or its end, before
//! `event_loop/reply.rs` looks at the slot. Bit `s` of the bitmap says "slot s changed"; setting it
//! is idempotent and wait-free. Whoever set one rings the bell only if the loop says that it
//! sleeps.
//!
//! Orderings: the bit is set with release after what it announces, and taken with acquire. Sleeping
//! is the one place where each side writes one thing and reads the other's: the worker sets the
//! bit, fences, reads the flag; the loop sets the flag, fences, reads the bits. One of the two sees
//! the other.

use crate::SlotIndex;
use crate::queue::ReadyQueue;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Views of the bitmap.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// Bit `s % 64` of word `s / 64` is slot `s`.
    pub words: &'a [AtomicU64],
}

impl News<'_> {
    /// Worker: says that `slot` changed.
    #[inline]
    pub fn set(&self, slot: SlotIndex) {
        self.words[slot as usize / 64].fetch_or(1 << (slot % 64), Ordering::Release);
    }

    /// Whether any bit is set.
    #[inline]
    pub fn any(&self) -> bool {
        self.words.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Loop: takes all bits and gives each to `see`. Slots that do not exist are the caller's to
    /// drop.
    #[inline]
    pub fn take(&self, mut see: impl FnMut(SlotIndex)) {
        for (at, word) in self.words.iter().enumerate() {
            // The load alone keeps an idle line shared; the swap takes what is there by then.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                see((at as u32) * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// What a worker that set news has to do about the bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: the loop is awake and will look.
    Awake,
    /// Ring it later: the loop sleeps, but with work in its queue no longer than 500 µs.
    Deferred,
    /// Ring it now.
    MustRing,
}

/// Worker: says that `slot` changed. `queue` is given where the bell may be deferred.
///
/// Deferring is sound because the loop looks at the queue before the bitmap when it goes to sleep
/// without a time limit: the bit was set and fenced before the queue was seen not empty here, so a
/// loop that saw it empty after that sees the bit.
#[inline]
pub fn tell(
    news: News<'_>,
    sleeping: &AtomicU32,
    queue: Option<ReadyQueue<'_>>,
    slot: SlotIndex,
) -> Told {
    news.set(slot);
    if !must_ring(sleeping) {
        return Told::Awake;
    }
    if queue.is_some_and(|queue| !queue.is_empty()) { Told::Deferred } else { Told::MustRing }
}

/// Worker, after [`News::set`]: whether the loop must be woken for it.
#[inline]
pub fn must_ring(sleeping: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    sleeping.load(Ordering::Relaxed) != 0
}

/// Loop: says that it sleeps and looks once more. True: it may sleep. False: there is news and the
/// flag is down again.
#[inline]
pub fn prepare_sleep(sleeping: &AtomicU32, news: News<'_>) -> bool {
    sleeping.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if news.any() {
        awake(sleeping);
        return false;
    }
    true
}

/// Loop: says that it no longer sleeps. Relaxed: a worker that still sees the flag rings once too
/// often.
#[inline]
pub fn awake(sleeping: &AtomicU32) {
    sleeping.store(0, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    //! Bits at word borders; the races are in the loom models.

    use super::*;

    #[test]
    fn each_bit_set_is_taken_once() {
        let words: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        let news = News { words: &words };
        for slot in [0, 63, 64, 127, 191, 64] {
            news.set(slot);
        }
        assert!(news.any());
        let mut taken = Vec::new();
        news.take(|slot| taken.push(slot));
        assert_eq!(taken, [0, 63, 64, 127, 191]);
        assert!(!news.any());
        news.take(|slot| panic!("slot {slot} came twice"));
    }

    #[test]
    fn news_forbids_sleep() {
        let words = [AtomicU64::new(0)];
        let sleeping = AtomicU32::new(0);
        let news = News { words: &words };
        assert!(prepare_sleep(&sleeping, news));
        assert!(must_ring(&sleeping));
        awake(&sleeping);
        assert!(!must_ring(&sleeping));
        news.set(9);
        assert!(!prepare_sleep(&sleeping, news));
        assert!(!must_ring(&sleeping));
    }
}
