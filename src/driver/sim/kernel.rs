//! How a simulated turn goes: operations executed, bytes moved, completions returned, time passed.
//!
//! Stands where the kernel stands under `uring/`. It follows what was seen of Linux there: a
//! cancelled send reports what went out; a failed send before a close still closes; a full table
//! (`ENFILE`) drops the client; a close over unread bytes resets the connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::world::{ArmedRecv, ArmedSend, Operation, World};
use super::{Sim, SimDriver};
use crate::driver::{After, BufferId, Completion, Kind, Piece, Token};

/// Turns in a row that may return nothing although something is ready.
const LATE_MAX: u32 = 3;

/// How many rounds a shutdown takes.
const SHUTDOWN_ROUNDS: u64 = 3;

impl SimDriver {
    pub(super) fn run_turn(
        &mut self,
        wait: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        if let Some(errno) = world.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        world.counters.turns += 1;
        world.counters.enters += 1;
        world.forget_peers();
        for operation in std::mem::take(&mut world.queue) {
            world.counters.submitted += 1;
            world.execute(operation, &mut self.buffers);
        }
        world.progress(&mut self.buffers)?;
        if world.done.is_empty() && wait != Some(Duration::ZERO) {
            world.counters.sleeps += 1;
            // What is on its way arrives before any time passes.
            world.progress(&mut self.buffers)?;
            if world.done.is_empty() {
                drop(world);
                self.sleep(wait);
                world = self.world.borrow_mut();
                world.progress(&mut self.buffers)?;
            }
        }
        let chance = world.config.late_turns;
        if !world.done.is_empty() && world.late_in_a_row < LATE_MAX && world.happens(chance) {
            world.late_in_a_row += 1;
            world.is_quiet = false;
            world.counters.overflows += 1;
            return Ok(());
        }
        world.late_in_a_row = 0;
        world.is_quiet =
            world.done.is_empty() && world.schedule.is_empty() && world.shutdowns.is_empty();
        world.deliver(out);
        Ok(())
    }

    /// Nothing came: lets time pass until the next scheduled action or the end of the wait.
    fn sleep(&mut self, wait: Option<Duration>) {
        let mut world = self.world.borrow_mut();
        let wait = [wait, world.nap_max].into_iter().flatten().min();
        let end_ns = wait.map(|wait| world.now_ns.saturating_add(wait.as_nanos() as u64));
        let next = world.schedule.iter().enumerate().min_by_key(|(_, (due_ns, _))| *due_ns);
        let next = next.map(|(index, (due_ns, _))| (index, *due_ns));
        match (next, end_ns) {
            (Some((index, due_ns)), end_ns) if end_ns.is_none_or(|end_ns| due_ns <= end_ns) => {
                let (_, action) = world.schedule.remove(index);
                let now_ns = due_ns.max(world.now_ns);
                world.set_clock(now_ns);
                drop(world);
                action(&Sim::new(std::rc::Rc::clone(&self.world)));
            }
            (_, Some(end_ns)) => {
                world.counters.timeouts += 1;
                world.set_clock(end_ns);
            }
            (_, None) => {}
        }
    }
}

impl World {
    pub(super) fn set_clock(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if let Some(hook) = &mut self.clock_hook {
            hook(now_ns);
        }
    }

    fn execute(&mut self, operation: Operation, buffers: &mut [Vec<u8>]) {
        match operation {
            Operation::Accept { listener, token } => {
                self.slots[token.connection as usize].accept = Some((listener, token));
                self.listeners[listener].armed.push_back(token);
            }
            Operation::Recv { token, into, wait_all, tries_first } => {
                let armed = ArmedRecv { token, into, wait_all, taken: 0 };
                let index = token.connection as usize;
                self.slots[index].recv = Some(armed);
                // It has what is there before an operation behind it, a cancel say, is looked at.
                if tries_first {
                    self.progress_recv(index, buffers);
                }
            }
            Operation::Send { token, pieces, after, checksum } => {
                let armed = ArmedSend { token, pieces, after, checksum, sent: 0 };
                self.slots[token.connection as usize].send = Some(armed);
            }
            Operation::Close { token } => {
                self.close_server_end(token);
                self.complete(token, Kind::Closed, 0);
            }
            Operation::Shutdown { token } => {
                self.shutdowns.push((self.round, token));
            }
            Operation::Cancel { token } => self.cancel(token),
            Operation::CancelAccept { token } => self.cancel_accept(token),
            Operation::File { token, file, piece, offset, is_write } => {
                let result = match self.file_faults.pop_front() {
                    Some(errno) => -errno,
                    // SAFETY: the loop keeps the piece valid, and for a read untouched, until the
                    // completion, which is not returned yet.
                    None => unsafe { run_file_operation(file, piece, offset, is_write) },
                };
                self.complete(token, Kind::FileDone, result);
            }
        }
    }

