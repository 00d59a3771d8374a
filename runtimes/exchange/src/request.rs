//! A claimed request in the runtime's hands.
//!
//! Where it stands in the walk of a request: from `Seat::try_claim` to [`Claim::finish`]. The
//! runtime reads the record and the body through it and writes the response through its
//! [`ResponseWriter`].
//!
//! Invariants: while a claim is alive the slot's word is OWNED or ABANDONED by this seat, so the
//! loop does not rewrite the record nor the body bytes that were not consumed: they may be
//! borrowed. Whatever happens to a claim, it ends in DONE: dropping it unfinished is
//! `finish(Broken)`, and if the process dies the loop frees the slot.

use std::sync::Arc;

use crate::claim::{self, Finish, Ticket};
use crate::fork::is_forked;
use crate::geometry::{Geometry, RECORD_HEAD_BYTES};
use crate::large_rings::ResponseRing;
use crate::lines::{BODY_BROKEN, BODY_OPEN, Hold};
use crate::record::{self, MethodId, Protocol, RecordFlags, RecordHead, Variables};
use crate::response::ResponseWriter;
use crate::ring::RingBytes;
use crate::running::Tenure;
use crate::statement::ResponseEnd;
use crate::sync::Ordering;
use crate::worker_end::{Place, RequestWake};

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

/// Which slot of which loop a claim holds, and through which seat.
#[derive(Debug)]
pub(crate) struct Held {
    pub place: Arc<Place>,
    /// Place of the loop in the worker's list.
    pub at: usize,
    pub ticket: Ticket,
}

impl Held {
    #[inline]
    pub fn hold(&self) -> Hold<'_> {
        let view = self.place.view(self.at);
        Hold {
            seat: self.place.line(),
            down: view.down_slot(self.ticket.slot),
            up: view.up_slot(self.ticket.slot),
            epoch: self.ticket.epoch,
            number: self.place.number(),
        }
    }

    #[inline]
    pub fn response_ring(&self, ring: ResponseRing) -> RingBytes {
        self.place.view(self.at).response_ring(self.ticket.slot, ring)
    }

    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.place.view(self.at).layout.geometry
    }

    /// Tells the loop that the slot changed.
    #[inline]
    pub fn tell(&self, may_defer: bool) {
        self.place.tell(self.at, self.ticket.slot, may_defer);
    }

    /// What a wait within the request ended with.
    pub fn wake(&self) -> RequestWake {
        self.place.take_interrupt();
        if self.place.is_stopping_now() {
            RequestWake::Stop
        } else if self.hold().is_abandoned() {
            RequestWake::Cancelled
        } else {
            RequestWake::Ready
        }
    }
}

/// One claimed request. Dropping it unfinished is `finish(Broken)`. One thread at a time; its waits
/// use the seat's word, so the seat must not wait for work meanwhile.
#[derive(Debug)]
pub struct Claim {
    writer: ResponseWriter,
    head: RecordHead,
    /// Request body bytes consumed.
    consumed: u64,
    finished: bool,
}

impl Claim {
    pub(crate) fn new(place: Arc<Place>, at: usize, ticket: Ticket) -> Claim {
        let ring = place.view(at).request_ring(ticket.slot);
        let mut bytes = [0; RECORD_HEAD_BYTES];
        ring.copy_out(0, &mut bytes);
        // The loop writes every record with this build's code; a head it cannot have written would
        // mean that our own mapping is broken. Then the request is answered as broken, not the
        // worker.
        let head = RecordHead::unpack(&bytes, ring.size()).unwrap_or(NO_RECORD);
        let writer = ResponseWriter::new(Held { place, at, ticket }, &head);
        Claim { writer, head, consumed: 0, finished: false }
    }

    #[inline]
    fn held(&self) -> &Held {
        self.writer.held()
    }

    /// What the record begins with.
    #[inline]
    pub fn head(&self) -> RecordHead {
        self.head
    }

