//! What the other side can and cannot do with a segment; the kernel is the judge.

use super::*;

const BYTES: usize = 16 * PAGE_BYTES;

fn resident_pages(created: &Created) -> u64 {
    File::from(created.passed.try_clone().unwrap()).metadata().unwrap().blocks() * 512
        / PAGE_BYTES as u64
}

fn try_map(descriptor: BorrowedFd<'_>, writable: bool) -> io::Result<Mapping> {
    Mapping::new(descriptor, BYTES, writable)
}

#[test]
fn a_read_only_segment_cannot_be_written_by_its_descriptor() {
    let created = Created::read_only(c"test-down", BYTES).unwrap();
    assert!(try_map(created.descriptor(), true).is_err(), "mapped writable");
    let mapping = try_map(created.descriptor(), false).unwrap();
    // SAFETY: changes the protection of a mapping that only this test uses.
    let result = unsafe {
        libc::mprotect(mapping.base.as_ptr().cast(), BYTES, libc::PROT_READ | libc::PROT_WRITE)
    };
    assert_ne!(result, 0, "mprotect made it writable");
    // SAFETY: fallocate on a descriptor of this test.
    let result = unsafe {
        libc::fallocate(
            created.descriptor().as_raw_fd(),
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            0,
            PAGE_BYTES as i64,
        )
    };
    assert_ne!(result, 0, "punched a hole");
    created.mapping.at::<AtomicU64>(0).store(7, Ordering::Relaxed);
    assert_eq!(mapping.at::<AtomicU64>(0).load(Ordering::Relaxed), 7);
}

#[test]
fn no_side_can_resize_a_segment() {
    for created in [
        Created::read_only(c"test-down", BYTES).unwrap(),
        Created::writable(c"test-up", BYTES).unwrap(),
    ] {
        let file = File::from(created.passed.try_clone().unwrap());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(2 * BYTES as u64).is_err());
    }
}

#[test]
fn pages_are_given_back_and_read_as_zero() {
    for created in [
        Created::read_only(c"test-down", BYTES).unwrap(),
        Created::writable(c"test-up", BYTES).unwrap(),
    ] {
        let ring = created.mapping.ring(0, BYTES);
        ring.copy_in(0, &[0xaa; BYTES]);
        assert_eq!(resident_pages(&created), 16);
        created.punch(PAGE_BYTES, BYTES - PAGE_BYTES).unwrap();
        assert_eq!(resident_pages(&created), 1);
        let mut seen = [0xff; BYTES];
        ring.copy_out(0, &mut seen);
        assert!(seen[..PAGE_BYTES].iter().all(|&byte| byte == 0xaa));
        assert!(seen[PAGE_BYTES..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn an_unsealed_or_foreign_segment_is_not_attached() {
    let file = memfd(c"test-unsealed", BYTES).unwrap();
    let fault = attach(&file, Segment::Up, true, |_| Ok(BYTES)).unwrap_err();
    assert!(matches!(fault, AttachFault::Layout("not sealed against shrinking")));
    let created = Created::writable(c"test-up", BYTES).unwrap();
    let fault = attach(&created.passed, Segment::Up, true, |_| Ok(BYTES)).unwrap_err();
    assert!(matches!(fault, AttachFault::Layout("no magic number")));
}
