//! Anonymous memory shared with the kernel.
//!
//! Stands under the provided buffers. Invariants: page-aligned, zero-filled, touched only where
//! used, and absent in forked children (a child must never see a client's bytes).

use std::io;
use std::ptr::{self, NonNull};

/// An anonymous private mapping, unmapped at drop.
pub(super) struct Mapping {
    pointer: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps `bytes` (rounded up to pages by the kernel).
    ///
    /// # Errors
    /// `ENOMEM`, or `EINVAL` for 0 bytes.
    pub(super) fn create(bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing of
        // ours.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(pointer) = NonNull::new(address.cast::<u8>()) else {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        };
        let mapping = Mapping { pointer, bytes };
        // SAFETY: the range is the mapping just made. The advice changes no byte of it. It is only
        // about memory use: a kernel without huge pages refuses it and has nothing to be told.
        unsafe { libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE) };
        // SAFETY: as above.
        if unsafe { libc::madvise(address, bytes, libc::MADV_DONTFORK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    /// Never unmaps: the kernel may still use the memory.
    pub(super) fn leak(&mut self) {
        self.bytes = 0;
    }

    pub(super) fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: the range was mapped in `create` and nothing refers to it: references are made
        // only through `&self` of the owner, and the driver quiesces its ring before it drops.
        unsafe { libc::munmap(self.pointer.as_ptr().cast(), self.bytes) };
    }
}
