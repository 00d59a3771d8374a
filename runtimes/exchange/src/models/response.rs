//! The response: bytes and end as the loop sees them, and the writer's wait for room.

use loom::thread;

use super::*;
use crate::claim;
use crate::ring::{self, RingBytes};

const RING: usize = 2;
const RESPONSE: [u8; 3] = [21, 22, 23];

struct WithRing {
    memory: Memory,
    ring: RingBytes,
}

/// Seat: writes as the ring takes it, waits for room when it is full, ends.
fn write_all(shared: &WithRing) {
    let (memory, hold) = (&shared.memory, shared.memory.hold(0));
    let mut written = 0u64;
    while (written as usize) < RESPONSE.len() {
        let sent = ring::look(&hold.down.response_sent);
        let room = ring::room(RING, written, sent, 0).expect("the loop's count is impossible");
        let bytes = room.min(RESPONSE.len() - written as usize);
        if bytes == 0 {
            memory.tell(0);
            hold.sleep_for_room(RING, written, || false, None);
            continue;
        }
        shared.ring.copy_in(written, &RESPONSE[written as usize..][..bytes]);
        if written == 0 {
            // The statement travels with the first bytes.
            hold.up.statement.store(77, Ordering::Relaxed);
        }
        written += bytes as u64;
        ring::publish(&hold.up.response_written, written);
    }
    hold.up.statement.store(78, Ordering::Relaxed);
    claim::finish(&hold.up.word, 1, 0);
    memory.tell(0);
}

/// Loop: sends whatever there is until the seat is done or dead.
fn send_all(shared: &WithRing) -> Vec<u8> {
    let memory = &shared.memory;
    let (down, up) = (&memory.down_slots[0], &memory.up_slots[0]);
    let (mut seen, mut wire) = (0, Vec::new());
    loop {
        memory.news().take(|_| ());
        let is_dead = memory.is_dead();
        // The word first: once it says DONE, what is read after it is final.
        let hand = memory.hand(0);
        let written = ring::look(&up.response_written);
        let sent = wire.len() as u64;
        let bytes = ring::available(RING, written, sent, seen).expect("an impossible count");
        seen = written;
        if written > 0 {
            assert!(up.statement.load(Ordering::Relaxed) >= 77, "bytes without a statement");
        }
        let mut piece = vec![0; bytes];
        shared.ring.copy_out(sent, &mut piece);
        wire.extend(piece);
        ring::publish(&down.response_sent, wire.len() as u64);
        if hand.state == HandState::Done {
            assert_eq!(up.statement.load(Ordering::Relaxed), 78, "done without an outcome");
            return wire;
        }
        if bytes > 0 && ring::is_roomy(RING, written, wire.len() as u64) {
            memory.wake_owner();
        }
        if is_dead {
            return wire;
        }
        memory.sleep();
    }
}

fn respond(steps: usize) -> bool {
    let shared =
        Arc::new(WithRing { memory: Memory::with_one_owned(), ring: RingBytes::of_size(RING) });
    let seat = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let lived = mortal(steps, || write_all(&shared));
            if !lived {
                shared.memory.say_dead();
            }
            lived
        })
    };
    let wire = send_all(&shared);
    assert!(RESPONSE.starts_with(&wire), "not a beginning of the response: {wire:?}");
    let done = shared.memory.hand(0).state == HandState::Done;
    let lived = seat.join().unwrap();
    assert!(!lived || wire == RESPONSE);
    assert!(!done || wire == RESPONSE, "done, but bytes are missing");
    lived
}

#[test]
fn a_response_larger_than_its_ring_arrives_whoever_waits_for_whom() {
    explore_every_stop(3, respond);
}
