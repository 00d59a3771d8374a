//! Arithmetic at its bounds and copies around the ring's end. Pure: `cargo miri test ring` can run
//! it.
#![allow(unsafe_code)]

use super::*;

#[test]
fn room_is_what_the_reader_left() {
    for (written, consumed, seen, expected) in [
        (0, 0, 0, Some(16)),
        (16, 0, 0, Some(0)),
        (20, 8, 4, Some(4)),
        (20, 20, 8, Some(16)),
        (20, 21, 8, None),
        (20, 7, 8, None),
        (20, 3, 0, None),
        (u64::MAX, u64::MAX, 0, Some(16)),
        (0, u64::MAX, 0, None),
    ] {
        assert_eq!(room(16, written, consumed, seen), expected, "{written} {consumed} {seen}");
    }
}

#[test]
fn available_is_what_the_writer_wrote() {
    for (written, consumed, seen, expected) in [
        (0, 0, 0, Some(0)),
        (16, 0, 0, Some(16)),
        (17, 0, 0, None),
        (9, 0, 10, None),
        (3, 4, 0, None),
        (u64::MAX, 0, 0, None),
        (u64::MAX, u64::MAX - 16, 0, Some(16)),
    ] {
        assert_eq!(available(16, written, consumed, seen), expected, "{written} {consumed} {seen}");
    }
}

#[test]
fn roomy_means_half_free() {
    assert!(is_roomy(16, 0, 0));
    assert!(is_roomy(16, 8, 0));
    assert!(!is_roomy(16, 9, 0));
    assert!(is_roomy(16, 9, 9));
}

#[test]
fn bytes_come_out_as_they_went_in_at_every_offset() {
    for size in [1usize, 7, 16] {
        let mut memory = vec![0u8; size];
        // SAFETY: `memory` outlives the ring and nobody else touches it.
        let ring = unsafe { RingBytes::new(memory.as_mut_ptr(), size) };
        for position in 0..40u64 {
            for length in 0..=size {
                let bytes: Vec<u8> = (0..length).map(|at| (position as usize + at) as u8).collect();
                ring.copy_in(position, &bytes);
                let mut seen = vec![0; length];
                ring.copy_out(position, &mut seen);
                assert_eq!(seen, bytes);
                let pieces = ring.pieces(position, length);
                assert_eq!(pieces[0].1 + pieces[1].1, length);
            }
        }
    }
}
