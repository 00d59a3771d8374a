//! Options and limits: what was said on the command line and in the environment, and what it means.
//!
//! Read once at start; nothing here is on the walk of a request except through the immutable
//! [`LoopSettings`] that every event loop holds. [`options`] is the table, [`said`] reads by it,
//! [`resolved`] gives a meaning to what was said.

pub mod activation;
pub mod address_set;
pub mod asking;
pub mod bind;
mod document;
mod error;
pub mod lifecycle;
pub mod limits;
pub mod options;
pub mod resolved;
pub mod said;
pub mod settings;
mod startup;
pub mod suggest;
pub mod value;

pub use address_set::AddressSet;
pub use bind::{Bind, Endpoint, SocketFileFacts};
pub use error::ConfigError;
pub use lifecycle::{ControlPlace, Lifecycle, ReloadStrategy};
pub use resolved::{Concurrency, Config, CpuAffinity, LogTarget};
pub use said::{Asked, Environment, Options};
pub use settings::{HeadLimits, HealthPaths, ListenerFacts, ListenerProtocol, LoopSettings};
pub use startup::Startup;
