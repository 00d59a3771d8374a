//! Containers and small tools that every room may use; nothing has needed one yet.
//!
//! The lowest layer: it imports nothing of the server.