    /// Moves everything that can move by one step.
    fn progress(&mut self, buffers: &mut [Vec<u8>]) -> io::Result<()> {
        self.round += 1;
        let rung = match &self.bell {
            Some(bell) => bell.take()?,
            None => 0,
        };
        if std::mem::take(&mut self.rings) > 0 || rung > 0 {
            self.complete(Token { connection: 0, generation: 0 }, Kind::Bell, 1);
        }
        self.progress_shutdowns();
        self.progress_accepts();
        for index in 0..self.slots.len() {
            self.progress_recv(index, buffers);
            self.progress_send(index);
        }
        Ok(())
    }

    /// The kernel runs a shutdown on a thread of its own: it takes a while, and finds whoever has
    /// the descriptor by then.
    fn progress_shutdowns(&mut self) {
        for (since, token) in std::mem::take(&mut self.shutdowns) {
            if self.round < since + SHUTDOWN_ROUNDS {
                self.shutdowns.push((since, token));
                continue;
            }
            if let Some(client) = self.slots[token.connection as usize].client {
                self.clients[client].server_has_shut = true;
            }
            self.complete(token, Kind::ShutDown, 0);
        }
    }

    fn progress_accepts(&mut self) {
        for listener in 0..self.listeners.len() {
            while let Some(token) = self.listeners[listener].armed.front().copied() {
                let slot = token.connection as usize;
                if let Some(errno) = self.accept_faults.front().copied() {
                    // A full table is found only when there is a client; it is dropped.
                    let dropped = if errno == libc::ENFILE {
                        let Some(client) = self.listeners[listener].backlog.pop_front() else {
                            break;
                        };
                        Some(client)
                    } else {
                        None
                    };
                    if let Some(client) = dropped {
                        self.clients[client].server_has_closed = true;
                    }
                    self.accept_faults.pop_front();
                    self.listeners[listener].armed.pop_front();
                    self.slots[slot].accept = None;
                    self.complete(token, Kind::Accepted, -errno);
                    self.complete(token, Kind::Received, -libc::ECANCELED);
                    continue;
                }
                let Some(client) = self.listeners[listener].backlog.pop_front() else { break };
                self.listeners[listener].armed.pop_front();
                self.slots[slot].accept = None;
                self.slots[slot].client = Some(client);
                self.clients[client].slot = Some(token.connection);
                self.complete(token, Kind::Accepted, 0);
                let linked = ArmedRecv { token, into: None, wait_all: false, taken: 0 };
                self.slots[slot].recv = Some(linked);
            }
        }
    }

    fn progress_recv(&mut self, index: usize, buffers: &mut [Vec<u8>]) {
        let Some(mut armed) = self.slots[index].recv else { return };
        let Some(client) = self.slots[index].client else { return };
        if self.clients[client].is_reset {
            self.slots[index].recv = None;
            return self.complete(armed.token, Kind::Received, -libc::ECONNRESET);
        }
        let visible = self.visible(client);
        if visible == 0 {
            if self.clients[client].segments.is_empty() && self.clients[client].is_shut {
                self.slots[index].recv = None;
                // With `wait_all` the bytes before the end are reported first.
                self.complete(armed.token, Kind::Received, armed.taken as i32);
            }
            return;
        }
        if let Some(errno) = self.receive_faults.pop_front() {
            self.slots[index].recv = None;
            return self.complete(armed.token, Kind::Received, -errno);
        }
        let chance = self.config.short_receives;
        let wanted = if self.happens(chance) {
            1 + (self.random() % visible as u64) as usize
        } else {
            visible
        };
        let Some(piece) = armed.into else {
            return self.recv_provided(index, armed.token, client, wanted, buffers);
        };
        let count = wanted.min(piece.length - armed.taken);
        let bytes = self.take_bytes(client, count);
        // SAFETY: the loop keeps the piece valid and unread until the completion; `taken + count`
        // is at most its length.
        unsafe {
            let to = piece.pointer.cast_mut().add(armed.taken);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
        }
        armed.taken += count;
        if armed.wait_all && armed.taken < piece.length {
            self.slots[index].recv = Some(armed);
            return;
        }
        self.slots[index].recv = None;
        let more = self.visible(client) > 0;
        let (token, result) = (armed.token, armed.taken as i32);
        self.done.push_back(Completion { token, kind: Kind::Received, result, buffer: None, more });
    }

