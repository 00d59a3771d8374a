//! What an event loop needs to know of the configuration: one plain, immutable struct.
//!
//! Made by the supervisor from [`Config`](super::Config) and the bound listeners, shared by all
//! loops behind an `Arc`. Nothing in here is text that must be parsed again, nothing changes while
//! it is used.

use std::path::PathBuf;
use std::time::Duration;

use super::address_set::AddressSet;
use crate::log::AccessCaptures;

/// Settings of every event loop. Bounds said "per process" are divided by the loop count by whoever
/// uses them through [`LoopSettings::share`].
#[derive(Clone, Debug)]
pub struct LoopSettings {
    /// How many event loops share the per-process bounds; at least 1.
    pub event_loops: u16,
    /// Bounds of one request head.
    pub head_limits: HeadLimits,
    /// Largest request body (`--limit-request-body`); 0 = no bound. Beyond it: 413.
    pub body_bytes_max: u64,
    /// How long an idle connection is kept between requests; zero = keep-alive is off.
    pub keep_alive_timeout: Duration,
    /// Idle time allowed while a head is incomplete; zero = no bound.
    pub header_timeout: Duration,
    /// Idle time allowed between two pieces of a request body; zero = no bound.
    pub body_timeout: Duration,
    /// Idle time allowed while the peer takes no byte of a response; zero = no bound.
    pub send_timeout: Duration,
    /// Requests in flight (queued or running), per process.
    pub inflight_max: u32,
    /// How long a request may wait for a seat before it gets 503; `None` = as long as it takes.
    pub queue_timeout: Option<Duration>,
    /// How long a request may run, from its claim; `None` = as long as it takes.
    pub timeout: Option<Duration>,
    /// How long a request interrupted for `timeout` may take to unwind.
    pub interrupt_grace: Duration,
    /// How long a request runs before its stack is logged; `None` = never.
    pub slow_request_log: Option<Duration>,
    /// Interrupt a request whose client left.
    pub cancel_on_disconnect: bool,
    /// Open connections, per process.
    pub connections_max: u32,
    /// A request body up to this many bytes is gathered in memory before it is queued.
    pub body_buffer_bytes: u64,
    /// A request body up to this many bytes is gathered in a spool file; beyond, it streams.
    pub body_spool_bytes: u64,
    /// How far the loop takes a response off its worker's hands, bytes a request.
    pub response_buffer_bytes: u64,
    /// All gathered bodies and buffered responses together, per process.
    pub buffer_memory_bytes_max: u64,
    /// All spool files together, per process.
    pub spool_disk_bytes_max: u64,
    /// Folder of the (unlinked) spool files.
    pub spool_dir: PathBuf,
    /// Peers whose `X-Forwarded-Proto` and request id are believed. Unix peers always are.
    pub forwarded_allow: AddressSet,
    /// Peers that may speak uwsgi over TCP. Unix sockets are governed by their mode.
    pub uwsgi_allow: AddressSet,
    /// Paths that the loop itself answers.
    pub health: HealthPaths,
    /// One entry a listener, in the order in which the loop is given them.
    pub listeners: Vec<ListenerFacts>,
    /// What an access record needs from the head; `None`: no access log, make no records.
    pub access: Option<AccessCaptures>,
}

/// Paths that tell how the server is, compared with PATH_INFO; `None`: not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthPaths {
    /// `--health-path`: 200 as long as the loop turns.
    pub alive: Option<Box<[u8]>>,
    /// `--ready-path`: 200 while requests would be served, else 503.
    pub ready: Option<Box<[u8]>>,
}

impl HealthPaths {
    /// Whether there is any.
    pub fn is_asked_for(&self) -> bool {
        self.alive.is_some() || self.ready.is_some()
    }
}

/// Bounds of a request head (line, fields) as the HTTP codec and, for `bytes`, the uwsgi codec keep
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Request line without its line end (`--limit-request-line`). Beyond: 414.
    pub line_bytes: u32,
    /// Header fields (`--limit-request-fields`). Beyond: 431.
    pub fields: u32,
    /// One field, name and value (`--limit-request-field-size`). Beyond: 431.
    pub field_bytes: u32,
    /// The whole head, empty line included (`--limit-request-head`). Beyond: 431.
    pub head_bytes: u32,
}

/// What a listener speaks: never guessed from bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and 1.0.
    Http,
    /// The uwsgi packet protocol (modifier1 0, 30, 100).
    Uwsgi,
}

/// A bound listener, as connections accepted from it need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFacts {
    /// What its connections speak.
    pub protocol: ListenerProtocol,
    /// A Unix socket (path or abstract): its peers have no address and are trusted by its mode.
    pub is_unix: bool,
    /// `SERVER_NAME` of requests that carry none themselves: the bound host without brackets, or
    /// `localhost` for a Unix socket; never empty (PEP 3333).
    pub server_name: String,
    /// `SERVER_PORT`: the actual port in digits, or `80` for a Unix socket; never empty (PEP 3333).
    pub server_port: String,
}

impl LoopSettings {
    /// One loop's share of a per-process bound: the bound divided by the loops, rounded up, at
    /// least 1.
    pub fn share(&self, bound: u64) -> u64 {
        bound.div_ceil(u64::from(self.event_loops.max(1))).max(1)
    }
}
