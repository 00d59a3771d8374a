//! The worker's end (signatures).
use crate::record::{RecordHead, Variables};
use crate::response::{ResponseEnd, ResponseWriter};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
/// Descriptors of one loop, received over the control socket in this order.
#[derive(Debug)]
pub struct LoopDescriptorsOwned {
    /// Written by the loop, read-only here.
    pub down: OwnedFd,
    /// Written by workers.
    pub up: OwnedFd,
    /// The loop's eventfd.
    pub bell: OwnedFd,
}
/// Why the segments could not be attached.
#[derive(Debug)]
pub enum AttachError {
    /// A system call failed.
    Io(std::io::Error),
    /// Not our memory: the text names the check that failed (magic, version, layout hash, size).
    Layout(&'static str),
}
impl std::fmt::Display for AttachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AttachError::Io(error) => write!(f, "exchange segment: {error}"),
            AttachError::Layout(what) => write!(f, "exchange segment of another build: {what}"),
        }
    }
}
impl std::error::Error for AttachError {}
/// Why `wait_for_work` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkWake {
    /// There may be work: claim.
    Work,
    /// Stopped, or this generation is over: leave.
    Stop,
    /// `interrupt` was called for this seat.
    Interrupted,
    /// The time passed.
    TimedOut,
}
/// Why a wait within a request returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestWake {
    /// Try again; may be spurious (a signal arrived: `interrupt`).
    Ready,
    /// The loop gave the request up.
    Cancelled,
    /// `stop_now` was called.
    Stop,
}
/// What a read of the body gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRead {
    /// This many bytes, at least one (0 only for an empty `into`).
    Bytes(usize),
    /// None now, more will come: `wait_for_body`.
    Pending,
    /// The body was read to its end.
    End,
    /// The body was cut short: OSError.
    Broken,
}
/// Whether this process is a forked child of the one that attached: every entry refuses there.
pub fn is_forked() -> bool {
    false
}
/// The worker's end of every loop of the pool.
#[derive(Debug)]
pub struct WorkerEnd {
    _private: (),
}
#[allow(clippy::unimplemented, missing_docs, clippy::missing_errors_doc)]
impl WorkerEnd {
    pub fn attach(
        _loops: Vec<LoopDescriptorsOwned>,
        _seats: OwnedFd,
        _generation: u32,
    ) -> Result<WorkerEnd, AttachError> {
        unimplemented!()
    }
    pub fn seat(self: &Arc<Self>, _number: u16, _paired_loop: Option<u16>) -> Seat {
        unimplemented!()
    }
    /// Graceful: seats that wait for work get `Stop`; requests in hand go on.
    pub fn stop(&self) {
        unimplemented!()
    }
    /// Fast: waits within requests return `Stop` too.
    pub fn stop_now(&self) {
        unimplemented!()
    }
    pub fn interrupt(&self, _number: u16) {
        unimplemented!()
    }
}
/// One interpreter thread's place.
#[derive(Debug)]
pub struct Seat {
    _private: (),
}
#[allow(clippy::unimplemented, missing_docs)]
impl Seat {
    pub fn try_claim(&mut self) -> Option<Claim> {
        unimplemented!()
    }
    pub fn wait_for_work(&mut self, _timeout: Option<Duration>) -> WorkWake {
        unimplemented!()
    }
    pub fn ring_deferred(&mut self) {
        unimplemented!()
    }
    pub fn peek_work(&self) -> bool {
        unimplemented!()
    }
}
/// One claimed request. Dropping it unfinished is `finish(Broken)`.
#[derive(Debug)]
pub struct Claim {
    _private: (),
}
#[allow(clippy::unimplemented, missing_docs)]
impl Claim {
    pub fn head(&self) -> RecordHead {
        unimplemented!()
    }
    pub fn variables(&self) -> Variables<'_> {
        unimplemented!()
    }
    pub fn read_body(&mut self, _into: &mut [u8]) -> BodyRead {
        unimplemented!()
    }
    pub fn body_piece(&self) -> &[u8] {
        unimplemented!()
    }
    pub fn consume_body(&mut self, _bytes: usize) {
        unimplemented!()
    }
    pub fn wait_for_body(&mut self) -> RequestWake {
        unimplemented!()
    }
    pub fn writer(&mut self) -> &mut ResponseWriter {
        unimplemented!()
    }
    pub fn is_abandoned(&self) -> bool {
        unimplemented!()
    }
    pub fn finish(self, _end: ResponseEnd) {
        unimplemented!()
    }
}
