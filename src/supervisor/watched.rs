//! A descriptor whose readiness tasks wait for: a pidfd, a control socket, a bell.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Watches a duplicate, so that whoever owns the descriptor goes on using it as it is.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Registers with the runtime that this is called in.
    ///
    /// # Errors
    /// As `dup(2)` and `epoll_ctl(2)`.
    pub fn new(descriptor: &impl AsFd) -> io::Result<Watched> {
        let duplicate = descriptor.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe: it asks for a descriptor that stays open and the same, \
                      which an OwnedFd is by its type"
        )]
        AsyncFd::with_interest(duplicate, Interest::READABLE).map(Watched)
    }

    /// Waits until there is something to read. Whoever finds nothing left clears the guard.
    ///
    /// # Errors
    /// The runtime is ending.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}
