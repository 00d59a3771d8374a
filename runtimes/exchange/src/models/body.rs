//! The request body: the wait for bytes, the loop's wait for room, the end, and giving up.

use loom::thread;

use super::*;
use crate::claim;
use crate::lines::{BODY_BROKEN, BODY_COMPLETE};
use crate::ring::{self, RingBytes};
use crate::sync::AtomicU32 as Count;

const RING: usize = 2;
const BODY: [u8; 3] = [11, 12, 13];

/// The memory with the body's ring beside it.
struct WithRing {
    memory: Memory,
    ring: RingBytes,
    read: Count,
}

/// Seat: reads to the end, one byte at a time, and waits when there is nothing.
fn read_all(shared: &WithRing) {
    let (memory, hold) = (&shared.memory, shared.memory.hold(0));
    let mut consumed = 0u64;
    loop {
        let (available, state) = hold.down.look_at_body(consumed);
        if available > 0 {
            let mut byte = [0];
            shared.ring.copy_out(consumed, &mut byte);
            assert_eq!(byte[0], BODY[consumed as usize]);
            consumed += 1;
            if hold.down.consume_body(hold.up, RING, consumed) {
                memory.tell(0);
            }
        } else if state == BODY_COMPLETE {
            assert_eq!(consumed as usize, BODY.len(), "an end before the last byte");
            shared.read.store(1, Ordering::Relaxed);
            return;
        } else {
            hold.sleep_for_body(consumed, || false, None);
        }
    }
}

/// Loop: writes the body as the ring takes it, sleeps for news of room when it is full.
fn write_all(shared: &WithRing) {
    let memory = &shared.memory;
    let (down, up) = (&memory.down_slots[0], &memory.up_slots[0]);
    let (mut written, mut seen) = (0u64, 0u64);
    let mut put = |consumed: u64| {
        let room = ring::room(RING, written, consumed, seen).expect("an impossible count");
        seen = consumed;
        let bytes = room.min(BODY.len() - written as usize);
        shared.ring.copy_in(written, &BODY[written as usize..][..bytes]);
        written += bytes as u64;
        down.publish_body(written);
        (bytes, written as usize == BODY.len())
    };
    loop {
        memory.news().take(|_| ());
        let (mut bytes, mut is_all) = put(ring::look(&up.body_consumed));
        if !is_all {
            let (more, now_all) = put(down.ask_for_room(up));
            (bytes, is_all) = (bytes + more, now_all);
        }
        if is_all {
            break;
        }
        if bytes > 0 {
            memory.wake_owner();
        }
        if memory.is_dead() {
            return;
        }
        memory.sleep();
    }
    down.end_body(BODY_COMPLETE);
    memory.wake_owner();
}

fn stream(steps: usize) -> bool {
    let shared = Arc::new(WithRing {
        memory: Memory::with_one_owned(),
        ring: RingBytes::of_size(RING),
        read: Count::new(0),
    });
    let seat = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let lived = mortal(steps, || read_all(&shared));
            if !lived {
                shared.memory.say_dead();
            }
            lived
        })
    };
    write_all(&shared);
    let lived = seat.join().unwrap();
    assert_eq!(shared.read.load(Ordering::Relaxed) == 1, lived);
    lived
}

#[test]
fn a_body_larger_than_its_ring_arrives_whoever_waits_for_whom() {
    explore_every_stop(2, stream);
}

/// The body is published while the slot is still being claimed: its later owner sees it.
fn publish_against_claim(steps: usize) -> bool {
    let memory = Arc::new(Memory::new(1, 2, 1));
    memory.enqueue(0, 1, 0);
    let seat = spawn_mortal(&memory, steps, |memory| {
        assert!(memory.queue().take(0, |slot| memory.word(slot)).is_some());
        while memory.down_slots[0].look_at_body(0).0 == 0 {
            memory.hold(0).sleep_for_body(0, || false, None);
        }
    });
    memory.down_slots[0].publish_body(1);
    memory.wake_owner();
    seat.join().unwrap()
}

#[test]
fn what_is_published_while_the_slot_is_claimed_is_not_missed() {
    explore_every_stop(3, publish_against_claim);
}

/// A seat that waits for body is reached by giving up, by a broken end and by an interrupt.
fn reached_by(what: fn(&Memory), steps: usize) -> bool {
    let memory = Arc::new(Memory::with_one_owned());
    let seat = spawn_mortal(&memory, steps, |memory| {
        let hold = memory.hold(0);
        let interrupted = || memory.stop.load(Ordering::Acquire) != 0;
        while !hold.is_abandoned() && hold.down.look_at_body(0).1 == BODY_OPEN && !interrupted() {
            hold.sleep_for_body(0, interrupted, None);
        }
        claim::finish(&memory.up_slots[0].word, 1, 0);
        memory.tell(0);
    });
    what(&memory);
    loop {
        memory.news().take(|_| ());
        let hand = memory.hand(0);
        if hand.state == HandState::Done || memory.is_dead() {
            break;
        }
        memory.sleep();
    }
    let lived = seat.join().unwrap();
    let hand = memory.hand(0);
    assert!(claim::free(&memory.up_slots[0].word, hand).is_ok());
    lived
}

#[test]
fn giving_up_reaches_a_seat_that_waits() {
    explore_every_stop(3, |steps| {
        let give_up = |memory: &Memory| {
            if claim::abandon(&memory.up_slots[0].word, 1, 0).is_ok() {
                memory.wake_owner();
            }
        };
        reached_by(give_up, steps)
    });
}

#[test]
fn a_broken_end_reaches_a_seat_that_waits() {
    explore_every_stop(3, |steps| {
        let break_body = |memory: &Memory| {
            memory.down_slots[0].end_body(BODY_BROKEN);
            memory.wake_owner();
        };
        reached_by(break_body, steps)
    });
}

#[test]
fn an_interrupt_reaches_a_seat_that_waits() {
    explore_every_stop(3, |steps| {
        let interrupt = |memory: &Memory| {
            memory.stop.store(1, Ordering::Release);
            fence(Ordering::SeqCst);
            memory.seats[0].notify(crate::seat_line::WAITING);
        };
        reached_by(interrupt, steps)
    });
}
