//! Loom models: every interleaving (up to a bound on preemptions) of the protocol files, each also
//! with a party that stops for ever before each of its steps.
//!
//! They run the code that ships: only the atomics, the futex and the bell are loom's (see `sync`).
//! What a model adds is the memory, the parties and what must hold. A lost wake-up is a deadlock,
//! which loom reports; a byte read too early is a race on a cell, which loom reports too.
//!
//! `make loom` runs them: `RUSTFLAGS="--cfg loom" cargo test --release -p ringhorn-exchange`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is what a model is for")]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::cell::UnsafeCell;
use loom::sync::Arc;

use crate::SlotIndex;
use crate::claim::{Hand, HandState, Ticket};
use crate::lines::{
    BODY_OPEN, DownControl, DownSlot, Hold, Line, Rules, UpControl, UpSlot, pack_generations,
};
use crate::news::{self, News, Told};
use crate::queue::ReadyQueue;
use crate::seat_line::{AWAKE, IDLE, IdleSeats, SeatLine};
use crate::sync::{AtomicU32, AtomicU64, Bell, FutexWord, Ordering, fence, mortal};

mod bell;
mod body;
mod claim_and_queue;
mod grant;
mod response;
mod running;
mod work;

/// The segments of one loop and pool, small.
struct Memory {
    down: DownControl,
    up: UpControl,
    entries: Vec<AtomicU64>,
    news: Vec<AtomicU64>,
    down_slots: Vec<DownSlot>,
    up_slots: Vec<UpSlot>,
    seats: Vec<SeatLine>,
    idle: Vec<AtomicU64>,
    bell: Bell,
    /// What a record or a response holds: plain memory that the protocol alone protects.
    cells: Vec<UnsafeCell<u64>>,
    /// The worker's process is dead, as its pidfd says.
    dead: AtomicU32,
    /// The process-local wish to stop.
    stop: AtomicU32,
}

// SAFETY: the cells are the point of the models: loom fails when two threads touch one at a time.
#[allow(unsafe_code)]
unsafe impl Sync for Memory {}

impl Memory {
    fn new(slots: usize, entries: usize, seats: usize) -> Memory {
        let zero = || AtomicU64::new(0);
        Memory {
            down: DownControl {
                tail: Line { value: zero() },
                sleeping: Line { value: AtomicU32::new(0) },
                rules: Line {
                    value: Rules {
                        generations: AtomicU64::new(pack_generations(1, 1)),
                        closing: AtomicU32::new(0),
                    },
                },
            },
            up: UpControl { head: Line { value: zero() } },
            entries: (0..entries).map(|_| zero()).collect(),
            news: vec![zero()],
            down_slots: (0..slots)
                .map(|_| DownSlot {
                    body_written: zero(),
                    response_sent: zero(),
                    body_state: AtomicU32::new(BODY_OPEN),
                    close_after: AtomicU32::new(0),
                    wants_room: AtomicU32::new(0),
                    client_left: AtomicU32::new(0),
                    large_ring: AtomicU32::new(0),
                })
                .collect(),
            up_slots: (0..slots)
                .map(|_| UpSlot {
                    word: zero(),
                    response_written: zero(),
                    body_consumed: zero(),
                    statement: zero(),
                    statement_length: zero(),
                    payload_written: zero(),
                    claimed_at: zero(),
                    first_byte_at: zero(),
                })
                .collect(),
            seats: (0..seats).map(|_| SeatLine { word: FutexWord::new(AWAKE) }).collect(),
            idle: vec![zero()],
            bell: Bell::new(),
            cells: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
            dead: AtomicU32::new(0),
            stop: AtomicU32::new(0),
        }
    }

    /// With slot 0 already owned by seat 0 in its first use.
    fn with_one_owned() -> Memory {
        let memory = Memory::new(1, 2, 1);
        let owned = Hand { epoch: 1, seat: 0, state: HandState::Owned };
        memory.up_slots[0].word.store(owned.pack(), Ordering::Relaxed);
        memory
    }

