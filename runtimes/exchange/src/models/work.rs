//! The wait for work: no request waits while a seat sleeps, and stop reaches every sleeper.

use loom::thread;

use super::*;
use crate::claim;

/// A seat that serves and sleeps until it is told to stop.
fn serve(memory: &Memory, seat: u16) {
    loop {
        if let Some(ticket) = memory.queue().take(seat, |slot| memory.word(slot)) {
            claim::finish(&memory.up_slots[ticket.slot as usize].word, ticket.epoch, seat);
            memory.tell(ticket.slot);
            continue;
        }
        if memory.stop.load(Ordering::Acquire) != 0 {
            return;
        }
        let has_reason = || !memory.queue().is_empty() || memory.stop.load(Ordering::Acquire) != 0;
        let line = &memory.seats[usize::from(seat)];
        line.sleep_for_work(memory.idle(), seat, has_reason, None);
    }
}

fn stop_all(memory: &Memory) {
    memory.stop.store(1, Ordering::Release);
    fence(Ordering::SeqCst);
    memory.seats.iter().for_each(|line| {
        line.notify(IDLE);
    });
}

/// One or two seats that live. The loop wakes one seat for each request and trusts that: no timer.
fn without_a_timer(seats: u16, requests: u64) {
    let memory = Arc::new(Memory::new(requests as usize, 8, usize::from(seats)));
    let threads: Vec<_> = (0..seats)
        .map(|seat| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || serve(&memory, seat))
        })
        .collect();
    for request in 0..requests {
        memory.enqueue(request as SlotIndex, 1, request);
        memory.wake_one();
    }
    let mut left = (1u64 << requests) - 1;
    while left != 0 {
        memory.news().take(|slot| left &= !(1 << slot));
        if left != 0 {
            memory.sleep();
        }
    }
    stop_all(&memory);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_seat_that_goes_to_sleep_misses_no_request() {
    explore(3, || without_a_timer(1, 1));
    explore(2, || without_a_timer(1, 2));
}

#[test]
fn two_seats_share_requests_without_losing_a_wake_up() {
    explore(2, || without_a_timer(2, 1));
    explore(1, || without_a_timer(2, 2));
}

/// A mortal seat may take a wake-up with it. The loop, whose queue is then not empty, wakes by
/// itself after 500 µs and turns to another seat; here it plays that seat.
fn with_a_death(steps: usize) -> bool {
    let memory = Arc::new(Memory::new(1, 4, 2));
    let seat = spawn_mortal(&memory, steps, |memory| serve(memory, 0));
    memory.enqueue(0, 1, 0);
    memory.wake_one();
    let mut is_over = false;
    loop {
        let is_dead = memory.is_dead();
        memory.news().take(|_| is_over = true);
        let hand = memory.hand(0);
        // A death is a reason to look at every slot: it was running it, or died between DONE and
        // its news.
        is_over |= is_dead && hand.seat == 0 && hand.state == HandState::Owned;
        is_over |= is_dead && hand.state == HandState::Done;
        if is_over {
            break;
        }
        if memory.queue().is_empty() {
            memory.sleep();
        } else if is_dead {
            let taken = memory.queue().take(1, |slot| memory.word(slot));
            assert!(taken.is_some() || memory.queue().is_empty());
            is_over |= taken.is_some();
        } else {
            thread::yield_now();
        }
    }
    stop_all(&memory);
    seat.join().unwrap()
}

#[test]
fn a_wake_up_that_dies_with_its_seat_is_made_good() {
    explore_every_stop(2, with_a_death);
}

/// Raising the floor or asking to stop reaches a seat that is about to sleep.
#[test]
fn stop_reaches_a_seat_that_is_about_to_sleep() {
    explore(3, || {
        let memory = Arc::new(Memory::new(1, 2, 1));
        let seat = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || serve(&memory, 0))
        };
        stop_all(&memory);
        seat.join().unwrap();
    });
    explore(3, || {
        let memory = Arc::new(Memory::new(1, 2, 1));
        let seat = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let rules = &memory.down.rules.value;
                while !rules.is_over_for(1) {
                    let has_reason = || rules.is_over_for(1);
                    memory.seats[0].sleep_for_work(memory.idle(), 0, has_reason, None);
                }
            })
        };
        memory.down.rules.value.generations.store(pack_generations(2, 2), Ordering::Release);
        fence(Ordering::SeqCst);
        memory.seats[0].notify(IDLE);
        seat.join().unwrap();
    });
}
