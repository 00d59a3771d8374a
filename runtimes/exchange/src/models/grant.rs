//! The wish for a large ring: asked, answered, or answered before it was asked.

use super::*;
use crate::claim;
use crate::grant::{ASKS, Grant};

/// Seat: asks unless it sees the answer, waits for it, writes to the ring it was granted, ends.
fn ask(memory: &Memory) {
    let hold = memory.hold(0);
    if hold.down.granted() == Grant::Undecided {
        hold.up.statement.store(ASKS, Ordering::Relaxed);
        memory.tell(0);
        while hold.down.granted() == Grant::Undecided {
            hold.sleep_for_grant(|| false, None);
        }
    }
    assert_eq!(hold.down.granted(), Grant::Ring(0));
    // The ring's memory: the loop and an earlier owner are done with it.
    memory.set_cell(0, 5);
    claim::finish(&hold.up.word, 1, 0);
    memory.tell(0);
}

/// Loop: reads what an earlier owner left in the ring, may grant it beforehand, answers the wish.
fn answer(memory: &Memory, beforehand: bool) {
    assert_eq!(memory.cell(0), 0);
    let (down, up) = (&memory.down_slots[0], &memory.up_slots[0]);
    let mut granted = beforehand;
    if beforehand {
        down.grant(Grant::Ring(0));
    }
    loop {
        memory.news().take(|_| ());
        let is_dead = memory.is_dead();
        let hand = memory.hand(0);
        if hand.state == HandState::Done {
            assert_eq!(memory.cell(0), 5, "done, but the ring was not written");
            return;
        }
        if up.statement.load(Ordering::Relaxed) == ASKS {
            if !granted {
                down.grant(Grant::Ring(0));
                granted = true;
            }
            // Also when it was granted beforehand: the seat may have missed that.
            memory.wake_owner();
        }
        if is_dead {
            return;
        }
        memory.sleep();
    }
}

fn ask_and_answer(steps: usize, beforehand: bool) -> bool {
    let memory = Arc::new(Memory::with_one_owned());
    let seat = spawn_mortal(&memory, steps, ask);
    answer(&memory, beforehand);
    seat.join().unwrap()
}

#[test]
fn a_wish_for_a_large_ring_is_answered() {
    explore_every_stop(3, |steps| ask_and_answer(steps, false));
}

#[test]
fn a_ring_granted_beforehand_is_seen_or_asked_for() {
    explore_every_stop(3, |steps| ask_and_answer(steps, true));
}
