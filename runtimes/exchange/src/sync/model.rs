//! The same operations on loom's types, each one counted as a step of the thread that makes it.
//!
//! A thread that runs inside [`mortal`] stops for ever before its step number `steps`: it unwinds
//! out of whatever it was doing without touching shared memory again, as a killed process does.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::PoisonError;
use std::time::Duration;

use loom::sync::atomic::{self, Ordering};
use loom::sync::{Condvar, Mutex};

use super::FutexWake;

loom::thread_local! {
    /// Steps the thread may still make; `None` = it lives for ever.
    static STEPS_LEFT: Cell<Option<usize>> = Cell::new(None);
}

/// What a stopped thread unwinds with.
#[derive(Debug)]
pub struct Stopped;

/// Runs `program`, which stops for ever before its step number `steps`. True: it came to its end.
pub fn mortal(steps: usize, program: impl FnOnce()) -> bool {
    STEPS_LEFT.with(|left| left.set(Some(steps)));
    let result = panic::catch_unwind(AssertUnwindSafe(program));
    STEPS_LEFT.with(|left| left.set(None));
    match result {
        Ok(()) => true,
        Err(payload) if payload.is::<Stopped>() => false,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// One step of this thread.
fn step() {
    STEPS_LEFT.with(|left| {
        if let Some(steps) = left.get() {
            if steps == 0 {
                // No panic hook, no message: this is part of the model.
                panic::resume_unwind(Box::new(Stopped));
            }
            left.set(Some(steps - 1));
        }
    });
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        /// A loom atomic whose operations are steps.
        #[derive(Debug)]
        pub struct $name(atomic::$name);

        #[allow(missing_docs)]
        impl $name {
            pub fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }
            pub fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }
            pub fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }
            pub fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(from, to, success, failure)
            }
            pub fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_or(bits, order)
            }
            pub fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_and(bits, order)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// A word that one thread may sleep on. The kernel's guarantee is modelled by a lock: comparing the
/// word and going to sleep are one step as seen by wakers.
#[derive(Debug)]
pub struct FutexWord {
    word: AtomicU32,
    sleeper: Mutex<()>,
    woken: Condvar,
}

#[allow(missing_docs)]
impl FutexWord {
    pub fn new(value: u32) -> Self {
        Self { word: AtomicU32::new(value), sleeper: Mutex::new(()), woken: Condvar::new() }
    }

    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// A model has no time: without a wake it sleeps for ever, and loom reports the deadlock.
    pub fn wait(&self, expected: u32, _timeout: Option<Duration>) -> FutexWake {
        step();
        let guard = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed is all the kernel promises; the lock orders it with the waker's call.
        if self.word.0.load(Ordering::Relaxed) == expected {
            drop(self.woken.wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
        FutexWake::Woken
    }

    pub fn wake(&self) {
        step();
        let _guard = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        self.woken.notify_one();
    }
}

/// The loop's eventfd.
#[derive(Debug)]
pub struct Bell {
    rung: Mutex<bool>,
    ringing: Condvar,
}

#[allow(missing_docs)]
impl Bell {
    pub fn new() -> Self {
        Self { rung: Mutex::new(false), ringing: Condvar::new() }
    }

    pub fn ring(&self) {
        step();
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ringing.notify_one();
    }

    /// The loop's sleep.
    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            rung = self.ringing.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }
}
