//! Bitmap, sleep flag and bell: no news is slept through, also when bells are deferred or a worker
//! dies.

use loom::thread;

use super::*;
use crate::claim;

/// Two workers announce a slot each, one of them mortal; the loop sleeps whenever it may.
fn two_announce(steps: usize) -> bool {
    let memory = Arc::new(Memory::new(2, 2, 2));
    let mortal = spawn_mortal(&memory, steps, |memory| {
        memory.set_cell(0, 1);
        memory.tell(0);
    });
    let other = {
        let memory = Arc::clone(&memory);
        thread::spawn(move || {
            memory.set_cell(1, 1);
            memory.tell(1);
        })
    };
    let mut seen = [false; 2];
    loop {
        // The death first: news that was set before it is then seen.
        let is_dead = memory.is_dead();
        memory.news().take(|slot| {
            assert_eq!(memory.cell(slot), 1, "news of something that is not there");
            seen[slot as usize] = true;
        });
        if seen[1] && (seen[0] || is_dead) {
            break;
        }
        memory.sleep();
    }
    other.join().unwrap();
    mortal.join().unwrap()
}

#[test]
fn no_news_is_slept_through() {
    explore_every_stop(3, two_announce);
}

/// A worker's seat: takes until the queue is dry, defers bells by the rule.
fn serve_with_deferred_bells(memory: &Memory, seat: u16) {
    let mut deferred = false;
    let ring = |memory: &Memory, deferred: &mut bool| {
        if std::mem::take(deferred) && news::must_ring(&memory.down.sleeping.value) {
            memory.bell.ring();
        }
    };
    while let Some(ticket) = memory.queue().take(seat, |slot| memory.word(slot)) {
        if memory.queue().is_empty() {
            ring(memory, &mut deferred);
        }
        claim::finish(&memory.up_slots[ticket.slot as usize].word, ticket.epoch, seat);
        let queue = Some(memory.queue());
        match news::tell(memory.news(), &memory.down.sleeping.value, queue, ticket.slot) {
            Told::Awake => {}
            Told::Deferred => deferred = true,
            Told::MustRing => memory.bell.ring(),
        }
    }
    ring(memory, &mut deferred);
}

/// Seats with deferred bells, one of them mortal, two requests. The loop keeps its rule: it looks
/// at the queue first and then at the bitmap, and sleeps without a time limit only if both are
/// empty.
fn deferred_bells(steps: usize, with_other: bool) -> bool {
    let memory = Arc::new(Memory::new(2, 8, 2));
    memory.enqueue(0, 1, 0);
    memory.enqueue(1, 1, 1);
    let mortal = spawn_mortal(&memory, steps, |memory| serve_with_deferred_bells(memory, 0));
    let other = with_other.then(|| {
        let memory = Arc::clone(&memory);
        thread::spawn(move || serve_with_deferred_bells(&memory, 1))
    });
    let is_over = |slot| match memory.hand(slot) {
        Hand { state: HandState::Done, .. } => true,
        Hand { state: HandState::Owned, seat: 0, .. } => memory.is_dead(),
        _ => false,
    };
    let mut seen = [false; 2];
    while !(seen[0] && seen[1]) {
        memory.news().take(|slot| seen[slot as usize] = true);
        if memory.is_dead() {
            // A death is a reason to look at every slot.
            (0..2).for_each(|slot| seen[slot as usize] |= is_over(slot));
        }
        if seen[0] && seen[1] {
            break;
        }
        if memory.queue().is_empty() {
            memory.sleep();
        } else {
            // At most 500 µs: it wakes by itself.
            thread::yield_now();
            if !with_other && memory.is_dead() {
                // Nobody else would: the loop's thread plays a seat that comes later.
                serve_with_deferred_bells(&memory, 1);
            }
        }
    }
    if let Some(other) = other {
        other.join().unwrap();
    }
    mortal.join().unwrap()
}

#[test]
fn deferred_bells_are_rung_or_not_needed() {
    explore_every_stop(3, |steps| deferred_bells(steps, false));
}

#[test]
fn deferred_bells_of_two_seats_are_rung_or_not_needed() {
    explore_every_stop(1, |steps| deferred_bells(steps, true));
}

/// A seat that deferred its bell and is then kept for ever (an application's `close()` that
/// blocks), beside one that takes what is left of the queue and is kept too. Neither rings again,
/// neither is dead: the news must reach the loop all the same.
#[test]
fn a_deferred_bell_needs_nobody_to_ring_it_later() {
    explore(3, || {
        let memory = Arc::new(Memory::new(2, 8, 2));
        memory.enqueue(0, 1, 0);
        memory.enqueue(1, 1, 1);
        let seats: Vec<_> = (0..2)
            .map(|seat| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    let Some(ticket) = memory.queue().take(seat, |slot| memory.word(slot)) else {
                        return;
                    };
                    if ticket.slot == 1 {
                        return;
                    }
                    claim::finish(&memory.up_slots[0].word, ticket.epoch, seat);
                    let queue = Some(memory.queue());
                    let sleeping = &memory.down.sleeping.value;
                    if news::tell(memory.news(), sleeping, queue, 0) == Told::MustRing {
                        memory.bell.ring();
                    }
                })
            })
            .collect();
        let mut is_seen = false;
        while !is_seen {
            if memory.queue().is_empty() {
                // First the queue, then the bitmap.
                memory.news().take(|slot| is_seen |= slot == 0);
                if !is_seen {
                    memory.sleep();
                }
            } else {
                thread::yield_now();
            }
            memory.news().take(|slot| is_seen |= slot == 0);
        }
        seats.into_iter().for_each(|seat| seat.join().unwrap());
    });
}
