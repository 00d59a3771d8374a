//! Request bodies: gathered in memory, spilled to a file, fed to the exchange.
//!
//! Where it stands in the walk of a request: between the head and the queue; and, for a body larger
//! than its ring or than `--body-spool-size`, beside the running request.
//!
//! Invariants:
//! - A body is received only as far as its memory is accounted for: at the bound of all buffers the
//!   loop stops reading from that client (its idle timeout still runs) and takes up again when
//!   memory was given back.
//! - One spool operation of a connection is in flight, and none is received meanwhile: the file's
//!   order is the wire's order.
//! - A streamed body is received one window at a time: the ring's reader holds back the client.

use ringhorn_exchange::BodyEnd;

use super::dispatch::BodyAtHand;
use super::receive::BODY_TIMEOUT;
use super::state::State;
use crate::connection::body::{Body, SpoolFile};
use crate::connection::{Extra, Intent, Phase, Sending};
use crate::driver::ConnectionIndex;
use crate::http::Rejection;
use crate::protocol::{Parsed, http1, uwsgi};
use crate::sys::errno;

/// Bytes of a streamed body kept ahead of its reader. Chosen by taste: two rings' worth.
const STREAM_WINDOW_BYTES: usize = 256 * 1024;

/// Bytes read back from a spool file at once: a ring's worth.
const SPOOL_PIECE_BYTES: usize = 128 * 1024;

impl State {
    /// Body bytes arrived in a provided buffer (copied), in the middle of a body.
    pub fn on_body_bytes(&mut self, index: ConnectionIndex, bytes: &[u8]) {
        let taken = self.take_body(index, bytes);
        let keeps = matches!(self.table[index].phase, Phase::Body | Phase::Reply | Phase::Head);
        if taken < bytes.len() && keeps {
            self.table[index].extra().stash.extend_from_slice(&bytes[taken..]);
        }
        self.watch(index);
    }

    /// Body bytes arrived straight in the body's memory: `bytes` of them, already counted there.
    pub fn on_body_received(&mut self, index: ConnectionIndex, bytes: usize) {
        if self.is_receiving_body(index) {
            self.continue_body(index);
            self.watch(index);
        } else if self.table[index].phase == Phase::Drain {
            self.drop_body(index);
            self.on_drained(index, bytes);
        } else {
            self.step_close(index);
        }
    }

    /// Takes the body's part of `wire`; returns its length.
    pub fn take_body(&mut self, index: ConnectionIndex, wire: &[u8]) -> usize {
        let bytes_max = self.settings.body_bytes_max;
        let Some(body) = self.body(index) else { return wire.len() };
        match body.take(wire, bytes_max) {
            Ok(taken) => {
                self.continue_body(index);
                taken
            }
            Err(rejection) => {
                self.on_body_malformed(index, rejection);
                wire.len()
            }
        }
    }

    /// Decides what a body waits for next.
    pub fn continue_body(&mut self, index: ConnectionIndex) {
        let spool_bytes = self.settings.body_spool_bytes;
        let buffer_bytes = self.settings.body_buffer_bytes as usize;
        let Some(body) = self.body(index) else { return };
        if body.is_unwanted {
            self.drop_body(index);
            return;
        }
        if body.is_streaming {
            self.feed(index);
            return;
        }
        let is_streamed = body.received + body.remaining().unwrap_or(0) > spool_bytes;
        if body.is_complete() || is_streamed {
            self.dispatch_gathered(index);
        } else if body.memory.len() >= buffer_bytes {
            self.spill(index);
        } else {
            self.receive_body(index);
        }
    }

    /// Asks for more of the body, if its memory is accounted for.
    fn receive_body(&mut self, index: ConnectionIndex) {
        let connection = &self.table[index];
        if connection.receiving || connection.spooling || connection.peer_finished {
            return;
        }
        let (now_ns, sending) = (self.now_ns, connection.sending);
        let window = self.body_window(index);
        let Some(body) = self.body(index).filter(|body| !body.is_complete()) else { return };
        // A client that is held back for memory again and again gets no new time by that.
        if !body.is_stalled {
            (body.asked_ns, body.is_late) = (now_ns, false);
            // A reply's send in flight has the deadline meanwhile.
            if !matches!(sending, Sending::Ring | Sending::Buffer) {
                self.set_body_deadline(index);
            }
        }
        let Some(body) = self.body(index) else { return };
        let straight = body.remaining().map(|left| left.min(window as u64) as usize);
        // A provided buffer is as good for a short rest, and the only way for chunks.
        let intent = match straight {
            Some(bytes) if bytes > 4096 => Intent::ReceiveBody,
            _ => Intent::Receive { idle: false },
        };
        let wanted = body.memory.len() as u64 + straight.unwrap_or(0) as u64 + PROVIDED_BYTES;
        let is_held = self.hold_memory(index, wanted);
        let Some(body) = self.body(index) else { return };
        let was_stalled = std::mem::replace(&mut body.is_stalled, !is_held);
        if !is_held {
            // The idle timeout runs on: a client is held back, not kept for ever.
            if !was_stalled {
                self.stalled.push_back(index);
            }
            return;
        }
        if was_stalled {
            body.asked_ns = now_ns;
        }
        self.intend(index, intent);
    }

