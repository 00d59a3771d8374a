//! Claim word and ready queue: every request to exactly one party, none stranded, no record read
//! early.

use loom::thread;

use super::*;
use crate::claim::{self, Finish};

/// A seat that takes until it finds nothing, and gives the uses it got as bits.
fn take_all(memory: &Memory, seat: u16) -> u64 {
    let mut got = 0;
    while let Some(ticket) = memory.queue().take(seat, |slot| memory.word(slot)) {
        assert_eq!(memory.cell(ticket.slot), ticket.epoch, "the record of another use");
        assert_eq!(got & (1 << ticket.slot), 0, "the same request twice");
        got |= 1 << ticket.slot;
    }
    got
}

/// Two seats, one of them mortal, two requests of which the loop takes one back.
fn two_seats_and_a_withdrawal(steps: usize) -> bool {
    let memory = Arc::new(Memory::new(2, 8, 3));
    memory.enqueue(0, 1, 0);
    let mortal = spawn_mortal(&memory, steps, |memory| {
        take_all(memory, 0);
    });
    let other = {
        let memory = Arc::clone(&memory);
        thread::spawn(move || take_all(&memory, 1))
    };
    memory.enqueue(1, 1, 1);
    let withdrawn = claim::withdraw(&memory.up_slots[0].word, 1).is_ok();
    let lived = mortal.join().unwrap();
    let by_other = other.join().unwrap();
    // Whatever the two left behind, a third seat gets.
    let by_third = take_all(&memory, 2);
    assert!(memory.queue().is_empty());
    assert_eq!(by_other & by_third, 0);
    for slot in 0..2 {
        let hand = memory.hand(slot);
        let bit = 1 << slot;
        match (hand.state, hand.seat) {
            (HandState::Free, _) => {
                assert!(slot == 0 && withdrawn && (by_other | by_third) & bit == 0)
            }
            (HandState::Owned, 0) => assert_eq!((by_other | by_third) & bit, 0),
            (HandState::Owned, 1) => assert_ne!(by_other & bit, 0),
            (HandState::Owned, 2) => assert_ne!(by_third & bit, 0),
            other => panic!("slot {slot} ends as {other:?}"),
        }
    }
    lived
}

#[test]
fn every_request_goes_to_one_party_whoever_stops() {
    explore_every_stop(3, two_seats_and_a_withdrawal);
}

/// One slot used three times through a queue of two entries, so that a slow seat meets a later lap.
fn laps_with_a_slow_seat(steps: usize) -> bool {
    let memory = Arc::new(Memory::new(1, 2, 2));
    memory.enqueue(0, 1, 0);
    let mortal = spawn_mortal(&memory, steps, |memory| {
        if let Some(ticket) = memory.queue().take(0, |slot| memory.word(slot)) {
            assert_eq!(memory.cell(0), ticket.epoch);
            assert_ne!(claim::finish(&memory.up_slots[0].word, ticket.epoch, 0), Finish::NotOurs);
        }
    });
    let mut served = 0;
    for epoch in 1..=3 {
        if epoch > 1 {
            memory.enqueue(0, epoch, epoch - 1);
        }
        // The loop's own thread plays the second seat.
        if let Some(ticket) = memory.queue().take(1, |slot| memory.word(slot)) {
            assert_eq!(ticket.epoch, epoch);
            assert_eq!(memory.cell(0), epoch);
            assert_eq!(claim::finish(&memory.up_slots[0].word, epoch, 1), Finish::Done);
            served += 1;
        }
        // Done, or owned by a dead process: the loop frees it.
        loop {
            let hand = memory.hand(0);
            assert_eq!(hand.epoch, epoch);
            match hand.state {
                HandState::Done => {}
                HandState::Owned if memory.is_dead() => {}
                HandState::Owned => {
                    thread::yield_now();
                    continue;
                }
                state => panic!("use {epoch} is {state:?} after a seat found nothing"),
            }
            if claim::free(&memory.up_slots[0].word, memory.hand(0)).is_ok() {
                break;
            }
        }
    }
    let lived = mortal.join().unwrap();
    assert!(served >= 2, "the mortal seat serves once at most");
    lived
}

#[test]
fn a_slow_seat_on_a_later_lap_harms_nothing() {
    explore_every_stop(3, laps_with_a_slow_seat);
}

/// The loop gives a request up while its seat ends it.
fn abandon_against_finish(steps: usize) -> bool {
    let memory = Arc::new(Memory::with_one_owned());
    let mortal = spawn_mortal(&memory, steps, |memory| {
        memory.set_cell(0, 7);
        let finish = claim::finish(&memory.up_slots[0].word, 1, 0);
        assert_ne!(finish, Finish::NotOurs);
        memory.tell(0);
    });
    let abandoned = claim::abandon(&memory.up_slots[0].word, 1, 0).is_ok();
    loop {
        memory.news().take(|slot| assert_eq!(slot, 0));
        let hand = memory.hand(0);
        match hand.state {
            HandState::Done => {
                assert_eq!(memory.cell(0), 7, "the response is there");
                break;
            }
            // Between these two looks it may have said DONE: the freeing swap would fail, look
            // again.
            HandState::Owned | HandState::Abandoned if memory.is_dead() => {
                assert_eq!(hand.state == HandState::Abandoned, abandoned);
                if claim::free(&memory.up_slots[0].word, hand).is_ok() {
                    break;
                }
            }
            HandState::Owned | HandState::Abandoned => memory.sleep(),
            state => panic!("{state:?}"),
        }
    }
    mortal.join().unwrap()
}

#[test]
fn giving_up_and_finishing_agree() {
    explore_every_stop(3, abandon_against_finish);
}
