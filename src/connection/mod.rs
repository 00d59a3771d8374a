//! One client connection as a state machine: no socket, no clock, no exchange.
//!
//! Where it stands in the walk of a request: between the driver's completions and the event loop's
//! decisions. `event_loop` feeds it what arrived and what went out; it answers with what it now
//! waits for and what should happen next ([`Intent`]); only `event_loop/intents.rs` turns an intent
//! into a driver operation.
//!
//! Invariants:
//! - One request in flight: bytes that arrive behind it wait in [`Extra::stash`], bounded, and no
//!   further receive is armed while any wait there.
//! - At most one receive and one send are armed ([`Connection::receiving`],
//!   [`Connection::sending`]).
//! - An idle connection owns no heap memory: [`Connection::extra`] is `None` between requests, and
//!   a [`Connection`] stays below [`CONNECTION_BYTES_MAX`].

pub mod body;
pub mod health;
pub mod refusal;
pub mod reply;

use std::net::SocketAddr;

use crate::protocol::http1::HeadScan;

use body::Body;
use reply::{OutBuffer, Reply};

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: the number is free.
    Free,
    /// A client: an accept is armed into this number.
    Accept,
    /// The (rest of the) head of a request.
    Head,
    /// The rest of a request body that is gathered before the request is queued.
    Body,
    /// The reply of a request in the exchange, or its last bytes to leave.
    Reply,
    /// The last bytes of an answer of the server itself (a refusal, its health) to leave.
    OwnReply,
    /// The end of the client's input, bounded, before the descriptor is closed.
    Drain,
    /// Armed operations to end, then the close.
    Close,
}

/// Which send is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// None.
    Nothing,
    /// Response bytes straight from the exchange's ring.
    Ring,
    /// Response bytes from the connection's own buffer (a slow reader's).
    Buffer,
    /// `100 Continue`.
    Continue,
    /// A refusal, pong or health answer: [`Extra::own`].
    Own,
}

/// What should happen next to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Receive into a provided buffer. `idle`: nothing is expected at once.
    Receive {
        /// Poll first: the attempt would most likely find nothing.
        idle: bool,
    },
    /// Receive straight into the body's memory.
    ReceiveBody,
    /// Send what the exchange's ring holds. `close`: hard-link the close behind it.
    SendRing {
        /// Bytes of the ring to send, already checked against the statement.
        bytes: u32,
        /// The descriptor is closed after it.
        close: bool,
    },
    /// Send the out-buffer's front.
    SendBuffer,
    /// Send [`Extra::own`].
    SendOwn(Sending),
    /// Write the body's memory to its spool file.
    SpoolWrite,
    /// Read the next piece of the spool file into the body's memory.
    SpoolRead,
    /// Cancel whatever is armed; each operation then ends by itself.
    Cancel,
    /// Send a FIN, then drain.
    ShutdownWrite,
    /// Close the descriptor: nothing is armed.
    Close,
    /// Close it so that the peer sees it break: nothing is armed.
    Reset,
}

/// The request's place in the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Which pool of the loop.
    pub pool: u8,
    /// Which slot of its segment.
    pub slot: u32,
}

/// A slot whose memory the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHold {
    /// Which slot of which pool.
    pub ticket: Ticket,
    /// Which incarnation of the pool's segments: a condemned one is replaced.
    pub incarnation: u32,
}

/// Place in the timer wheel (`event_loop/deadlines.rs` owns the links).
#[derive(Clone, Copy, Debug)]
pub struct TimerLink {
    /// Tick at which the connection's deadline falls; [`TimerLink::NEVER`]: none.
    pub deadline_tick: u32,
    /// Tick of the bucket it is linked into; [`TimerLink::NEVER`]: in none.
    pub linked_tick: u32,
    /// Neighbours in the bucket.
    pub next: u32,
    /// See `next`.
    pub previous: u32,
}

impl TimerLink {
    /// No tick, no neighbour.
    pub const NEVER: u32 = u32::MAX;
    /// In no bucket, no deadline.
    pub const UNLINKED: TimerLink = TimerLink {
        deadline_tick: Self::NEVER,
        linked_tick: Self::NEVER,
        next: Self::NEVER,
        previous: Self::NEVER,
    };
}

/// What only busy or unusual connections need; dropped when a connection falls idle.
#[derive(Debug, Default)]
pub struct Extra {
    /// Bytes received and not yet consumed: a partial head, or pipelined requests.
    pub stash: Vec<u8>,
    /// The head of the request whose body is gathered or streamed, parsed again at dispatch.
    pub head: Vec<u8>,
    /// The request body, while any of it is not in the exchange yet.
    pub body: Option<Body>,
    /// A refusal, `100 Continue`, pong or health answer on its way out.
    pub own: Vec<u8>,
    /// A slow reader's response bytes.
    pub out: Option<OutBuffer>,
    /// What the access log captured at head time.
    pub access: Option<Box<crate::log::AccessRecord>>,
    /// Bytes that this connection holds of the loop's buffer memory bound.
    pub memory_held: u64,
    /// Bytes that this connection holds of the loop's spool bound.
    pub disk_held: u64,
}

