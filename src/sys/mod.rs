//! Thin safe wrappers over system calls that std does not have.
//!
//! Stands beside the walk of a request: every room that needs the kernel for something other than a
//! socket asks here. Invariant: every function is safe to call in any order from any thread; a
//! descriptor is always an owned value, closed at drop.

pub mod allocator;
pub mod clock;
pub mod credentials;
pub mod descriptors;
pub mod errno;
pub mod eventfd;
pub mod files;
pub mod local_time;
pub mod process;
pub mod rlimit;
pub mod signals;
pub mod spool;
pub mod successor;
pub mod title;
pub mod worker_start;
