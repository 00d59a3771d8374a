//! Counters: what each room counts, one writer each, read by the control plane.
//!
//! Where it stands in the walk of a request: beside it. Exposition is the control plane's.

pub mod loop_counters;

pub use loop_counters::{Counter, LoopCounters};
