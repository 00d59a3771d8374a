//! What the tests of all drivers share.
//!
//! Stands outside of the walk of a request.

pub(super) mod echo_loop;
