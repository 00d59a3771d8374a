//! Ringhorn: an application server for Python on io_uring.
//!
//! The library behind the thin binary. `ARCHITECTURE.md` walks a request through these rooms by
//! file and function; `tests/tidy.rs` holds the table of which room may import which.
//!
//! `unsafe` is denied here and allowed only in the rooms that say why below.
#![deny(unsafe_code)]

pub mod base;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
// The kernel writes into memory that operations own until they complete.
#[allow(unsafe_code)]
pub mod driver;
pub mod event_loop;
pub mod http;
pub mod log;
pub mod metrics;
pub mod protocol;
pub mod supervisor;
// Thin safe wrappers over system calls that std does not have.
#[allow(unsafe_code)]
pub mod sys;
