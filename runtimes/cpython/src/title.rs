//! What `ps` shows of a worker: `ringhorn: worker 3 [NAME] gen 2 ready`.
//!
//! Not on the walk of a request: a title changes when the worker's state does, never with a
//! request.
//!
//! The kernel shows the memory in which the arguments were passed; it is written over there, as
//! `setproctitle` does. The interpreter has copied its arguments by then, and nothing else reads
//! them. They are long enough: the boot text is among them.
//!
//! Invariants: what an application wrote there itself is left alone; the last byte stays zero,
//! since the kernel would read on into the environment otherwise.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use crate::system;

/// The title of this worker.
pub struct Title {
    prefix: String,
    place: Mutex<Place>,
}

/// The memory of the arguments.
struct Place {
    start: *mut u8,
    /// 0: the kernel does not say where it is, and there is no title.
    bytes: usize,
    /// What was written there last.
    shown: Option<Vec<u8>>,
}

// SAFETY: the memory belongs to the process for its whole life, and only the holder of the mutex
// touches it.
unsafe impl Send for Place {}

impl Title {
    /// That of a worker. Called on the main thread, whose short name is the process's.
    pub fn of_worker(name: &str, worker: u32, generation: u32) -> Title {
        let prefix = format!("ringhorn: worker {worker} [{name}] gen {generation}");
        Title::take(&format!("ringhorn-w{worker}"), prefix)
    }

    /// That of a fork server (`--preload`); likewise.
    pub fn of_fork_server(name: &str, generation: u32) -> Title {
        let prefix = format!("ringhorn: fork server [{name}] gen {generation}");
        Title::take("ringhorn-fork", prefix)
    }

    fn take(short: &str, prefix: String) -> Title {
        system::name_thread(short);
        let (start, bytes) = match system::arguments_place() {
            Some((start, end)) if start < end => (start, end - start),
            _ => (0, 0),
        };
        let start = std::ptr::with_exposed_provenance_mut(start);
        Title { prefix, place: Mutex::new(Place { start, bytes, shown: None }) }
    }

    /// Shows a state.
    pub fn show(&self, state: &str) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.write(&format!("{} {state}", self.prefix));
    }
}

impl Place {
    fn write(&mut self, title: &str) {
        if self.bytes == 0 {
            return;
        }
        let mut now = vec![0; self.bytes];
        let mut room = title.len().min(self.bytes - 1);
        while !title.is_char_boundary(room) {
            room -= 1;
        }
        now[..room].copy_from_slice(&title.as_bytes()[..room]);
        // SAFETY: the kernel said that the arguments of this process are there, in writable memory
        // of its stack; the interpreter has copied them.
        let area = unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) };
        if self.shown.as_ref().is_some_and(|shown| area != shown.as_slice()) {
            return;
        }
        area.copy_from_slice(&now);
        self.shown = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(memory: &mut [u8]) -> Place {
        Place { start: memory.as_mut_ptr(), bytes: memory.len(), shown: None }
    }

    #[test]
    fn is_cut_at_a_letter_and_ends_with_zero() {
        let mut memory = *b"python\0-c\0x\0";
        place(&mut memory).write("worker \u{e4}\u{e4}\u{e4}");
        assert_eq!(&memory, "worker \u{e4}\u{e4}\0".as_bytes());
        place(&mut memory).write("short");
        assert_eq!(&memory, b"short\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_the_application_wrote_stays() {
        let mut memory = [1; 8];
        let mut place = place(&mut memory);
        place.write("a");
        place.write("b");
        // SAFETY: `memory` is alive; this is what the application does.
        unsafe { place.start.write(b'z') };
        place.write("c");
        assert_eq!(memory[0], b'z');
    }

    #[test]
    fn without_a_place_there_is_no_title() {
        Place { start: std::ptr::null_mut(), bytes: 0, shown: None }.write("x");
    }
}
