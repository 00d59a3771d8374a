//! One descriptor kept back for the moment when no other can be opened.
//!
//! Stands at step 1 of the walk of a request: when an accept fails for want of descriptors the loop
//! still has one to give up, so that it can accept and close a waiting client, or open its log.
//!
//! Invariant: it refers to `/dev/null`; holding it costs nothing but the number.

use std::fs::File;
use std::io;

/// A descriptor held only to be given up under `EMFILE`.
#[derive(Debug)]
pub struct ReserveDescriptor {
    held: Option<File>,
}

impl ReserveDescriptor {
    /// Opens the reserve.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, or `/dev/null` is missing.
    pub fn open() -> io::Result<ReserveDescriptor> {
        Ok(ReserveDescriptor { held: Some(File::open("/dev/null")?) })
    }

    /// Gives the number up; false when it was already given up.
    pub fn give_up(&mut self) -> bool {
        self.held.take().is_some()
    }

    /// Takes a number back after the emergency; does nothing when one is held.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` while the shortage lasts: try again later.
    pub fn restore(&mut self) -> io::Result<()> {
        if self.held.is_none() {
            self.held = Some(File::open("/dev/null")?);
        }
        Ok(())
    }

    /// Whether a number is held.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::ReserveDescriptor;

    #[test]
    fn is_given_up_once_and_restored() {
        let mut reserve = ReserveDescriptor::open().unwrap();
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
        assert!(!reserve.is_held());
        reserve.restore().unwrap();
        reserve.restore().unwrap();
        assert!(reserve.is_held());
    }
}