/// One connection. Owned by its event loop's table, named by its number there.
#[derive(Debug)]
pub struct Connection {
    /// Counts the uses of this number, modulo 2^24: stale completions are told apart by it.
    pub generation: u32,
    /// What it waits for.
    pub phase: Phase,
    /// Which send is in flight.
    pub sending: Sending,
    /// A receive is armed.
    pub receiving: bool,
    /// The receive armed is one straight into the body's memory.
    pub receiving_body: bool,
    /// A spool operation is in flight.
    pub spooling: bool,
    /// A shutdown of the writing side is in flight: the kernel runs it on a thread of its own and
    /// looks the descriptor up only there, so it must have ended before the number is used again.
    pub shutting_down: bool,
    /// A cancel was asked for and the operations have not all ended.
    pub cancelling: bool,
    /// The receive armed is the last look before an idle connection is closed.
    pub looks_last: bool,
    /// The peer will send nothing more.
    pub peer_finished: bool,
    /// The request in flight allows the connection to be kept.
    pub keep_alive: bool,
    /// Close only after a FIN and a bounded drain: the client may still be sending.
    pub linger: bool,
    /// The client is gone: nothing more is sent, nothing is drained.
    pub gone: bool,
    /// Only the connection's end delimits the reply, and the reply is not whole: it must not end
    /// cleanly.
    pub resets: bool,
    /// The first byte of a head came: its deadline runs.
    pub is_head_begun: bool,
    /// The request is a HEAD: a refusal has no body.
    pub is_head_request: bool,
    /// The request's stack was asked for (`--slow-request-log`).
    pub is_slow_logged: bool,
    /// The listener it came from, by number.
    pub listener: u16,
    /// Resume point of the head parser.
    pub scan: HeadScan,
    /// Bytes dropped in the drain so far.
    pub drained_bytes: u32,
    /// Bytes asked for in the send in flight.
    pub send_bytes: u32,
    /// Monotonic nanoseconds when it was accepted.
    pub accepted_ns: u64,
    /// Monotonic nanoseconds when the request was queued.
    pub queued_ns: u64,
    /// Monotonic nanoseconds when the send in flight has taken too long.
    pub send_due_ns: u64,
    /// The peer's address; `None` for Unix sockets.
    pub peer: Option<SocketAddr>,
    /// The request's place in the exchange.
    pub ticket: Option<Ticket>,
    /// The slot whose ring the send in flight reads, even if the request has left the exchange.
    pub ring_hold: Option<RingHold>,
    /// What was stated and sent of the reply.
    pub reply: Reply,
    /// Its place in the timer wheel.
    pub timer: TimerLink,
    /// Memory of busy connections.
    pub extra: Option<Box<Extra>>,
}

/// Upper bound of what an idle connection costs in the loop's table.
pub const CONNECTION_BYTES_MAX: usize = 256;
const _: () = assert!(size_of::<Connection>() <= CONNECTION_BYTES_MAX);

impl Connection {
    /// A free number.
    pub fn free() -> Connection {
        Connection {
            generation: 0,
            phase: Phase::Free,
            sending: Sending::Nothing,
            receiving: false,
            receiving_body: false,
            spooling: false,
            shutting_down: false,
            cancelling: false,
            looks_last: false,
            peer_finished: false,
            keep_alive: false,
            linger: false,
            gone: false,
            resets: false,
            is_head_begun: false,
            is_head_request: false,
            is_slow_logged: false,
            listener: 0,
            scan: HeadScan::default(),
            drained_bytes: 0,
            send_bytes: 0,
            accepted_ns: 0,
            queued_ns: 0,
            send_due_ns: 0,
            peer: None,
            ticket: None,
            ring_hold: None,
            reply: Reply::default(),
            timer: TimerLink::UNLINKED,
            extra: None,
        }
    }

    /// Makes a free number wait for a client of `listener`.
    pub fn arm(&mut self, listener: u16) {
        debug_assert_eq!(self.phase, Phase::Free);
        let generation = self.generation;
        *self = Connection { generation, phase: Phase::Accept, listener, ..Connection::free() };
        self.receiving = true; // The receive is linked behind the accept.
    }

    /// Ends the use of this number. No operation is armed any more.
    pub fn retire(&mut self) {
        debug_assert!(!self.is_armed());
        self.generation = (self.generation + 1) & 0x00ff_ffff;
        self.phase = Phase::Free;
        self.extra = None;
    }

    /// Whether the kernel still owes a completion.
    pub fn is_armed(&self) -> bool {
        self.receiving || self.spooling || self.shutting_down || self.sending != Sending::Nothing
    }

    /// Whether no further operation but its close may be armed.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Close | Phase::Free)
    }

    /// The memory of a busy connection, made at first need.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Bytes that wait to be parsed.
    pub fn stashed(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.stash.len())
    }

    /// Whether the whole request, its body included, left the socket.
    pub fn is_request_read(&self) -> bool {
        self.extra.as_ref().and_then(|extra| extra.body.as_ref()).is_none_or(Body::is_complete)
    }
}
