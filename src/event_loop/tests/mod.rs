//! The loop against scripted clients and a worker in the same thread.
//!
//! The driver is the simulation, the exchange is real, time is virtual: every run is deterministic.
//! `stage.rs` sets the stage; the others are the plays.

mod stage;

mod bodies;
mod clients;
mod drain;
mod faults;
mod health;
mod overdue;
mod requests;
mod timing;
