//! Order, dead entries, laps and wild heads, on one thread; the races are in the loom models.
#![allow(clippy::unwrap_used)]

use super::*;

struct Fixture {
    entries: Vec<AtomicU64>,
    head: AtomicU64,
    tail: AtomicU64,
    words: Vec<AtomicU64>,
    pushed: u64,
}

impl Fixture {
    fn new(capacity: usize, slots: usize) -> Fixture {
        Fixture {
            entries: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            words: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            pushed: 0,
        }
    }

    fn queue(&self) -> ReadyQueue<'_> {
        ReadyQueue { entries: &self.entries, head: &self.head, tail: &self.tail }
    }

    fn push(&mut self, slot: SlotIndex, epoch: u64) {
        let word = &self.words[slot as usize];
        claim::queue(word, word.load(Ordering::Relaxed), epoch).unwrap();
        self.queue().push(self.pushed, Ticket { slot, epoch });
        self.pushed += 1;
    }

    fn take(&self, seat: u16) -> Option<SlotIndex> {
        self.queue().take(seat, |slot| self.words.get(slot as usize)).map(|ticket| ticket.slot)
    }
}

#[test]
fn first_in_is_first_out_over_many_laps() {
    let mut fixture = Fixture::new(8, 2);
    for epoch in 1..100 {
        fixture.push(0, epoch);
        fixture.push(1, epoch);
        assert_eq!(fixture.take(3), Some(0));
        assert_eq!(fixture.take(4), Some(1));
        assert_eq!(fixture.take(3), None);
        for (slot, seat) in [(0usize, 3), (1, 4)] {
            let hand = Hand { epoch, seat, state: HandState::Owned };
            claim::free(&fixture.words[slot], hand).unwrap();
        }
    }
    assert!(fixture.queue().is_empty());
}

#[test]
fn withdrawn_entries_are_stepped_over() {
    let mut fixture = Fixture::new(8, 3);
    for slot in 0..3 {
        fixture.push(slot, 1);
    }
    claim::withdraw(&fixture.words[0], 1).unwrap();
    claim::withdraw(&fixture.words[1], 1).unwrap();
    let word_of = |slot: SlotIndex| fixture.words.get(slot as usize);
    assert!(!fixture.queue().is_live(0, word_of));
    assert!(fixture.queue().is_live(2, word_of));
    assert_eq!(fixture.take(5), Some(2));
    assert_eq!(fixture.take(5), None);
}

#[test]
fn a_seat_that_died_between_claim_and_advance_strands_nothing() {
    let mut fixture = Fixture::new(8, 2);
    fixture.push(0, 1);
    fixture.push(1, 1);
    assert!(claim::claim(&fixture.words[0], 1, 6), "the dead seat's last step");
    assert_eq!(fixture.take(7), Some(1));
}

#[test]
fn a_wild_head_or_slot_ends_the_search() {
    let mut fixture = Fixture::new(8, 1);
    fixture.push(0, 1);
    fixture.head.store(u64::MAX, Ordering::Relaxed);
    assert!(fixture.queue().is_empty());
    assert_eq!(fixture.take(1), None);
    fixture.head.store(0, Ordering::Relaxed);
    fixture.entries[0].store(Ticket { slot: 77, epoch: 1 }.pack(), Ordering::Relaxed);
    assert_eq!(fixture.take(1), None);
}
