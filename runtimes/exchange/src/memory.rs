//! Segments of shared memory: memfds, their seals, and typed views of the mappings.
//!
//! Where it stands in the walk of a request: below everything. The creator maps a segment writable
//! and passes descriptors on; the other side maps what its descriptor allows.
//!
//! Trust, and how it is enforced: the loop's segment (*down*) must not be writable for workers.
//! They get a descriptor opened read-only, so that neither `mmap`, `mprotect`, `write` nor
//! `fallocate` can change it. `F_SEAL_FUTURE_WRITE` would say the same, but on Linux it also
//! forbids the loop to punch holes (`shmem_fallocate` answers EPERM, seen on 6.18), and then memory
//! grown by a burst could never be given back. It is used where /proc, through which the descriptor
//! is reopened, is missing; holes are then not punched. Every segment is sealed against shrinking
//! and growing, so that no access can raise SIGBUS.
//!
//! Invariants: a mapping lives as long as the value that made it. References are formed only to
//! values made of atomics ([`Shared`]); everything else is copied through raw pointers. Mappings
//! are not copied into forked children (`MADV_DONTFORK`) and not written to core files
//! (`MADV_DONTDUMP`).

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::ptr::{self, NonNull};

use crate::geometry::{IDENTITY_WORDS, Identity, PAGE_BYTES, Segment};
use crate::lines::{DownControl, DownSlot, UpControl, UpSlot};
use crate::ring::RingBytes;
use crate::seat_line::SeatLine;
use crate::sync::{AtomicU64, Ordering};

/// Values that may lie in memory which other processes write: made of atomics only, valid for every
/// bit pattern.
///
/// # Safety
/// Every byte of the type belongs to an atomic or is padding that nobody reads.
pub(crate) unsafe trait Shared {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU64 {}
// SAFETY: structures of atomic integers.
unsafe impl Shared for DownControl {}
// SAFETY: as above.
unsafe impl Shared for UpControl {}
// SAFETY: as above.
unsafe impl Shared for DownSlot {}
// SAFETY: as above.
unsafe impl Shared for UpSlot {}
// SAFETY: as above.
unsafe impl Shared for SeatLine {}

/// A whole segment, mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is a range of addresses valid in every thread; what is done through it is
// either atomic or governed by the claim word and the position protocol.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(descriptor: BorrowedFd<'_>, bytes: usize, writable: bool) -> io::Result<Mapping> {
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice; replaces nothing.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                descriptor.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(base) = NonNull::new(base.cast()) else {
            return Err(io::Error::other("mmap gave address 0"));
        };
        let mapping = Mapping { base, bytes };
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: the range is the mapping just made.
            if unsafe { libc::madvise(base.as_ptr().cast(), bytes, advice) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(mapping)
    }

    /// A value in the mapping.
    ///
    /// # Panics
    /// When it would lie outside or misaligned: the layout and the mapping disagree.
    #[inline]
    pub fn at<T: Shared>(&self, offset: usize) -> &T {
        &self.slice::<T>(offset, 1)[0]
    }

    /// Values in a row.
    ///
    /// # Panics
    /// As [`at`](Self::at).
    #[inline]
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        let end = count.checked_mul(mem::size_of::<T>()).and_then(|size| offset.checked_add(size));
        assert!(end.is_some_and(|end| end <= self.bytes) && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: in bounds and aligned (checked above; the base is page-aligned), mapped as long
        // as `self`, and `Shared` promises that any bit pattern is valid and that writes by others
        // are to atomics. Read-only mappings are only loaded from: their users are the worker's
        // end.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset).cast(), count) }
    }

    /// The bytes of a ring.
    ///
    /// # Panics
    /// When they would lie outside.
    #[inline]
    pub fn ring(&self, offset: usize, bytes: usize) -> RingBytes {
        assert!(bytes > 0 && offset <= self.bytes && bytes <= self.bytes - offset);
        // SAFETY: in bounds (checked above); users keep the mapping alive beside the ring and write
        // only to rings of a segment they mapped writable.
        unsafe { RingBytes::new(self.base.as_ptr().add(offset), bytes) }
    }

