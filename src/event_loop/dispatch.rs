//! Into the exchange: a slot, the request's record, what is at hand of its body, the ready queue.
//!
//! Where it stands in the walk of a request: third; `runtimes/*/seat` claims it next.
//!
//! Invariants:
//! - A slot is held from here until the reply was sent or given up, never by an idle connection or
//!   by a body that is still gathered.
//! - Nothing is queued that could not be answered: the bound of requests in flight is tested first.
//! - Seats are woken once a turn, behind all that the turn queued (`mod.rs`).

use ringhorn_exchange::{BodyEnd, MethodId, Protocol, RecordFlags, RecordStart};

use super::request_record::{self, RecordFacts};
use super::state::State;
use super::uwsgi_record;
use crate::config::ListenerFacts;
use crate::connection::body::Body;
use crate::connection::reply::Reply;
use crate::connection::{Phase, Ticket};
use crate::driver::ConnectionIndex;
use crate::http::{BodyFraming, Rejection, Version};
use crate::protocol::{http1, uwsgi};

/// A parsed request head of either protocol.
#[derive(Debug)]
pub enum Head<'a> {
    /// HTTP/1.1 or 1.0.
    Http(&'a http1::RequestHead<'a, 'a>),
    /// A uwsgi packet and what it says.
    Uwsgi(&'a uwsgi::Packet<'a>, &'a uwsgi::RequestHead<'a>),
}

/// Where the request's body is.
#[derive(Clone, Copy, Debug)]
pub enum BodyAtHand<'a> {
    /// All of it, behind the head in the received bytes.
    Whole(&'a [u8]),
    /// In the connection's [`Body`], gathered or still coming.
    Held,
}

impl State {
    /// Hands the request to the exchange, or refuses it.
    pub fn dispatch(&mut self, index: ConnectionIndex, head: &Head<'_>, body: BodyAtHand<'_>) {
        if self.inflight >= self.inflight_max {
            self.overloaded(index, "too many requests in flight (--max-inflight)");
            return;
        }
        // One pool serves one application; routing by application chooses here later.
        let pool = 0u8;
        if self.pools[usize::from(pool)].is_condemned {
            self.overloaded(index, "the workers are being replaced");
            return;
        }
        let Some(slot) = self.pools[usize::from(pool)].end.reserve() else {
            self.overloaded(index, "every slot of the exchange is in use");
            return;
        };
        if let Err(rejection) = self.write_record(index, pool, slot, head, body) {
            self.pools[usize::from(pool)].end.cancel_reservation(slot);
            self.refuse(index, rejection);
            return;
        }
        if !self.write_body_at_hand(index, pool, slot, body) {
            return;
        }
        self.enqueue(index, pool, slot);
    }

    fn write_record(
        &mut self,
        index: ConnectionIndex,
        pool: u8,
        slot: u32,
        head: &Head<'_>,
        body: BodyAtHand<'_>,
    ) -> Result<(), Rejection> {
        let trusted = self.is_trusted(index);
        let made_id;
        let id = match request_record::request_id(head, trusted) {
            Some(given) => given,
            None => {
                made_id = self.request_ids.make();
                &made_id[..]
            }
        };
        let settings = &self.settings;
        let connection = &mut self.table[index];
        let listener: &ListenerFacts = &settings.listeners[usize::from(connection.listener)];
        let facts = RecordFacts {
            listener,
            peer: connection.peer,
            content_length: content_length(head, body, connection.extra.as_deref()),
            request_id: id,
        };
        if let Some(access) = connection.extra.as_mut().and_then(|extra| extra.access.as_mut()) {
            access.request_id = id.into();
        }
        let mut record = self.pools[usize::from(pool)].end.record(slot);
        record.begin(RecordStart {
            protocol: protocol(head),
            method: MethodId::of(head.method()),
            flags: RecordFlags {
                https: request_record::is_https(head, trusted),
                head_method: connection.is_head_request,
                body_gathered: matches!(body, BodyAtHand::Whole(_)) || connection.is_request_read(),
                keep_alive: connection.keep_alive,
            },
            content_length: facts.content_length,
        });
        match head {
            Head::Http(head) => {
                request_record::write_http(&mut record, head, &facts, &mut self.scratch)?;
            }
            Head::Uwsgi(packet, head) => {
                uwsgi_record::write_uwsgi(&mut record, packet, head, &facts)
            }
        }
        record.finish().map_err(|_| HEAD_TOO_LARGE)
    }

