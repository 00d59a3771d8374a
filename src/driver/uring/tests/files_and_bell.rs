//! Spool files, the bell, and waiting.

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Loop, piece, token};
use crate::driver::{Driver, Kind, Piece, Token};
use crate::sys::eventfd::EventFd;

const BELL: Token = Token { connection: 0, generation: 0 };

#[test]
fn writes_and_reads_a_spool_file_at_offsets() {
    let mut file = tempfile::tempfile().unwrap();
    let mut this = Loop::small();
    let bytes = vec![b'w'; 100_000];
    // SAFETY: `bytes` lives, unchanged, until the completion below.
    unsafe { this.driver.file_write(token(9), file.as_fd(), piece(&bytes), 4096) };
    assert_eq!(this.wait(Kind::FileDone, token(9)).result, 100_000);
    assert_eq!(file.metadata().unwrap().len(), 104_096);
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"start").unwrap();
    let mut read = vec![0u8; 200_000];
    let into = Piece { pointer: read.as_mut_ptr(), length: read.len() };
    // SAFETY: `read` lives, untouched, until the completion below.
    unsafe { this.driver.file_read(token(9), file.as_fd(), into, 0) };
    assert_eq!(this.wait(Kind::FileDone, token(9)).result, 104_096);
    assert!(read.starts_with(b"start\0") && read[4096..104_096] == bytes[..]);
    // SAFETY: as above.
    unsafe { this.driver.file_read(token(9), file.as_fd(), into, 1 << 20) };
    assert_eq!(this.wait(Kind::FileDone, token(9)).result, 0, "past the end");
}

#[test]
fn a_refused_write_is_a_completion() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    std::fs::write(&path, b"").unwrap();
    let file = std::fs::File::open(path).unwrap();
    let mut this = Loop::small();
    // SAFETY: static memory.
    unsafe { this.driver.file_write(token(0), file.as_fd(), piece(b"x"), 0) };
    assert_eq!(this.wait(Kind::FileDone, token(0)).result, -libc::EBADF);
}

#[test]
fn the_bell_wakes_a_sleeping_loop_again_and_again() {
    let bell = EventFd::new().unwrap();
    let mut this = Loop::small();
    this.driver.watch_bell(bell.as_fd()).unwrap();
    for _ in 0..3 {
        let ringer = bell.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            ringer.ring().unwrap();
        });
        let before = Instant::now();
        this.driver.turn(None, &mut this.seen).unwrap();
        assert!(before.elapsed() >= Duration::from_millis(10));
        thread.join().unwrap();
        this.wait(Kind::Bell, BELL);
    }
    // Several rings before a turn are one completion or more, never none.
    for _ in 0..3 {
        bell.ring().unwrap();
    }
    this.wait(Kind::Bell, BELL);
    assert_eq!(this.driver.counters().bell_rearms, 0, "the poll was armed once");
}

#[test]
fn a_ring_before_the_watch_is_heard() {
    let bell = EventFd::new().unwrap();
    bell.ring().unwrap();
    let mut this = Loop::small();
    this.driver.watch_bell(bell.as_fd()).unwrap();
    this.wait(Kind::Bell, BELL);
}

#[test]
fn waits_as_long_as_it_was_told() {
    let mut this = Loop::small();
    let before = Instant::now();
    this.driver.turn(Some(Duration::from_millis(30)), &mut this.seen).unwrap();
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(30), "{waited:?}");
    assert_eq!(this.seen, []);
    assert_eq!((this.driver.counters().sleeps, this.driver.counters().timeouts), (1, 1));
}

#[test]
fn a_turn_with_nothing_to_do_makes_no_system_call() {
    let mut this = Loop::small();
    for _ in 0..10 {
        this.poll();
    }
    assert_eq!((this.driver.counters().turns, this.driver.counters().enters), (10, 0));
}
