//! What no correct worker writes, written by hand.
#![allow(clippy::unwrap_used, reason = "a failure is what a test is for")]

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::Arc;

use super::*;
use crate::claim;
use crate::geometry::Geometry;
use crate::record::{MethodId, Protocol, RecordFlags, RecordStart};
use crate::seats::SeatTable;

const GEOMETRY: Geometry = Geometry {
    slots: 2,
    seats: 1,
    request_ring_bytes: 8192,
    response_ring_bytes: 8192,
    large_rings: 1,
    large_ring_bytes: 16384,
};

/// A loop's end and a slot that seat 0 has claimed.
fn claimed() -> (LoopEnd, SlotIndex) {
    // SAFETY: no pointers; the result is owned by nobody else.
    let bell = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    let seats = Arc::new(SeatTable::create(GEOMETRY.seats).unwrap());
    let mut end = LoopEnd::create(0, GEOMETRY, seats, bell).unwrap();
    let slot = end.reserve().unwrap();
    let mut record = end.record(slot);
    record.begin(RecordStart {
        protocol: Protocol::Http11,
        method: MethodId::Get,
        flags: RecordFlags::default(),
        content_length: None,
    });
    record.finish().unwrap();
    end.enqueue(slot, 1).unwrap();
    assert!(claim::claim(&end.view().up_slot(slot).word, 1, 0));
    (end, slot)
}

/// Publishes a response of `written` bytes with a correct statement and these bits beside it.
fn write(end: &LoopEnd, slot: SlotIndex, written: u64, bits: u64) {
    let statement = Statement {
        status: 200,
        head_bytes: 40,
        body: StatedBody::Length(12_000),
        keep_alive: true,
    };
    let up = end.view().up_slot(slot);
    let (word, length) = statement.pack();
    up.statement.store(word | bits, Ordering::Relaxed);
    up.statement_length.store(length, Ordering::Relaxed);
    ring::publish(&up.response_written, written);
}

#[test]
fn a_large_ring_that_was_not_granted_is_impossible() {
    let (mut end, slot) = claimed();
    write(&end, slot, 100, LARGE);
    let impossible = end.progress(slot).unwrap_err();
    assert_eq!((impossible.slot, impossible.seat), (Some(slot), Some(0)));
}

#[test]
fn each_ring_bounds_what_may_lie_in_it() {
    let (mut end, slot) = claimed();
    write(&end, slot, 8192, 0);
    assert_eq!(end.progress(slot).unwrap().unsent, 8192);

    let (mut end, slot) = claimed();
    write(&end, slot, 8193, 0);
    assert!(end.progress(slot).is_err(), "more than the slot's own ring holds");

    let granted = || {
        let (mut end, slot) = claimed();
        end.view().up_slot(slot).statement.store(ASKS, Ordering::Relaxed);
        assert_eq!(end.progress(slot).unwrap().statement, None);
        (end, slot)
    };
    let (mut end, slot) = granted();
    write(&end, slot, 12_040, LARGE);
    assert_eq!(end.progress(slot).unwrap().unsent, 12_040);

    let (mut end, slot) = granted();
    write(&end, slot, 12_040, 0);
    assert!(end.progress(slot).is_err(), "granted, but stated to be in the slot's own");

    let (mut end, slot) = granted();
    write(&end, slot, 16_385, LARGE);
    assert!(end.progress(slot).is_err(), "more than a large ring holds");

    // The ring of a slot does not change under way.
    let (mut end, slot) = granted();
    write(&end, slot, 100, 0);
    assert_eq!(end.progress(slot).unwrap().unsent, 100);
    write(&end, slot, 12_040, LARGE);
    assert!(end.progress(slot).is_err());
}