    fn recv_provided(
        &mut self,
        index: usize,
        token: Token,
        client: usize,
        wanted: usize,
        buffers: &mut [Vec<u8>],
    ) {
        self.slots[index].recv = None;
        let chance = self.config.dry_buffers;
        let buffer = if self.happens(chance) { None } else { self.take_buffer() };
        let Some(id) = buffer else {
            return self.complete(token, Kind::Received, -libc::ENOBUFS);
        };
        let bytes = self.take_bytes(client, wanted.min(self.config.buffer_bytes));
        buffers[usize::from(id)][..bytes.len()].copy_from_slice(&bytes);
        let more = self.visible(client) > 0;
        let (result, buffer) = (bytes.len() as i32, Some(BufferId(id)));
        self.done.push_back(Completion { token, kind: Kind::Received, result, buffer, more });
    }

    fn progress_send(&mut self, index: usize) {
        let Some(mut armed) = self.slots[index].send else { return };
        let Some(client) = self.slots[index].client else { return };
        let total = armed.pieces[0].length + armed.pieces[1].length;
        if self.clients[client].is_reset || self.clients[client].is_closed {
            let errno = if self.clients[client].is_reset { libc::ECONNRESET } else { libc::EPIPE };
            return self.end_send(index, armed, -errno);
        }
        let peer = &mut self.clients[client];
        let mut count = (total - armed.sent).min(peer.window);
        let breaks = match &mut peer.breaks_after {
            Some((left, errno)) if *left <= count => {
                count = *left;
                Some(*errno)
            }
            Some((left, _)) => {
                *left -= count;
                None
            }
            None => None,
        };
        // SAFETY: the loop keeps the pieces valid until the completion, which is not returned yet.
        let bytes = unsafe { copy_of(armed.pieces, armed.sent, count) };
        peer.received.extend(bytes);
        peer.window -= count;
        armed.sent += count;
        self.slots[index].send = Some(armed);
        if let Some(errno) = breaks {
            self.clients[client].is_reset = true;
            self.end_send(index, armed, -errno);
        } else if armed.sent == total {
            self.end_send(index, armed, 0);
        }
    }

    /// Ends a send: whole, or short with what went out, or with the error when nothing did.
    fn end_send(&mut self, index: usize, armed: ArmedSend, error: i32) {
        self.slots[index].send = None;
        let result = if armed.sent > 0 || error == 0 { armed.sent as i32 } else { error };
        let kind = match armed.after {
            After::Keep => Kind::Sent,
            After::Close => {
                self.close_server_end(armed.token);
                Kind::Closed
            }
        };
        self.guarded.push((armed.token, armed.pieces, armed.checksum));
        self.complete(armed.token, kind, result);
    }

    fn cancel(&mut self, token: Token) {
        let index = token.connection as usize;
        let chance = self.config.lost_cancels;
        let mut cancelled = 0;
        let comes_first = self.config.is_shuffled && self.random() & 1 == 0;
        let place = self.done.len();
        if let Some(armed) = self.slots[index].recv {
            let client = self.slots[index].client;
            let could_complete = client.is_some_and(|client| self.visible(client) > 0);
            if !(could_complete && self.happens(chance)) {
                self.slots[index].recv = None;
                cancelled += 1;
                let result = if armed.taken > 0 { armed.taken as i32 } else { -libc::ECANCELED };
                self.complete(armed.token, Kind::Received, result);
            }
        }
        if let Some(armed) = self.slots[index].send {
            cancelled += 1;
            self.end_send(index, armed, -libc::ECANCELED);
        }
        let kind = Kind::Cancelled;
        let own = Completion { token, kind, result: cancelled, buffer: None, more: false };
        if comes_first {
            self.done.insert(place, own);
        } else {
            self.done.push_back(own);
        }
    }