    /// The environ variables in the order the loop wrote them.
    #[inline]
    pub fn variables(&self) -> Variables<'_> {
        if is_forked() {
            return Variables::new(&[], 0);
        }
        let held = self.held();
        let ring = held.place.view(held.at).request_ring(held.ticket.slot);
        let bytes = self.head.record_bytes as usize - RECORD_HEAD_BYTES;
        let [(start, length), _] = ring.pieces(RECORD_HEAD_BYTES as u64, bytes);
        // SAFETY: inside the mapping (keeper: `pieces`), which lives as long as the place that
        // `self` holds; the loop does not write the record while this claim owns the slot (keeper:
        // claim word), and the mapping is read-only here.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast_const(), length) };
        Variables::new(bytes, self.head.variables)
    }

    /// Reads body bytes into `into`: what is there, at most its length. Never blocks.
    pub fn read_body(&mut self, into: &mut [u8]) -> BodyRead {
        if is_forked() {
            return BodyRead::Broken;
        }
        if into.is_empty() {
            return BodyRead::Bytes(0);
        }
        let (available, state) = self.held().hold().down.look_at_body(self.consumed);
        if available == 0 {
            return match state {
                BODY_OPEN if self.is_abandoned() => BodyRead::Broken,
                BODY_OPEN => BodyRead::Pending,
                BODY_BROKEN => BodyRead::Broken,
                _ => BodyRead::End,
            };
        }
        let ring = self.body_ring();
        let bytes = into.len().min(available.min(ring.size() as u64) as usize);
        ring.copy_out(self.consumed, &mut into[..bytes]);
        self.consume_body(bytes);
        BodyRead::Bytes(bytes)
    }

    /// The body bytes that are there and lie in one piece; empty when none are. `read_body` with an
    /// empty piece tells which of pending, end and broken it is.
    pub fn body_piece(&self) -> &[u8] {
        if is_forked() {
            return &[];
        }
        let (available, _) = self.held().hold().down.look_at_body(self.consumed);
        let ring = self.body_ring();
        let bytes = available.min(ring.size() as u64) as usize;
        let [(start, length), _] = ring.pieces(self.consumed, bytes);
        // SAFETY: inside the mapping (keeper: `pieces`), which lives as long as the place that
        // `self` holds; these bytes are published and not consumed, so the loop does not write them
        // until `consume_body`, which needs `&mut self` (keeper: position protocol).
        unsafe { std::slice::from_raw_parts(start.cast_const(), length) }
    }

    /// Gives back `bytes` of what `body_piece` showed.
    ///
    /// # Panics
    /// When more are consumed than were published.
    pub fn consume_body(&mut self, bytes: usize) {
        if is_forked() || bytes == 0 {
            return;
        }
        let size = self.body_ring().size();
        let consumed = self.consumed + bytes as u64;
        let hold = self.held().hold();
        let (available, _) = hold.down.look_at_body(self.consumed);
        assert!(bytes as u64 <= available, "more body consumed than there was");
        if hold.down.consume_body(hold.up, size, consumed) {
            self.held().tell(false);
        }
        self.consumed = consumed;
    }

    #[inline]
    fn body_ring(&self) -> RingBytes {
        let held = self.held();
        held.place
            .view(held.at)
            .body_ring(held.ticket.slot, record::body_at(self.head.record_bytes))
    }

    /// Sleeps until body bytes came, the body ended or the loop gave the request up. Called without
    /// the GIL.
    pub fn wait_for_body(&mut self) -> RequestWake {
        if is_forked() {
            return RequestWake::Cancelled;
        }
        let held = self.held();
        held.place.ring_deferred(u64::MAX);
        held.hold().sleep_for_body(self.consumed, || held.place.is_disturbed(), None);
        held.wake()
    }

    /// The response.
    #[inline]
    pub fn writer(&mut self) -> &mut ResponseWriter {
        &mut self.writer
    }

    /// Whether the loop gave the request up (deadline, client gone): nobody will read the response.
    #[inline]
    pub fn is_abandoned(&self) -> bool {
        is_forked() || self.held().hold().is_abandoned()
    }

    /// Whether nobody waits for the response any more, as far as the loop saw: it gave the request
    /// up, or the client will send nothing more. A client that only shut down its sending side is
    /// not told from one that left; the response is sent to it all the same.
    #[inline]
    pub fn has_client_left(&self) -> bool {
        self.is_abandoned() || self.held().hold().has_client_left()
    }

    /// Which use of which slot this is.
    #[inline]
    pub fn tenure(&self) -> Tenure {
        let Held { place, at, ticket } = self.held();
        Tenure { event_loop: place.loop_number(*at), slot: ticket.slot, epoch: ticket.epoch }
    }

    /// Ends the request. `Complete` commits a head without body if that was not done, writes the
    /// last chunk, and becomes `Broken` if fewer bytes were written than Content-Length says or no
    /// head was begun. The bell may wait for the seat's next step.
    #[inline]
    pub fn finish(mut self, end: ResponseEnd) {
        self.conclude(end);
    }

    fn conclude(&mut self, end: ResponseEnd) {
        if std::mem::replace(&mut self.finished, true) || is_forked() {
            return;
        }
        let end = match end {
            ResponseEnd::Complete if self.head == NO_RECORD => ResponseEnd::Broken,
            ResponseEnd::Complete => self.writer.complete(),
            ResponseEnd::Broken => ResponseEnd::Broken,
        };
        let held = self.writer.held();
        let hold = held.hold();
        hold.up.statement.store(self.writer.statement_word() | end.pack(), Ordering::Relaxed);
        match claim::finish(&hold.up.word, hold.epoch, hold.number) {
            Finish::Done | Finish::WasAbandoned => held.tell(true),
            // Another worker scribbled on the word. The loop will see that too; there is no slot of
            // ours to speak of.
            Finish::NotOurs => {}
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.conclude(ResponseEnd::Broken);
        if !is_forked() {
            self.writer.return_scratch();
        }
    }
}

/// Stands in for a record that cannot be read.
const NO_RECORD: RecordHead = RecordHead {
    protocol: Protocol::Http11,
    method: MethodId::Other,
    flags: RecordFlags {
        https: false,
        head_method: false,
        body_gathered: false,
        keep_alive: false,
    },
    content_length: None,
    variables: 0,
    record_bytes: RECORD_HEAD_BYTES as u32,
};