    /// How many bytes of the body may be received straight into memory now.
    pub fn body_window(&self, index: ConnectionIndex) -> usize {
        let bound = self.settings.body_buffer_bytes as usize;
        let Some(body) = self.table[index].extra.as_ref().and_then(|extra| extra.body.as_ref())
        else {
            return 0;
        };
        let window = if body.is_streaming { STREAM_WINDOW_BYTES } else { bound };
        window.saturating_sub(body.memory.len())
    }

    /// Moves the gathered bytes from memory to the spool file.
    fn spill(&mut self, index: ConnectionIndex) {
        let dir = self.settings.spool_dir.clone();
        let Some(body) = self.body(index) else { return };
        let (left, written) = (body.memory.len() as u64, body.received);
        if body.spool.is_none() {
            match crate::sys::spool::unlinked_file(&dir) {
                Ok(file) => body.spool = Some(SpoolFile { file, written: 0, read: 0 }),
                Err(error) => {
                    self.incident(format!(
                        "cannot make a spool file in {}: {error}",
                        dir.display()
                    ));
                    self.refuse(index, spool_failure(error.raw_os_error().unwrap_or(0)));
                    return;
                }
            }
        }
        if !self.hold_disk(index, written.max(left)) {
            self.overloaded(index, "request bodies fill --spool-disk-max");
            return;
        }
        self.intend(index, Intent::SpoolWrite);
    }

    /// A spool write or read of this connection ended.
    pub fn on_spooled(&mut self, index: ConnectionIndex, result: i32) {
        if !self.is_receiving_body(index) {
            self.step_close(index);
            return;
        }
        if self.body(index).is_some_and(|body| body.is_unwanted) {
            self.drop_body(index);
            return;
        }
        if result <= 0 {
            let dir = self.settings.spool_dir.display();
            let error = std::io::Error::from_raw_os_error(-result);
            self.incident(format!("cannot use a spool file in {dir}: {error}"));
            self.on_body_malformed(index, spool_failure(-result));
            return;
        }
        let bytes = result as usize;
        let Some(body) = self.body(index) else { return };
        let Some(spool) = &mut body.spool else { return };
        if body.is_streaming {
            spool.read += bytes as u64;
            body.spool_piece.truncate(bytes);
            body.spool_consumed = 0;
            self.feed(index);
        } else {
            spool.written += bytes as u64;
            body.memory.drain(..bytes);
            self.continue_body(index);
        }
    }

    /// The whole body is at hand, or it is too large to gather: the request goes to the exchange.
    fn dispatch_gathered(&mut self, index: ConnectionIndex) {
        let head = std::mem::take(&mut self.table[index].extra().head);
        if let Some(body) = self.body(index) {
            body.is_streaming = true;
        }
        if self.is_uwsgi(index) {
            let Parsed::Head(packet) = uwsgi::parse_packet(&head) else { return };
            let Ok(request) = uwsgi::request_head(&packet) else { return };
            self.dispatch(
                index,
                &super::dispatch::Head::Uwsgi(&packet, &request),
                BodyAtHand::Held,
            );
        } else {
            let limits = self.head_limits_again();
            let mut fields = http1::FieldTable::new();
            let mut scan = http1::HeadScan::default();
            let parsed = http1::parse_head(&head, &mut scan, &limits, &mut fields);
            let Parsed::Head(request) = parsed else { return };
            self.dispatch(index, &super::dispatch::Head::Http(&request), BodyAtHand::Held);
        }
    }

    /// Moves body bytes into the request's ring, as far as there is room; asks for what is missing.
    pub fn feed(&mut self, index: ConnectionIndex) {
        let Some((pool, connection, slot)) = self.ticket(index) else { return };
        let spooling = connection.spooling;
        let body = connection.extra.as_mut().and_then(|extra| extra.body.as_mut());
        let Some(body) = body.filter(|body| !body.is_unwanted) else { return };
        loop {
            let front = body.front();
            if front.is_empty() {
                break;
            }
            match pool.end.write_body(slot, front) {
                Ok(0) => return,
                Ok(bytes) => body.advance(bytes),
                Err(impossible) => return self.on_impossible(index, impossible),
            }
        }
        if body.spool_left() > 0 {
            if !spooling {
                self.intend(index, Intent::SpoolRead);
            }
        } else if body.is_complete() {
            pool.end.finish_body(slot, BodyEnd::Complete);
            self.drop_body(index);
        } else {
            self.receive_body(index);
        }
    }

    /// How many bytes to read back from the spool file at once.
    pub fn spool_piece_bytes(left: u64) -> usize {
        left.min(SPOOL_PIECE_BYTES as u64) as usize
    }

