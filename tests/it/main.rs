//! The real binary, started on sockets of its own and spoken to in raw bytes.
//!
//! `harness.rs` starts servers and waits for what they log, never for time to pass. Tests that need
//! a worker need the native module in `target/runtime` (`make python-module` puts it there).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "a failed test shows the server's log")]

mod access_log;
mod binds;
mod command_line;
mod faults;
mod harness;
mod signals;
mod workers;
