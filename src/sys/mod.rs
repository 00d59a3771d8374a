//! Thin safe wrappers over system calls that std does not have.

pub mod descriptors;
pub mod local_time;
pub mod process;
pub mod signals;
