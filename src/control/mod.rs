//! The control socket: how `ringhorn reload` and `ringhorn status` reach a running server.
//!
//! Stands beside the walk of a request. A server listens on a Unix socket that only its own user
//! may open; a client sends one request line and reads one answer to its end. The socket's tasks
//! hold no state of the server: a request becomes an event for the supervisor, with a [`Reply`] to
//! answer it by.
//!
//! | file | part |
//! |---|---|
//! | `wire.rs` | request and answer as bytes |
//! | `place.rs` | where the socket is, and which servers have one |
//! | `socket.rs` | the server's side |
//! | `client.rs` | the side of `ringhorn reload` |
//!
//! Invariants: a request that is not understood is answered with an error; every read is bounded in
//! bytes and time; a reply that is dropped unanswered is answered as such.

pub mod client;
pub mod place;
pub mod socket;
pub mod wire;

pub use socket::Reply;
pub use wire::{Answer, Request};
