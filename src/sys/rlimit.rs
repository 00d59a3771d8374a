//! The limit of open descriptors (RLIMIT_NOFILE).
//!
//! Stands before the walk of a request: the supervisor raises the soft limit to the hard one before
//! the loops register their tables of direct descriptors (the kernel checks the table's size
//! against the limit at that moment), and gives workers the original one back, because programs
//! that use select(2) break above 1024.

use std::io;

/// A pair of limits of open descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// What is enforced.
    pub soft: u64,
    /// Up to where an unprivileged process may raise `soft`.
    pub hard: u64,
}

impl DescriptorLimit {
    /// The limit of this process now.
    ///
    /// # Errors
    /// Whatever getrlimit(2) says; it has no failure for valid arguments.
    pub fn current() -> io::Result<DescriptorLimit> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid, writable rlimit for the duration of the call.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(DescriptorLimit { soft: limit.rlim_cur, hard: limit.rlim_max })
    }

    /// Makes this the limit of the process.
    ///
    /// # Errors
    /// `EPERM` (above the hard limit, or above the system's `fs.nr_open`), `EINVAL` (soft > hard).
    pub fn apply(self) -> io::Result<()> {
        let limit = libc::rlimit { rlim_cur: self.soft, rlim_max: self.hard };
        // SAFETY: `limit` is a valid rlimit that the kernel only reads during the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Raises the soft limit to the hard one and returns the limit from before, for the workers.
///
/// # Errors
/// As [`DescriptorLimit::current`] and [`DescriptorLimit::apply`].
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    let before = DescriptorLimit::current()?;
    DescriptorLimit { soft: before.hard, hard: before.hard }.apply()?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::{DescriptorLimit, raise_descriptor_limit};

    #[test]
    fn raises_the_soft_limit_to_the_hard_one() {
        let before = raise_descriptor_limit().unwrap();
        assert!(before.soft <= before.hard);
        let now = DescriptorLimit::current().unwrap();
        assert_eq!(now.soft, before.hard);
        assert_eq!(now.hard, before.hard);
    }
}
