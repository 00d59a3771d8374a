//! Each change of hands from each state: only the ones in the picture happen.
#![allow(clippy::unwrap_used)]

use super::*;

const STATES: [HandState; 5] =
    [HandState::Free, HandState::Queued, HandState::Owned, HandState::Abandoned, HandState::Done];

fn word(state: HandState) -> AtomicU64 {
    let seat = if matches!(state, HandState::Free | HandState::Queued) { 0 } else { 9 };
    AtomicU64::new(Hand { epoch: 7, seat, state }.pack())
}

fn state_of(word: &AtomicU64) -> HandState {
    Hand::unpack(word.load(Ordering::Relaxed)).unwrap().state
}

/// Runs one change from every state and checks where each ends.
fn check(change: impl Fn(&AtomicU64) -> bool, from: &[HandState], to: HandState) {
    for state in STATES {
        let word = word(state);
        let happened = change(&word);
        assert_eq!(happened, from.contains(&state), "from {state:?} to {to:?}");
        assert_eq!(state_of(&word), if happened { to } else { state });
    }
}

#[test]
fn only_the_pictured_changes_happen() {
    let free = Hand { epoch: 7, seat: 0, state: HandState::Free };
    check(|word| queue(word, free.pack(), 8).is_ok(), &[HandState::Free], HandState::Queued);
    check(|word| withdraw(word, 7).is_ok(), &[HandState::Queued], HandState::Free);
    check(|word| claim(word, 7, 9), &[HandState::Queued], HandState::Owned);
    check(|word| abandon(word, 7, 9).is_ok(), &[HandState::Owned], HandState::Abandoned);
    check(
        |word| finish(word, 7, 9) != Finish::NotOurs,
        &[HandState::Owned, HandState::Abandoned],
        HandState::Done,
    );
}

#[test]
fn another_epoch_or_seat_changes_nothing() {
    assert!(!claim(&word(HandState::Queued), 8, 9));
    assert!(withdraw(&word(HandState::Queued), 6).is_err());
    assert!(abandon(&word(HandState::Owned), 7, 8).is_err());
    assert_eq!(finish(&word(HandState::Owned), 7, 8), Finish::NotOurs);
    assert_eq!(finish(&word(HandState::Owned), 8, 9), Finish::NotOurs);
}

#[test]
fn words_and_entries_survive_packing_at_their_bounds() {
    for (epoch, seat) in [(0, 0), (1, 1), (EPOCH_MASK, u16::MAX)] {
        for state in STATES {
            let hand = Hand { epoch, seat, state };
            assert_eq!(Hand::unpack(hand.pack()), Some(hand));
        }
        let ticket = Ticket { slot: 0xff_ffff, epoch };
        assert_eq!(Ticket::unpack(ticket.pack()), ticket);
    }
    assert_eq!(Hand::unpack(5), None);
    assert_eq!(Hand { epoch: 0, seat: 0, state: HandState::Free }.pack(), 0, "zero memory is free");
}
