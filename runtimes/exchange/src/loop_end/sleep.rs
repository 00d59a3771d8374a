//! The loop's end, going to sleep: first the queue, then the bitmap.
//!
//! Where it stands in the walk of a request: between two turns of the event loop.

use super::{Impossible, LoopEnd};
use crate::news;
use crate::segments::LoopView;
use crate::sync::Ordering;

impl LoopEnd {
    /// Whether there is nothing to take for a seat. Steps over dead entries.
    ///
    /// # Errors
    /// `head` is impossible, or an earlier call met something impossible that it could not return.
    pub fn queue_is_empty(&mut self) -> Result<bool, Impossible> {
        if let Some(impossible) = self.pending.take() {
            return Err(impossible);
        }
        let LoopEnd { layout, down, up, .. } = self;
        let view = LoopView { layout, down: &down.mapping, up: &up.mapping };
        let queue = view.queue();
        for _ in 0..=layout.queue_entries {
            let head = queue.head.load(Ordering::Acquire);
            if head < self.head_seen || head > self.tail {
                return Err(Impossible { what: "head of the ready queue", slot: None, seat: None });
            }
            self.head_seen = head;
            if head == self.tail {
                return Ok(true);
            }
            if queue.is_live(head, |slot| view.word(slot)) {
                return Ok(false);
            }
            queue.advance(head);
        }
        Ok(false)
    }

    /// When the entry at the queue's head was pushed, as of the last `queue_is_empty`.
    #[inline]
    pub fn oldest_queued_ns(&self) -> Option<u64> {
        let at = self.head_seen as usize & (self.layout.queue_entries - 1);
        (self.head_seen < self.tail).then(|| self.queued_at_ns[at])
    }

    /// Says that the loop sleeps, and looks once more. True: it may sleep. False: there is news,
    /// the flag is down again. A loop with several pools asks each. Before sleeping without a time
    /// limit of at most 500 µs, `queue_is_empty` must have said true *first*.
    ///
    /// # Errors
    /// An earlier call met something impossible that it could not return.
    #[inline]
    pub fn prepare_sleep(&mut self) -> Result<bool, Impossible> {
        if let Some(impossible) = self.pending.take() {
            return Err(impossible);
        }
        if !self.own_news.is_empty() {
            return Ok(false);
        }
        let view = self.view();
        Ok(news::prepare_sleep(&view.down_control().sleeping.value, view.news()))
    }

    /// Says that the loop no longer sleeps.
    #[inline]
    pub fn awake(&mut self) {
        news::awake(&self.view().down_control().sleeping.value);
    }
}