    /// Writes the identity at the start.
    pub fn identify(&self, identity: Identity) {
        let words = self.slice::<AtomicU64>(0, IDENTITY_WORDS);
        for (word, value) in words.iter().zip(identity.words()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Reads the identity.
    ///
    /// # Errors
    /// Which check failed.
    pub fn identity(&self, segment: Segment) -> Result<Identity, &'static str> {
        let mut words = [0; IDENTITY_WORDS];
        for (word, value) in self.slice::<AtomicU64>(0, IDENTITY_WORDS).iter().zip(&mut words) {
            *value = word.load(Ordering::Relaxed);
        }
        Identity::of_words(words, segment)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a forked child the range was never mapped, and by now something else may be there.
        if crate::fork::is_forked() {
            return;
        }
        // SAFETY: the range is ours, and every reference into it borrowed from `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A segment this process made.
#[derive(Debug)]
pub(crate) struct Created {
    pub mapping: Mapping,
    /// For the other side; read-only for [`Created::read_only`].
    passed: OwnedFd,
    /// For punching holes; `None` where the kernel would refuse.
    punching: Option<OwnedFd>,
}

impl Created {
    /// A segment that both sides write.
    ///
    /// # Errors
    /// As `memfd_create`, `ftruncate`, `mmap` and `fcntl`.
    pub fn writable(name: &std::ffi::CStr, bytes: usize) -> io::Result<Created> {
        let descriptor = memfd(name, bytes)?;
        let mapping = Mapping::new(descriptor.as_fd(), bytes, true)?;
        seal(&descriptor, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
        let punching = Some(descriptor.try_clone()?);
        Ok(Created { mapping, passed: descriptor, punching })
    }

    /// A segment that only this side writes.
    ///
    /// # Errors
    /// As [`writable`](Self::writable).
    pub fn read_only(name: &std::ffi::CStr, bytes: usize) -> io::Result<Created> {
        let descriptor = memfd(name, bytes)?;
        let mapping = Mapping::new(descriptor.as_fd(), bytes, true)?;
        let sealed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        match reopen_read_only(&descriptor) {
            Ok(passed) => {
                seal(&descriptor, sealed | libc::F_SEAL_SEAL)?;
                Ok(Created { mapping, passed, punching: Some(descriptor) })
            }
            Err(_) => {
                // No /proc: the seal says the same to the kernel, at the price of the holes.
                seal(&descriptor, sealed | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL)?;
                Ok(Created { mapping, passed: descriptor, punching: None })
            }
        }
    }

    /// The descriptor to pass to the other side.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.passed.as_fd()
    }

    /// Whether pages can be given back at all.
    pub fn can_punch(&self) -> bool {
        self.punching.is_some()
    }

    /// Gives the pages of a range back to the system; they read as zero afterwards.
    ///
    /// # Errors
    /// As `fallocate`.
    pub fn punch(&self, offset: usize, bytes: usize) -> io::Result<()> {
        let Some(descriptor) = &self.punching else {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        };
        debug_assert!(offset.is_multiple_of(PAGE_BYTES) && bytes.is_multiple_of(PAGE_BYTES));
        // SAFETY: fallocate on a descriptor we own. The bytes belong to a free slot: nobody reads
        // them.
        let result = unsafe {
            libc::fallocate(
                descriptor.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset as libc::off_t,
                bytes as libc::off_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Maps a segment that another process made, after checking that it cannot shrink.
///
/// # Errors
/// A system call's error, or which check failed.
pub(crate) fn attach(
    descriptor: &OwnedFd,
    segment: Segment,
    writable: bool,
    bytes_of: impl FnOnce(Identity) -> Result<usize, &'static str>,
) -> Result<(Mapping, Identity), AttachFault> {
    let file = File::from(descriptor.try_clone().map_err(AttachFault::Io)?);
    let bytes = file.metadata().map_err(AttachFault::Io)?.size() as usize;
    if bytes < PAGE_BYTES {
        return Err(AttachFault::Layout("smaller than a page"));
    }
    // SAFETY: fcntl on a descriptor we own.
    let seals = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(AttachFault::Io(io::Error::last_os_error()));
    }
    if seals & libc::F_SEAL_SHRINK == 0 {
        return Err(AttachFault::Layout("not sealed against shrinking"));
    }
    let mapping = Mapping::new(descriptor.as_fd(), bytes, writable).map_err(AttachFault::Io)?;
    let identity = mapping.identity(segment).map_err(AttachFault::Layout)?;
    if bytes_of(identity).map_err(AttachFault::Layout)? != bytes {
        return Err(AttachFault::Layout("another size than its identity says"));
    }
    Ok((mapping, identity))
}

/// Why a segment could not be attached.
#[derive(Debug)]
pub(crate) enum AttachFault {
    Io(io::Error),
    Layout(&'static str),
}

/// An empty memfd of this size, close-on-exec, never executable where the kernel knows that.
fn memfd(name: &std::ffi::CStr, bytes: usize) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags| {
        // SAFETY: the name is a C string.
        let descriptor = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    let descriptor = match create(flags | libc::MFD_NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(flags)?,
        other => other?,
    };
    File::from(descriptor.try_clone()?).set_len(bytes as u64)?;
    Ok(descriptor)
}

fn seal(descriptor: &OwnedFd, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor we own.
    if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The same memory through a descriptor that cannot write. The file's mode then keeps an
/// unprivileged process from opening it for writing by accident, as `/proc/self/fd` would otherwise
/// allow.
fn reopen_read_only(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(path)?;
    // SAFETY: fchmod on a descriptor we own.
    if unsafe { libc::fchmod(descriptor.as_raw_fd(), 0o400) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests;
