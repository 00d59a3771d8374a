//! The response writer: frames one response into its ring, for every runtime alike.
//!
//! Where it stands in the walk of a request: between the application's `start_response` and pieces,
//! and the loop, which sends the ring's bytes as they are. What is decided how is in `framing`;
//! here it meets the ring.
//!
//! Invariants:
//! - The head is committed with the first non-empty piece of the body, in one publication with as
//!   much of that piece as fits, and with it the statement of what will follow.
//! - Never a byte beyond Content-Length; a response of fewer is broken. A chunked response keeps
//!   room for its last chunk at any time, so finishing never waits.
//! - HEAD, 1xx, 204 and 304 swallow the body.
//! - A request allocates nothing here: the head is staged in a buffer that the seat keeps.

use crate::clock;
use crate::fork::is_forked;
use crate::framing::{
    self, Body, CHUNK_BYTES_MAX, Circumstances, HeadError, LAST_CHUNK, StagedHead,
};
use crate::grant::{ASKS, Grant};
use crate::large_rings::ResponseRing;
use crate::record::{Protocol, RecordHead};
use crate::request::Held;
use crate::ring;
use crate::statement::{LARGE, ResponseEnd, StatedBody, Statement};
use crate::sync::Ordering;
use crate::worker_end::{RequestWake, Scratch};

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No head was begun.
    NoHead,
    /// More than Content-Length: everything up to it was taken, the rest never leaves.
    PastLength,
    /// The loop gave the request up (client gone, deadline): write no more.
    Abandoned,
    /// In a forked child.
    Forked,
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WriteError::NoHead => "write() before start_response()",
            WriteError::PastLength => "more bytes than Content-Length",
            WriteError::Abandoned => "the request was given up",
            WriteError::Forked => "the request belongs to the parent process",
        })
    }
}

impl std::error::Error for WriteError {}

/// What became of the head.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Not committed: may still be replaced.
    Staged,
    /// Committed.
    Committed { body: StatedBody, swallowed: bool },
}

/// Frames one response into its ring. Lives in the claim.
#[derive(Debug)]
pub struct ResponseWriter {
    held: Held,
    scratch: Option<Box<Scratch>>,
    phase: Phase,
    protocol: Protocol,
    head_method: bool,
    keep_alive: bool,
    /// Length of the body where the runtime knows it.
    stated: Option<u64>,
    /// Body bytes taken, framing not counted.
    body_taken: u64,
    /// Bytes written to the ring and published.
    written: u64,
    /// First word of the statement as published; 0 = none yet.
    statement_word: u64,
    /// The ring it goes through; settled before the head is committed.
    ring: Ring,
}

/// Which ring the response goes through, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ring {
    /// The slot's own, unless the first piece shows that a large one would serve.
    Unasked,
    /// The loop was asked for a large one.
    Asked,
    /// This one, to the end.
    Settled(ResponseRing),
}

impl ResponseWriter {
    pub(crate) fn new(held: Held, head: &RecordHead) -> ResponseWriter {
        let mut scratch = held.place.take_scratch();
        scratch.head.clear();
        ResponseWriter {
            held,
            scratch: Some(scratch),
            phase: Phase::Staged,
            protocol: head.protocol,
            head_method: head.flags.head_method,
            keep_alive: head.flags.keep_alive,
            stated: None,
            body_taken: 0,
            written: 0,
            statement_word: 0,
            ring: Ring::Unasked,
        }
    }

    #[inline]
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    #[inline]
    pub(crate) fn statement_word(&self) -> u64 {
        self.statement_word
    }

    /// Gives the buffers back to the seat.
    pub(crate) fn return_scratch(&mut self) {
        if let Some(scratch) = self.scratch.take() {
            self.held.place.give_scratch(scratch);
        }
    }

    fn staged(&mut self) -> Result<&mut StagedHead, HeadError> {
        if is_forked() {
            return Err(HeadError::Forked);
        }
        match (&mut self.scratch, self.phase) {
            (Some(scratch), Phase::Staged) => Ok(&mut scratch.head),
            _ => Err(HeadError::Committed),
        }
    }

    /// Begins a head with a status such as `200 OK`; forgets an earlier one that was not committed.
    ///
    /// # Errors
    /// See [`HeadError`].
    #[inline]
    pub fn begin_head(&mut self, status: &[u8]) -> Result<(), HeadError> {
        self.staged()?.begin(status)
    }

    /// Adds a field to the head. Content-Length, Date and Server are noted; hop-by-hop fields are
    /// refused.
    ///
    /// # Errors
    /// See [`HeadError`]; the head is as before the call.
    #[inline]
    pub fn header(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        // The head must fit the slot's own ring: another may be denied.
        let ring_bytes = self.held.geometry().response_ring_bytes as usize;
        self.staged()?.field(name, value, ring_bytes)
    }

    /// Whether a head was begun (and not refused).
    #[inline]
    pub fn has_head(&self) -> bool {
        self.is_committed()
            || self.scratch.as_ref().is_some_and(|scratch| scratch.head.has_status())
    }