    fn cancel_accept(&mut self, token: Token) {
        let index = token.connection as usize;
        match self.slots[index].accept.take_if(|(_, armed)| *armed == token) {
            Some((listener, _)) => {
                self.listeners[listener].armed.retain(|armed| *armed != token);
                self.complete(token, Kind::Accepted, -libc::ECANCELED);
                self.complete(token, Kind::Received, -libc::ECANCELED);
                self.complete(token, Kind::Cancelled, 0);
            }
            None => self.complete(token, Kind::Cancelled, -libc::ENOENT),
        }
    }

    fn close_server_end(&mut self, token: Token) {
        let index = token.connection as usize;
        if let Some(client) = self.slots[index].client.take() {
            let peer = &mut self.clients[client];
            peer.was_reset_by_server |= !peer.segments.is_empty() && !peer.is_closed;
            peer.server_has_closed = true;
            peer.slot = None;
        }
    }

    /// Returns what is ready, in the order the configuration asks for.
    fn deliver(&mut self, out: &mut Vec<Completion>) {
        for _ in 0..self.config.batch.min(self.done.len()) {
            let mut place = 0;
            if self.config.is_shuffled {
                let any = (self.random() % self.done.len() as u64) as usize;
                let connection = self.done[any].token.connection;
                let first = self.done.iter().position(|c| c.token.connection == connection);
                place = first.unwrap_or(0);
            }
            let Some(completion) = self.done.remove(place) else { break };
            if matches!(completion.kind, Kind::Sent | Kind::Closed) {
                self.check_guarded(completion.token);
            }
            let completion = self.hand_over(completion);
            out.push(completion);
        }
    }

    fn check_guarded(&mut self, token: Token) {
        let Some(place) = self.guarded.iter().position(|(whose, _, _)| *whose == token) else {
            return;
        };
        let (_, pieces, before) = self.guarded.swap_remove(place);
        // SAFETY: the loop keeps the pieces valid until the completion was returned; it is about to
        // be.
        if unsafe { checksum(pieces) } != before {
            self.violation(format!("memory of a send on {token:?} changed before its completion"));
        }
    }

    /// Bytes of the client that a receive could take now.
    fn visible(&self, client: usize) -> usize {
        let client = &self.clients[client];
        match client.segments.front() {
            Some(segment) if self.round >= client.next_segment_round => segment.len(),
            _ => 0,
        }
    }

    fn take_bytes(&mut self, client: usize, count: usize) -> Vec<u8> {
        let round = self.round;
        let client = &mut self.clients[client];
        let Some(segment) = client.segments.front_mut() else { return Vec::new() };
        let bytes = segment.drain(..count).collect();
        if segment.is_empty() {
            client.segments.pop_front();
            client.next_segment_round = round + 1;
        }
        bytes
    }
}

/// A hash of the pieces' bytes (FNV-1a), to notice that they changed.
///
/// # Safety
/// The pieces are valid.
pub(super) unsafe fn checksum(pieces: [Piece; 2]) -> u64 {
    let total = pieces[0].length + pieces[1].length;
    // SAFETY: passed on from the caller.
    let bytes = unsafe { copy_of(pieces, 0, total) };
    let start = 0xcbf2_9ce4_8422_2325u64;
    bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// `count` bytes of the pieces from `from` on.
///
/// # Safety
/// The pieces are valid while the iterator lives.
unsafe fn copy_of(pieces: [Piece; 2], from: usize, count: usize) -> impl Iterator<Item = u8> {
    let [head, body] = pieces.map(|piece| {
        if piece.length == 0 {
            // It may have any pointer, also none.
            return &[][..];
        }
        // SAFETY: valid by the caller's word.
        unsafe { std::slice::from_raw_parts(piece.pointer, piece.length) }
    });
    head.iter().chain(body).skip(from).take(count).copied()
}

/// Carries a file operation out; bytes or a negative errno.
///
/// # Safety
/// The piece is valid, and for a read nobody else looks at it.
unsafe fn run_file_operation(
    file: io::Result<std::os::fd::OwnedFd>,
    piece: Piece,
    offset: u64,
    is_write: bool,
) -> i32 {
    let result = file.map(File::from).and_then(|file| {
        if is_write {
            // SAFETY: passed on from the caller.
            let from = unsafe { std::slice::from_raw_parts(piece.pointer, piece.length) };
            file.write_at(from, offset)
        } else {
            // SAFETY: passed on from the caller.
            let into =
                unsafe { std::slice::from_raw_parts_mut(piece.pointer.cast_mut(), piece.length) };
            file.read_at(into, offset)
        }
    });
    match result {
        Ok(bytes) => bytes as i32,
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}
