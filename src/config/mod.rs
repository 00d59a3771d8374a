//! Options and limits: what was said on the command line and in the environment, and what it means.
//!
//! Read once at start; nothing here is on the walk of a request except through the immutable
//! [`LoopSettings`] that every event loop holds.

pub mod address_set;
pub mod limits;
pub mod settings;

pub use address_set::AddressSet;
pub use settings::{HeadLimits, ListenerFacts, ListenerProtocol, LoopSettings};
