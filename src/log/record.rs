//! What a finished request leaves behind for the access log (and later metrics).
//!
//! Last step of the walk of a request: `event_loop/reply.rs` fills an [`AccessRecord`] once the
//! last byte went out or the connection was cut. The parts that come from the head are copied at
//! head time, since the head's bytes are gone by then, and only those that the compiled format
//! names.
//!
//! Invariants: bytes are as the peer sent them (escaping is the formatter's), values are cut at
//! `limits::ACCESS_VALUE_BYTES_MAX` by whoever captures them.

use std::time::SystemTime;

/// What the compiled `--access-logformat` needs a loop to capture. Immutable; shared by all loops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessCaptures {
    /// Environ names in CGI form (`HTTP_REFERER`, `CONTENT_TYPE`, `PATH_INFO`…), without repeats,
    /// at most `format::ACCESS_CAPTURES_MAX`. A record's `variables` have this order and length.
    pub variables: Vec<Box<[u8]>>,
    /// Method, target and protocol are wanted (else the three stay empty).
    pub request_line: bool,
    /// The response head is wanted (`%({name}o)s`): the loop copies it before the first send.
    pub response_head: bool,
    /// The peer's address is wanted (else `remote_addr` stays empty).
    pub remote_addr: bool,
    /// The request id is wanted (else `request_id` stays empty).
    pub request_id: bool,
}

/// One finished request.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Wall clock when the head was complete: `%(t)s`.
    pub started: SystemTime,
    /// When each phase was reached.
    pub phases: Phases,
    /// The peer's IP address as text without a port; empty for a Unix peer.
    pub remote_addr: Box<str>,
    /// Request method as sent; empty if no head was read.
    pub method: Box<[u8]>,
    /// Request target as sent (`RAW_URI` / `REQUEST_URI`), query included.
    pub target: Box<[u8]>,
    /// `HTTP/1.1`, `HTTP/1.0`, or what the gateway stated as SERVER_PROTOCOL.
    pub protocol: Box<[u8]>,
    /// Captured environ values in the order of [`AccessCaptures::variables`]; `None`: not there.
    pub variables: Vec<Option<Box<[u8]>>>,
    /// Response head as it went out, final empty line included; `None` if not captured or none was
    /// sent.
    pub response_head: Option<Box<[u8]>>,
    /// Status sent, or the status that stands for the end (499: the client left while queued; 0:
    /// none).
    pub status: u16,
    /// Bytes of the response body that went out, framing excluded.
    pub response_body_bytes: u64,
    /// The request id, given by a trusted peer or made here.
    pub request_id: Box<[u8]>,
    /// Number of the worker that ran it (`WorkerSeats::worker`, from 1; the supervisor knows its
    /// process id); 0 = the server itself answered.
    pub worker: u32,
    /// Why the request ended otherwise than by a whole response; a fixed word (`client-closed`,
    /// `send-timeout`…), `None` after a whole response.
    pub close_reason: Option<&'static str>,
}

/// Phase clocks of one request: monotonic nanoseconds (`base::clock`); 0 = never reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Its connection was accepted.
    pub accepted_ns: u64,
    /// Its head was complete.
    pub head_ns: u64,
    /// It was put into the ready queue (its body gathered).
    pub queued_ns: u64,
    /// A seat claimed it.
    pub claimed_ns: u64,
    /// The worker's first response byte was seen.
    pub first_byte_ns: u64,
    /// The last byte went out, or it was given up.
    pub done_ns: u64,
}

impl Phases {
    /// Nanoseconds from the complete head to the end: what `%(D)s` and its kin report.
    pub fn total_ns(&self) -> u64 {
        self.done_ns.saturating_sub(self.head_ns)
    }

    /// Nanoseconds from queue to claim; up to the end if it was never claimed; 0 if never queued.
    pub fn queue_wait_ns(&self) -> u64 {
        match (self.queued_ns, self.claimed_ns) {
            (0, _) => 0,
            (queued, 0) => self.done_ns.saturating_sub(queued),
            (queued, claimed) => claimed.saturating_sub(queued),
        }
    }
}