    fn queue(&self) -> ReadyQueue<'_> {
        ReadyQueue {
            entries: &self.entries,
            head: &self.up.head.value,
            tail: &self.down.tail.value,
        }
    }

    fn news(&self) -> News<'_> {
        News { words: &self.news }
    }

    fn idle(&self) -> IdleSeats<'_> {
        IdleSeats { words: &self.idle }
    }

    fn word(&self, slot: SlotIndex) -> Option<&AtomicU64> {
        self.up_slots.get(slot as usize).map(|slot| &slot.word)
    }

    /// What seat `number` holds slot 0 with.
    fn hold(&self, number: u16) -> Hold<'_> {
        Hold {
            seat: &self.seats[usize::from(number)],
            down: &self.down_slots[0],
            up: &self.up_slots[0],
            epoch: 1,
            number,
        }
    }

    /// Loop: wakes the owner of slot 0 if it waits.
    fn wake_owner(&self) {
        crate::lines::wake_owner(&self.up_slots[0], |seat| self.seats.get(usize::from(seat)));
    }

    /// Loop: wakes one idle seat for work.
    fn wake_one(&self) -> bool {
        fence(Ordering::SeqCst);
        (0..self.seats.len())
            .filter(|&seat| self.idle().has(seat as u16))
            .any(|seat| self.seats[seat].notify(IDLE))
    }

    /// Worker: tells the loop of a slot, without deferring.
    fn tell(&self, slot: SlotIndex) {
        let told = news::tell(self.news(), &self.down.sleeping.value, None, slot);
        if told == Told::MustRing {
            self.bell.ring();
        }
    }

    /// Loop: sleeps if it may, as long as nothing rings.
    fn sleep(&self) {
        if news::prepare_sleep(&self.down.sleeping.value, self.news()) {
            self.bell.wait();
            news::awake(&self.down.sleeping.value);
        }
    }

    /// Loop: whether the worker is dead.
    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire) != 0
    }

    /// The kernel: says that the worker is dead and wakes the loop (its pidfd is watched).
    fn say_dead(&self) {
        self.dead.store(1, Ordering::Release);
        self.bell.ring();
    }

    fn hand(&self, slot: SlotIndex) -> Hand {
        let word = self.up_slots[slot as usize].word.load(Ordering::Acquire);
        Hand::unpack(word).expect("a claim word with a state that nobody writes")
    }

    /// Loop: queues a slot for use `epoch`, with a record that says which.
    fn enqueue(&self, slot: SlotIndex, epoch: u64, tail: u64) {
        self.set_cell(slot, epoch);
        let free = Hand { epoch: epoch - 1, seat: 0, state: HandState::Free };
        let free = if epoch == 1 { 0 } else { free.pack() };
        let word = &self.up_slots[slot as usize].word;
        crate::claim::queue(word, free, epoch).expect("the word of a free slot changed");
        self.queue().push(tail, Ticket { slot, epoch });
    }

    #[allow(unsafe_code)]
    fn set_cell(&self, slot: SlotIndex, value: u64) {
        // SAFETY: loom fails the model if another thread touches the cell meanwhile.
        self.cells[slot as usize].with_mut(|cell| unsafe { *cell = value });
    }

    #[allow(unsafe_code)]
    fn cell(&self, slot: SlotIndex) -> u64 {
        // SAFETY: as above.
        self.cells[slot as usize].with(|cell| unsafe { *cell })
    }
}

/// Explores every interleaving of `scenario` with at most `preemptions` of them.
fn explore(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(scenario);
}

/// Explores `scenario` for a party that stops before its first step, its second, and so on, and at
/// last one that lives. The scenario is given the steps and says whether the party came to its end.
fn explore_every_stop(preemptions: usize, scenario: fn(usize) -> bool) {
    for steps in 0.. {
        assert!(steps < 500, "the party never comes to its end");
        let lived = std::sync::Arc::new(AtomicBool::new(true));
        let seen = std::sync::Arc::clone(&lived);
        explore(preemptions, move || {
            if !scenario(steps) {
                seen.store(false, SeqCst);
            }
        });
        if lived.load(SeqCst) {
            return;
        }
    }
}

/// Runs a worker's program as a thread that stops before its step number `steps`; its death is then
/// announced. Joining gives whether it lived.
fn spawn_mortal(
    memory: &Arc<Memory>,
    steps: usize,
    program: impl FnOnce(&Memory) + 'static,
) -> loom::thread::JoinHandle<bool> {
    let memory = Arc::clone(memory);
    loom::thread::spawn(move || {
        let lived = mortal(steps, || program(&memory));
        if !lived {
            memory.say_dead();
        }
        lived
    })
}