    /// The body ended before its end.
    pub fn on_body_cut_short(&mut self, index: ConnectionIndex) {
        self.counters.malformed.add(1);
        self.refuse(index, BODY_CUT_SHORT);
    }

    /// The body cannot be had whole: refused before the application ran, or raised in `wsgi.input`.
    pub fn on_body_malformed(&mut self, index: ConnectionIndex, why: Rejection) {
        self.counters.malformed.add(1);
        if self.table[index].phase == Phase::Body {
            self.refuse(index, why);
        } else {
            self.break_body(index);
        }
    }

    /// Tells the running application that the rest of its body will not come.
    pub fn break_body(&mut self, index: ConnectionIndex) {
        if let Some((pool, connection, slot)) = self.ticket(index) {
            connection.keep_alive = false;
            connection.linger = true;
            pool.end.finish_body(slot, BodyEnd::Broken);
        }
        self.drop_body(index);
    }

    /// No byte of the body came for `--body-timeout`.
    pub fn on_body_timeout(&mut self, index: ConnectionIndex) {
        if self.table[index].receiving {
            // What a long receive brought so far is its result; nothing at all is the timeout.
            self.intend(index, Intent::Cancel);
            if let Some(body) = self.body(index) {
                body.is_late = true;
            }
        } else {
            self.on_body_malformed(index, BODY_TIMEOUT);
        }
    }

    /// Lets the body's memory go; what is left of the request needs none.
    pub fn drop_body(&mut self, index: ConnectionIndex) {
        let connection = &mut self.table[index];
        let is_lent = connection.receiving_body || connection.spooling;
        let Some(extra) = &mut connection.extra else { return };
        extra.head = Vec::new();
        if is_lent {
            // The kernel has its memory: it goes with the operation's completion.
            if let Some(body) = &mut extra.body {
                body.is_unwanted = true;
            }
            return;
        }
        extra.body = None;
        self.give_back(index);
    }

    /// Accounts for `bytes` of buffer memory held by the connection in all.
    pub fn hold_memory(&mut self, index: ConnectionIndex, bytes: u64) -> bool {
        let held = self.table[index].extra().memory_held;
        let more = bytes.saturating_sub(held);
        let fits = self.memory.try_take(more);
        if fits {
            self.table[index].extra().memory_held += more;
        }
        fits
    }

    /// Accounts for `bytes` of spool file held by the connection in all.
    pub fn hold_disk(&mut self, index: ConnectionIndex, bytes: u64) -> bool {
        let held = self.table[index].extra().disk_held;
        let more = bytes.saturating_sub(held);
        let fits = self.disk.try_take(more);
        if fits {
            self.table[index].extra().disk_held += more;
        }
        fits
    }

    /// Gives back what the connection held of both bounds, and takes up clients that waited for it.
    pub fn give_back(&mut self, index: ConnectionIndex) {
        let Some(extra) = &mut self.table[index].extra else { return };
        let Extra { memory_held, disk_held, .. } = &mut **extra;
        let (memory, disk) = (std::mem::take(memory_held), std::mem::take(disk_held));
        self.memory.give(memory);
        self.disk.give(disk);
    }

    /// Takes up clients that were held back for want of memory.
    pub fn take_up_stalled(&mut self) {
        for _ in 0..self.stalled.len() {
            let Some(index) = self.stalled.pop_front() else { return };
            if !self.is_receiving_body(index) {
                continue;
            }
            self.receive_body(index);
            if self.body(index).is_some_and(|body| body.is_stalled) {
                self.stalled.push_back(index);
            }
        }
    }

    fn is_receiving_body(&self, index: ConnectionIndex) -> bool {
        matches!(self.table[index].phase, Phase::Body | Phase::Reply)
            && self.table[index].extra.as_ref().is_some_and(|extra| extra.body.is_some())
    }

    /// Whether the body lies here only for the kernel's sake.
    pub fn is_body_unwanted(&self, index: ConnectionIndex) -> bool {
        let body = self.table[index].extra.as_ref().and_then(|extra| extra.body.as_ref());
        body.is_some_and(|body| body.is_unwanted)
    }

    /// The connection's body, while any of it lies here.
    pub fn body(&mut self, index: ConnectionIndex) -> Option<&mut Body> {
        self.table[index].extra.as_mut()?.body.as_mut()
    }
}

/// A provided buffer's size: what a receive may add beyond the accounted memory.
const PROVIDED_BYTES: u64 = 16 * 1024;

const BODY_CUT_SHORT: Rejection =
    Rejection { status: 400, reason: "the connection ended inside a request body" };
/// What a client is told for an error of its spool file. What others will give back is worth
/// another try.
fn spool_failure(errno: i32) -> Rejection {
    match errno {
        errno::ENOSPC | errno::EDQUOT | errno::EMFILE | errno::ENFILE => {
            Rejection { status: 503, reason: "no room for a request body in --spool-dir" }
        }
        _ => Rejection { status: 500, reason: "the request body could not be spooled" },
    }
}
