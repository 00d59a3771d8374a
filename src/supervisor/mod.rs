//! The control plane: everything around the walk of a request, nothing on it.

pub mod fault;
pub mod interpreter;
pub mod listeners;
