//! The bell of an event loop: an eventfd that others write and the loop's driver polls.
//!
//! Stands at steps 4 and 5 of the walk of a request: a worker that has news, or the supervisor that
//! has a command, rings; the driver's multishot poll turns each ring into one `Bell` completion.
//!
//! Invariants: nobody needs to read the counter (each write wakes the poll again); it is
//! close-on-exec and non-blocking, so a ring never blocks the ringer: a counter at its maximum
//! means that the loop has not looked for 2^64 rings, and it will look.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// An eventfd, close-on-exec and non-blocking.
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    /// Makes a new one with counter 0.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: eventfd2 takes no pointer; a non-negative result is a new descriptor nobody else
        // owns, which `OwnedFd` closes exactly once.
        let descriptor = unsafe {
            let raw = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if raw < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(raw)
        };
        Ok(EventFd::from(descriptor))
    }

    /// Rings: adds 1 to the counter and wakes whoever polls.
    ///
    /// # Errors
    /// Whatever write(2) says, `EAGAIN` (counter full, so a ring is pending) excepted.
    pub fn ring(&self) -> io::Result<()> {
        match (&self.file).write(&1u64.to_ne_bytes()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the counter back to 0 and returns what it was (0 if nobody rang). The data plane does
    /// not need it; scripted drivers and tests do.
    ///
    /// # Errors
    /// Whatever read(2) says, `EAGAIN` (counter 0) excepted.
    pub fn take(&self) -> io::Result<u64> {
        let mut counter = [0u8; 8];
        match (&self.file).read(&mut counter) {
            Ok(_) => Ok(u64::from_ne_bytes(counter)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// A second descriptor of the same counter, to hand to a worker.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<EventFd> {
        Ok(EventFd { file: self.file.try_clone()? })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<OwnedFd> for EventFd {
    /// Takes a descriptor that is an eventfd; reads and writes of any other kind fail when used.
    fn from(descriptor: OwnedFd) -> EventFd {
        EventFd { file: File::from(descriptor) }
    }
}

impl From<EventFd> for OwnedFd {
    fn from(bell: EventFd) -> OwnedFd {
        OwnedFd::from(bell.file)
    }
}

#[cfg(test)]
mod tests {
    use super::EventFd;

    #[test]
    fn counts_rings_and_is_shared_by_clones() {
        let bell = EventFd::new().unwrap();
        assert_eq!(bell.take().unwrap(), 0);
        let other = bell.try_clone().unwrap();
        other.ring().unwrap();
        bell.ring().unwrap();
        assert_eq!(bell.take().unwrap(), 2);
        assert_eq!(other.take().unwrap(), 0);
    }
}