    /// Whether the head can no longer be replaced.
    #[inline]
    pub fn is_committed(&self) -> bool {
        matches!(self.phase, Phase::Committed { .. })
    }

    /// States the body's length in bytes, where the runtime knows it before the first piece:
    /// becomes Content-Length if the application gave none. Without effect once the head is
    /// committed.
    #[inline]
    pub fn state_length(&mut self, total: u64) {
        if !self.is_committed() {
            self.stated = Some(total);
        }
    }

    /// Bytes of the body that Content-Length still allows; `None` without one, or when the body is
    /// swallowed.
    #[inline]
    pub fn remaining(&self) -> Option<u64> {
        match self.phase {
            Phase::Committed { swallowed: true, .. } => None,
            Phase::Committed { body: StatedBody::Length(length), .. } => {
                Some(length - self.body_taken)
            }
            Phase::Committed { .. } => None,
            Phase::Staged => {
                let scratch = self.scratch.as_ref()?;
                scratch.head.content_length().or(self.stated)
            }
        }
    }

    /// Takes bytes of the body and publishes them; the first non-empty piece commits the head.
    /// Gives how many were taken: fewer than given means that the ring is full, or that a large one
    /// was asked for (`wait_for_room`, then again with the rest). An empty piece does nothing and
    /// gives 0. The loop hears of it by [`flush`](Self::flush), by `wait_for_room` and by the end
    /// of the request.
    ///
    /// # Errors
    /// See [`WriteError`]. `PastLength` comes after everything up to Content-Length was taken.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        if is_forked() {
            return Err(WriteError::Forked);
        }
        if !self.has_head() {
            return Err(WriteError::NoHead);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.held.hold().is_abandoned() {
            return Err(WriteError::Abandoned);
        }
        if !self.settle_ring(bytes.len()) {
            return Ok(0);
        }
        let before = self.written;
        let statement = self.commit();
        let Phase::Committed { body, swallowed } = self.phase else {
            return Err(WriteError::NoHead);
        };
        let taken = if swallowed { Ok(bytes.len()) } else { self.put_body(body, bytes) };
        self.publish(before, statement);
        taken
    }

    /// Decides by the first piece, of `bytes` bytes, which ring the response goes through. False:
    /// the loop was asked for a large one and has not answered.
    #[inline]
    fn settle_ring(&mut self, bytes: usize) -> bool {
        if let Ring::Settled(_) = self.ring {
            return true;
        }
        let most = self.remaining().unwrap_or(0).max(bytes as u64);
        if most < self.held.geometry().asks_from_bytes() {
            self.ring = Ring::Settled(ResponseRing::Own);
            return true;
        }
        self.settle_large_ring()
    }

    #[cold]
    fn settle_large_ring(&mut self) -> bool {
        let rings = self.held.geometry().large_rings;
        if rings == 0 || self.is_without_body() {
            self.ring = Ring::Settled(ResponseRing::Own);
            return true;
        }
        let hold = self.held.hold();
        match hold.down.granted() {
            Grant::Undecided => {
                // Relaxed: the news that `wait_for_room` sets releases it.
                hold.up.statement.store(ASKS, Ordering::Relaxed);
                self.ring = Ring::Asked;
                return false;
            }
            // The loop is trusted; a ring that it cannot have granted would only be not used.
            Grant::Ring(ring) if ring < rings => {
                self.ring = Ring::Settled(ResponseRing::Large(ring));
            }
            Grant::Ring(_) | Grant::Denied => self.ring = Ring::Settled(ResponseRing::Own),
        }
        true
    }

    /// Where the bytes go.
    #[inline]
    fn response_ring(&self) -> ResponseRing {
        match self.ring {
            Ring::Settled(ring) => ring,
            Ring::Unasked | Ring::Asked => ResponseRing::Own,
        }
    }

    /// Bytes of the ring that are free now.
    #[inline]
    fn room(&self) -> usize {
        let size = self.held.geometry().response_bytes(self.response_ring());
        let sent = ring::look(&self.held.hold().down.response_sent);
        // The loop is trusted; a count it cannot have written would only make the ring look full.
        ring::room(size, self.written, sent, 0).unwrap_or(0)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.held.response_ring(self.response_ring()).copy_in(self.written, bytes);
        self.written += bytes.len() as u64;
    }

    /// Writes what fits of a piece, framed.
    #[inline]
    fn put_body(&mut self, body: StatedBody, bytes: &[u8]) -> Result<usize, WriteError> {
        let room = self.room();
        let taken = match body {
            StatedBody::Length(length) => {
                let allowed = (length - self.body_taken).min(bytes.len() as u64) as usize;
                let taken = allowed.min(room);
                self.put(&bytes[..taken]);
                self.body_taken += taken as u64;
                if taken == allowed && allowed < bytes.len() {
                    return Err(WriteError::PastLength);
                }
                return Ok(taken);
            }
            StatedBody::UntilClose => {
                let taken = bytes.len().min(room);
                self.put(&bytes[..taken]);
                taken
            }
            StatedBody::Chunked => {
                let taken =
                    bytes.len().min(room.saturating_sub(CHUNK_BYTES_MAX + LAST_CHUNK.len()));
                if taken > 0 {
                    let mut line = [0; CHUNK_BYTES_MAX];
                    let length = framing::chunk_line(taken, &mut line);
                    self.put(&line[..length]);
                    self.put(&bytes[..taken]);
                    self.put(b"\r\n");
                }
                taken
            }
        };
        self.body_taken += taken as u64;
        Ok(taken)
    }

    /// Completes the head and puts it into the ring, unless that was done. The statement is to be
    /// published with it.
    #[inline]
    fn commit(&mut self) -> Option<Statement> {
        let Phase::Staged = self.phase else { return None };
        let mut scratch = self.scratch.take()?;
        let view = self.held.place.view(self.held.at);
        let closing = view.down_control().rules.value.closing.load(Ordering::Relaxed) != 0
            || self.held.hold().down.close_after.load(Ordering::Relaxed) != 0;
        let circumstances = Circumstances {
            protocol: self.protocol,
            head_method: self.head_method,
            keep_alive: self.keep_alive,
            closing,
        };
        let Scratch { head, date } = &mut *scratch;
        let (statement, body) = head.complete(circumstances, self.stated, date.now());
        self.put(head.bytes());
        self.phase = Phase::Committed { body: statement.body, swallowed: body == Body::Swallowed };
        self.scratch = Some(scratch);
        self.held.hold().up.first_byte_at.store(clock::monotonic_ns(), Ordering::Relaxed);
        Some(statement)
    }

    /// Publishes what was put since `before`, with the statement if the head is in it. Release: the
    /// loop acquires `response_written` and then reads the bytes, the statement and the time.
    #[inline]
    fn publish(&mut self, before: u64, statement: Option<Statement>) {
        let hold = self.held.hold();
        if let Some(statement) = statement {
            let (word, length) = statement.pack();
            let is_large = matches!(self.response_ring(), ResponseRing::Large(_));
            let word = if is_large { word | LARGE } else { word };
            hold.up.statement_length.store(length, Ordering::Relaxed);
            hold.up.statement.store(word, Ordering::Relaxed);
            self.statement_word = word;
        }
        if self.written != before {
            // Relaxed: released by the publication that follows.
            hold.up.payload_written.store(self.body_taken, Ordering::Relaxed);
            ring::publish(&hold.up.response_written, self.written);
        }
    }

    /// Tells the loop of everything written so far, or asked for. The bell is not deferred: the
    /// application may take long until its next piece.
    #[inline]
    pub fn flush(&mut self) {
        if !is_forked() && (self.written > 0 || self.ring == Ring::Asked) {
            self.held.tell(false);
        }
    }

    /// Flushes, then sleeps until at least half of the ring is free, a large one was granted or
    /// denied, or the loop gave the request up. Called without the GIL.
    pub fn wait_for_room(&mut self) -> RequestWake {
        if is_forked() {
            return RequestWake::Cancelled;
        }
        self.flush();
        let place = &self.held.place;
        place.ring_deferred(u64::MAX);
        let hold = self.held.hold();
        if self.ring == Ring::Asked {
            hold.sleep_for_grant(|| place.is_disturbed(), None);
        } else {
            let size = self.held.geometry().response_bytes(self.response_ring());
            hold.sleep_for_room(size, self.written, || place.is_disturbed(), None);
        }
        self.held.wake()
    }

    /// Writes what a whole response still needs and says whether it is whole.
    pub(crate) fn complete(&mut self) -> ResponseEnd {
        if !self.has_head() {
            return ResponseEnd::Broken;
        }
        let before = self.written;
        if !self.is_committed() {
            // No piece came. A body that was promised and is missing must not get a head that
            // promises it still: nothing was sent yet, so the loop can answer with an error of its
            // own.
            let missing = self.remaining().is_some_and(|bytes| bytes > 0);
            if missing && !self.is_without_body() {
                return ResponseEnd::Broken;
            }
            self.stated = self.stated.or(Some(0));
        }
        if !self.is_committed() {
            // Nothing was written, whatever was asked for.
            self.ring = Ring::Settled(ResponseRing::Own);
        }
        let statement = self.commit();
        let Phase::Committed { body, swallowed } = self.phase else { return ResponseEnd::Broken };
        let end = match body {
            _ if swallowed => ResponseEnd::Complete,
            StatedBody::Length(length) if self.body_taken < length => ResponseEnd::Broken,
            StatedBody::Chunked => {
                self.put(LAST_CHUNK);
                ResponseEnd::Complete
            }
            StatedBody::Length(_) | StatedBody::UntilClose => ResponseEnd::Complete,
        };
        self.publish(before, statement);
        end
    }

    /// Whether the staged head is one without body, whatever its Content-Length says.
    fn is_without_body(&self) -> bool {
        self.head_method
            || self.scratch.as_ref().is_some_and(|scratch| scratch.head.is_without_body())
    }
}
