//! The access log: records made by event loops, written by the control plane.
//!
//! A loop makes an [`AccessRecord`] for every finished request and sends it up its report channel;
//! the supervisor formats records and writes them in batches. Nothing here is done on a loop but
//! filling the record.

mod basic;
pub mod format;
pub mod moment;
pub mod record;

pub use format::AccessFormat;
pub use moment::Moment;
pub use record::{AccessCaptures, AccessRecord, Phases};
