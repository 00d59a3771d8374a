//! The error numbers that completions carry, by name, for rooms that may not name `libc`.
//!
//! Where it stands in the walk of a request: wherever a driver's completion reports a fault.

pub use libc::{
    EAGAIN, ECANCELED, ECONNABORTED, EDQUOT, EINTR, EMFILE, ENFILE, ENOBUFS, ENOSPC, EPROTO,
};