    /// Writes the body's first bytes behind the record; false: the request is lost to a bad worker.
    fn write_body_at_hand(
        &mut self,
        index: ConnectionIndex,
        pool: u8,
        slot: u32,
        body: BodyAtHand<'_>,
    ) -> bool {
        let BodyAtHand::Whole(bytes) = body else { return true };
        let end = &mut self.pools[usize::from(pool)].end;
        let written = if bytes.is_empty() { Ok(0) } else { end.write_body(slot, bytes) };
        match written {
            Ok(written) if written == bytes.len() => end.finish_body(slot, BodyEnd::Complete),
            Ok(written) => {
                // A large head left little room in the ring: the rest follows as it is read.
                let rest = &bytes[written..];
                let mut held = Body::new(BodyFraming::Length(rest.len() as u64));
                held.is_streaming = true;
                let taken = held.take(rest, 0);
                debug_assert_eq!(taken, Ok(rest.len()));
                self.table[index].extra().body = Some(held);
            }
            Err(impossible) => {
                end.cancel_reservation(slot);
                self.report_impossible(pool, impossible);
                self.answer_for_dead(index);
                return false;
            }
        }
        true
    }

    fn enqueue(&mut self, index: ConnectionIndex, pool: u8, slot: u32) {
        let now_ns = self.now_ns;
        let place = usize::from(pool);
        let feeds = self.table[index].extra.as_ref().is_some_and(|extra| extra.body.is_some());
        let generation = self.table[index].generation;
        let connection = &mut self.table[index];
        connection.ticket = Some(Ticket { pool, slot });
        connection.phase = Phase::Reply;
        connection.queued_ns = now_ns;
        connection.is_slow_logged = false;
        connection.reply = Reply::default();
        self.inflight += 1;
        self.pools[place].set_owner(slot, Some((index, generation)));
        if feeds {
            self.feed(index);
            if self.table[index].ticket.is_none() {
                return;
            }
        }
        if self.pools[place].end.enqueue(slot, now_ns).is_err() {
            self.pools[place].end.cancel_reservation(slot);
            self.pools[place].set_owner(slot, None);
            self.table[index].ticket = None;
            self.inflight -= 1;
            self.overloaded(index, "the ready queue is full");
            return;
        }
        self.pools[place].fresh_work.add();
        self.counters.requests.add(1);
        if let Some(access) = self.table[index].extra.as_mut().and_then(|e| e.access.as_mut()) {
            access.phases.queued_ns = now_ns;
        }
        self.set_queued_deadline(index);
    }

    /// Whether this connection's peer may state facts about the client (`--forwarded-allow-ips`;
    /// Unix peers are governed by the socket's mode).
    pub fn is_trusted(&self, index: ConnectionIndex) -> bool {
        match self.table[index].peer {
            None => true,
            Some(peer) => self.settings.forwarded_allow.contains(peer.ip()),
        }
    }
}

impl Head<'_> {
    /// The method as sent.
    pub fn method(&self) -> &[u8] {
        match self {
            Head::Http(head) => head.method,
            Head::Uwsgi(_, head) => head.method,
        }
    }
}

fn protocol(head: &Head<'_>) -> Protocol {
    match head {
        Head::Http(head) if head.version == Version::Http10 => Protocol::Http10,
        Head::Http(_) => Protocol::Http11,
        Head::Uwsgi(..) => Protocol::Uwsgi,
    }
}

/// `CONTENT_LENGTH`: as stated, or as counted for a chunked body that was gathered whole.
fn content_length(
    head: &Head<'_>,
    body: BodyAtHand<'_>,
    extra: Option<&crate::connection::Extra>,
) -> Option<u64> {
    let stated = match head {
        Head::Http(head) => head.framing,
        Head::Uwsgi(_, head) => head.content_length.map_or(BodyFraming::Empty, BodyFraming::Length),
    };
    match (stated, body) {
        (BodyFraming::Length(bytes), _) => Some(bytes),
        (BodyFraming::Empty, _) => None,
        (BodyFraming::Chunked, BodyAtHand::Whole(bytes)) => Some(bytes.len() as u64),
        (BodyFraming::Chunked, BodyAtHand::Held) => extra
            .and_then(|extra| extra.body.as_ref())
            .filter(|b| b.is_complete())
            .map(|b| b.received),
    }
}

const HEAD_TOO_LARGE: Rejection =
    Rejection { status: 431, reason: "the request's variables are larger than a request ring" };
