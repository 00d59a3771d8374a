//! The kernel ring as a driver: every socket operation of a loop goes through one io_uring.
//!
//! Stands first and last in the walk of a request. `ring.rs` is the ring itself, `books.rs` what is
//! known of each connection, `buffers.rs` the provided receive buffers, `multishot.rs` receives
//! that stay armed, `entries.rs` entries of more than one line; this file turns the trait's
//! operations into entries of the ring. The only room that uses the `io-uring` crate. Facts and
//! figures: `docs/io_uring.md`.
//!
//! Shape of the walk for one uwsgi request: accept → recv (linked, one entry each), send →
//! close (hard-linked, the send silent on success): four entries, three completions.
//!
//! Invariants:
//! - Made disabled by any thread, enabled and used by one ([`PreparedUring::enable`]).
//! - At drop the ring is made quiet before any memory it was given is freed. Memory of the loop
//!   (pieces) must live until then.

mod books;
mod buffers;
mod entries;
mod error;
mod mapping;
mod multishot;
mod pinned;
mod ring;
mod self_test;
mod user_data;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};

use self::books::{Books, FollowUp};
use self::buffers::ProvidedBuffers;
use self::entries::{LINGER_NOT, Tagged, cancel_all, cancel_multi, length_of, multi_recv};
pub use self::error::{StartError, Step};
use self::multishot::{IntoPiece, Multishot, Receive};
use self::pinned::{PeerAddress, SendHeader};
use self::ring::{ACCEPT_POLL_FIRST, Chain, Entered, Ring, with_ioprio};
pub use self::self_test::self_test;
use self::user_data::{Operation, Tag};
use super::{After, BufferId, Completion, ConnectionIndex, Counters, Driver, Piece, Token};

/// Sizes of one ring. All are fixed for its life.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Connections (and armed accepts) at once: the size of the table of direct descriptors.
    pub connections: u32,
    /// Entries of the submission queue; a turn that asks for more enters more than once.
    pub submissions: u32,
    /// Entries of the completion queue; when more complete at once it overflows, which is slow.
    pub completions: u32,
    /// Receive buffers.
    pub buffers: u16,
    /// Size of one, in bytes.
    pub buffer_bytes: u32,
    /// Completions a turn returns at most.
    pub batch: usize,
    /// Register the ring's descriptor with its thread, which saves each enter a look-up.
    pub register_own_descriptor: bool,
}

impl UringConfig {
    /// What serves `connections`: two completions can be under way for each of them.
    pub fn for_connections(connections: u32) -> UringConfig {
        UringConfig {
            connections,
            submissions: 512,
            completions: connections.saturating_mul(2).clamp(4096, 65536),
            buffers: 64,
            buffer_bytes: 16 << 10,
            batch: 512,
            register_own_descriptor: true,
        }
    }
}

/// Listeners a driver can hold, removed ones included. They have slots behind the connections' own.
pub const LISTENERS_MAX: u32 = 64;

/// A ring that exists but belongs to no thread yet. Send it to the thread of its loop.
///
/// The kernel checks permission at creation only, so the main thread can make the rings before it
/// gives up privileges.
pub struct PreparedUring {
    ring: Ring,
    config: UringConfig,
}

impl PreparedUring {
    /// Makes the calling thread the owner and registers what the data plane uses.
    ///
    /// # Errors
    /// The kernel lacks an operation, the table of connections exceeds RLIMIT_NOFILE, memory is
    /// short.
    pub fn enable(self) -> Result<UringDriver, StartError> {
        let PreparedUring { mut ring, config } = self;
        ring.enable()?;
        ring.submitter()
            .register_files_sparse(config.connections + LISTENERS_MAX)
            .map_err(|error| StartError::new(Step::DescriptorTable, error))?;
        let accept_flags = match ring.knows_accept_poll_first() {
            Ok(true) => ACCEPT_POLL_FIRST,
            Ok(false) => 0,
            Err(error) => return Err(StartError::new(Step::Enable, error)),
        };
        let buffers = ProvidedBuffers::create(config.buffers, config.buffer_bytes)
            .map_err(|error| StartError::new(Step::Buffers, error))?;
        let (address, entries) = buffers.registration();
        // SAFETY: the mapping has room for `entries` and is unmapped after the ring is quiet (drop
        // order of `UringDriver`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, entries, buffers::GROUP, 0)
        }
        .map_err(|error| StartError::new(Step::Buffers, error))?;
        let multi = Multishot::create(accept_flags != 0)
            .map_err(|error| StartError::new(Step::Buffers, error))?;
        let (address, entries) = multi.buffers.registration();
        // SAFETY: as above.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(address, entries, buffers::GROUP_MULTI, 0)
        }
        .map_err(|error| StartError::new(Step::Buffers, error))?;
        if config.register_own_descriptor {
            ring.register_own_descriptor();
        }
        let books = Books::new(config.connections, buffers, multi);
        Ok(UringDriver {
            ring,
            books,
            listeners: Vec::new(),
            bell: None,
            accept_flags,
            batch: config.batch,
            broken: None,
        })
    }
}

/// The driver of one event loop. Not `Send`: its ring answers one thread only.
pub struct UringDriver {
    // Drop order: `Drop` makes the ring quiet, then the fields go from here downwards.
    ring: Ring,
    books: Books,
    listeners: Vec<Listener>,
    bell: Option<OwnedFd>,
    /// [`ACCEPT_POLL_FIRST`] where the kernel knows it, else 0.
    accept_flags: u16,
    batch: usize,
    /// The ring failed between two turns; the next turn says so.
    broken: Option<i32>,
}

/// A listener in the table of direct descriptors.
struct Listener {
    /// Internet peers have an address worth writing down.
    has_peer_address: bool,
}

impl UringDriver {
    /// Creates the ring, disabled.
    ///
    /// # Errors
    /// io_uring is missing, forbidden or too old; [`StartError::hint`] says what to do.
    ///
    /// # Panics
    /// When `connections` or `batch` is 0.
    pub fn prepare(config: &UringConfig) -> Result<PreparedUring, StartError> {
        assert!(config.connections > 0 && config.batch > 0, "a driver of no size: {config:?}");
        let ring = Ring::create(config.submissions, config.completions)?;
        Ok(PreparedUring { ring, config: *config })
    }

    /// Queues a chain; when the submission queue is full, submits it at once to make room.
    ///
    /// # Safety
    /// As [`Ring::push`].
    unsafe fn push(&mut self, chain: Chain) {
        // SAFETY: passed on from the caller.
        if unsafe { self.ring.push(chain) } {
            return;
        }
        self.books.counters.submission_full += 1;
        if self.broken.is_some() {
            return;
        }
        if let Err(error) = self.enter(0, None) {
            self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO));
            return;
        }
        self.ring.move_backlog();
    }

    /// Queues an operation that points to no memory.
    fn push_plain(&mut self, entry: Entry) {
        // SAFETY: the entry carries no pointer.
        unsafe { self.push((entry, None)) }
    }

    /// The one place that enters the kernel.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.books.buffers.refill();
        self.books.multi.buffers.refill();
        let counters = &mut self.books.counters;
        counters.enters += 1;
        counters.sleeps += u64::from(want > 0);
        match self.ring.enter(want, timeout)? {
            Entered::Done { submitted } => counters.submitted += u64::from(submitted),
            Entered::TimedOut => counters.timeouts += 1,
            Entered::Interrupted => counters.interrupted += 1,
            // Reaping makes room; what was not taken stays queued for the next turn.
            Entered::Refused => counters.refused += 1,
        }
        Ok(())
    }

    /// Copies at most a batch of completions out, then queues what the driver itself repeats.
    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.books.multi.ready);
        for entry in self.ring.completions().take(self.batch) {
            out.extend(self.books.translate(entry.user_data(), entry.result(), entry.flags()));
        }
        if self.books.follow_ups.is_empty() {
            return;
        }
        for follow_up in std::mem::take(&mut self.books.follow_ups) {
            match follow_up {
                FollowUp::Recv(token) => self.push_plain(self.provided_recv(token, false)),
                FollowUp::Close(token) => {
                    let close = opcode::Close::new(Fixed(token.connection)).build();
                    self.push_plain(close.tagged(Operation::LinkedClose, token));
                }
                FollowUp::Cancel(token) => self.push_plain(cancel_all(token)),
                FollowUp::EndMulti(token) => self.push_plain(cancel_multi(token)),
                // SAFETY: whoever asked for the receive keeps the piece valid until its completion,
                // which this is to bring.
                FollowUp::RecvInto(token, into) => unsafe { self.push_recv_into(token, into) },
            }
        }
    }

    fn provided_recv(&self, token: Token, poll_first: bool) -> Entry {
        entries::provided_recv(token, self.books.buffers.buffer_bytes(), poll_first)
    }

    /// # Safety
    /// As [`Driver::recv_into`].
    unsafe fn push_recv_into(&mut self, token: Token, into: IntoPiece) {
        // SAFETY: the caller keeps the piece valid and unread until the completion.
        unsafe { self.push((entries::recv_into(token, into), None)) }
    }

    /// Ends a multishot receive, if one is armed: before a close, since it would hold the socket
    /// beyond that (the kernel takes entries in their order, and carries a cancel out at once), and
    /// before a receive into the loop's memory.
    fn end_multi(&mut self, token: Token) {
        if self.books.multi_must_end(token) {
            self.push_plain(cancel_multi(token));
        }
    }

    fn arm_bell(&mut self) {
        let Some(bell) = &self.bell else { return };
        let entry = entries::bell(bell);
        self.books.bell_is_armed = true;
        self.push_plain(entry);
    }
}

impl Driver for UringDriver {
    fn add_listener(&mut self, listener: BorrowedFd<'_>) -> io::Result<usize> {
        let number = self.listeners.len();
        if number >= LISTENERS_MAX as usize {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let has_peer_address = is_internet_socket(listener)?;
        // A direct descriptor: an accept on a shared descriptor would have every loop's core write
        // to one reference count.
        let slot = self.books.connections() + number as u32;
        self.ring.submitter().register_files_update(slot, &[listener.as_raw_fd()])?;
        self.listeners.push(Listener { has_peer_address });
        Ok(number)
    }

    fn remove_listener(&mut self, listener: usize) {
        assert!(listener < self.listeners.len(), "no listener {listener}");
        let slot = self.books.connections() + listener as u32;
        if let Err(error) = self.ring.submitter().register_files_update(slot, &[-1]) {
            // Clearing a slot of a live table cannot fail but for a broken ring.
            self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    fn accept(&mut self, listener: usize, token: Token) {
        let with_address = self.listeners[listener].has_peer_address;
        let (address, length) = match self.books.accept_armed(token, with_address) {
            // SAFETY: the record was handed out to this accept just now and is kept until it
            // completes.
            Some(record) => unsafe { PeerAddress::prepare(self.books.addresses.address(record)) },
            None => (std::ptr::null_mut(), std::ptr::null_mut()),
        };
        let listener = Fixed(self.books.connections() + listener as u32);
        // The books know that the slot lies in the table, so it is a legal target.
        let slot = DestinationSlot::try_from_slot_target(token.connection).ok();
        let accept = opcode::Accept::new(listener, address, length)
            .file_index(slot)
            .build()
            .flags(Flags::IO_LINK)
            .tagged(Operation::Accept, token);
        let accept = with_ioprio(accept, self.accept_flags);
        let recv = self.provided_recv(token, false);
        // SAFETY: the address record stays in place and unused by others until `translate` sees the
        // accept's completion; the receive carries no pointer.
        unsafe { self.push((accept, Some(recv))) }
    }

    fn peer(&self, connection: ConnectionIndex) -> Option<SocketAddr> {
        self.books.peer(connection)
    }

    fn recv(&mut self, token: Token, poll_first: bool) {
        self.books.recv_armed(token);
        match self.books.how_to_receive(token, poll_first) {
            Receive::IsArmed => {}
            Receive::Once => self.push_plain(self.provided_recv(token, poll_first)),
            Receive::Multi => self.push_plain(multi_recv(token)),
        }
    }

    unsafe fn recv_into(&mut self, token: Token, into: Piece, wait_all: bool) {
        self.books.recv_armed(token);
        let into = IntoPiece { piece: into, wait_all };
        // SAFETY: the caller keeps `into` valid and unread until the completion.
        unsafe {
            if self.books.can_receive_into(token, into) {
                return self.push_recv_into(token, into);
            }
        }
        self.end_multi(token);
    }

    unsafe fn send(&mut self, token: Token, pieces: [Piece; 2], after: After) {
        let bytes = length_of(pieces[0].length) + length_of(pieces[1].length);
        let last = after == After::Close;
        if last {
            self.end_multi(token);
        }
        self.books.send_armed(token, length_of(bytes as usize) as i32, last);
        let operation = if last { Operation::LastSend } else { Operation::Send };
        let slot = Fixed(token.connection);
        // WAITALL: the kernel itself finishes short sends, and only then does a short count break
        // off.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let send = if pieces[0].length == 0 || pieces[1].length == 0 {
            let piece = if pieces[0].length == 0 { pieces[1] } else { pieces[0] };
            opcode::Send::new(slot, piece.pointer, bytes).flags(flags).build()
        } else {
            // SAFETY: the header was handed out to this send just now and is kept until it
            // completes.
            let message = unsafe { SendHeader::fill(self.books.header_for(token), pieces) };
            opcode::SendMsg::new(slot, message).flags(flags as u32).build()
        };
        let send = send.tagged(operation, token);
        let close = opcode::Close::new(slot).build().tagged(Operation::LinkedClose, token);
        let chain = match (last, bytes) {
            (false, _) => (send, None),
            (true, 0) => (close, None),
            // Hard: the close runs also when the send fails. Silent on success: the close's
            // completion says it all.
            (true, _) => (send.flags(Flags::IO_HARDLINK | Flags::SKIP_SUCCESS), Some(close)),
        };
        // SAFETY: the caller keeps the pieces valid until the completion; the header stays in the
        // books until then.
        unsafe { self.push(chain) }
    }

    fn close(&mut self, token: Token) {
        self.end_multi(token);
        self.books.close_armed(token);
        let close = opcode::Close::new(Fixed(token.connection)).build();
        self.push_plain(close.tagged(Operation::Close, token));
    }

    fn reset(&mut self, token: Token) {
        self.end_multi(token);
        self.books.close_armed(token);
        let slot = Fixed(token.connection);
        let length = size_of::<libc::linger>() as u32;
        let option = (&raw const LINGER_NOT).cast();
        let linger = opcode::SetSockOpt::new(
            slot,
            libc::SOL_SOCKET as u32,
            libc::SO_LINGER as u32,
            option,
            length,
        )
        .build()
        // Hard: an old kernel refuses the option, and the close is due all the same.
        .flags(Flags::IO_HARDLINK | Flags::SKIP_SUCCESS)
        .tagged(Operation::Linger, token);
        let close = opcode::Close::new(slot).build().tagged(Operation::Close, token);
        // SAFETY: the option lies in a constant of static life.
        unsafe { self.push((linger, Some(close))) }
    }

    fn shutdown_write(&mut self, token: Token) {
        let entry = opcode::Shutdown::new(Fixed(token.connection), libc::SHUT_WR).build();
        self.push_plain(entry.tagged(Operation::Shutdown, token));
    }

    fn cancel(&mut self, token: Token) {
        self.books.cancel_armed(token);
        self.push_plain(cancel_all(token));
    }

    fn cancel_accept(&mut self, token: Token) {
        let accept = Tag::new(Operation::Accept, token).to_bits();
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(accept)).build();
        self.push_plain(entry.tagged(Operation::CancelAccept, token));
    }

    unsafe fn file_write(&mut self, token: Token, file: BorrowedFd<'_>, from: Piece, offset: u64) {
        let length = length_of(from.length);
        let entry = opcode::Write::new(Fd(file.as_raw_fd()), from.pointer, length)
            .offset(offset)
            .build()
            .tagged(Operation::File, token);
        // SAFETY: the caller keeps `from` valid until the completion.
        unsafe { self.push((entry, None)) }
    }

    unsafe fn file_read(&mut self, token: Token, file: BorrowedFd<'_>, into: Piece, offset: u64) {
        let length = length_of(into.length);
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), into.pointer.cast_mut(), length)
            .offset(offset)
            .build()
            .tagged(Operation::File, token);
        // SAFETY: the caller keeps `into` valid and untouched until the completion.
        unsafe { self.push((entry, None)) }
    }

    fn buffer(&self, buffer: BufferId, length: usize) -> &[u8] {
        match Multishot::own(buffer) {
            Some(id) => self.books.multi.buffers.bytes(id, length),
            None => self.books.buffers.bytes(buffer.0, length),
        }
    }

    fn recycle(&mut self, buffer: BufferId) {
        match Multishot::own(buffer) {
            Some(id) => self.books.multi.buffers.give_back(id),
            None => self.books.buffers.give_back(buffer.0),
        }
    }

    fn buffers_free(&self) -> usize {
        self.books.buffers.free()
    }

    fn counters(&self) -> &Counters {
        &self.books.counters
    }

    fn watch_bell(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        assert!(self.bell.is_none(), "a loop has one bell");
        self.bell = Some(bell.try_clone_to_owned()?);
        Ok(())
    }

    fn has_more(&mut self) -> bool {
        !self.books.multi.ready.is_empty()
            || self.ring.has_completions()
            || self.ring.holds_back().deferred
    }

    fn has_unsubmitted(&mut self) -> bool {
        self.ring.queued() > 0
    }

    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(errno) = self.broken {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.books.counters.turns += 1;
        self.books.forget_peers();
        if !self.books.bell_is_armed && self.bell.is_some() {
            // Before any sleep: an overflow or a shortage of memory in the kernel ends the poll.
            self.books.counters.bell_rearms += u64::from(self.books.counters.bells > 0);
            self.arm_bell();
        }
        self.ring.move_backlog();
        let held_back = self.ring.holds_back();
        self.books.counters.overflows += u64::from(held_back.overflown);
        let may_wait = wait != Some(Duration::ZERO)
            && !self.ring.has_completions()
            && !self.ring.has_backlog()
            && self.books.multi.ready.is_empty();
        if may_wait || self.ring.queued() > 0 || held_back.deferred || held_back.overflown {
            self.enter(u32::from(may_wait), wait)?;
        }
        self.reap(out);
        match self.broken {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        if !self.ring.quiesce(QUIESCE_PATIENCE) {
            // Something still runs (a stuck file system): the kernel may write into these for as
            // long as it likes, so they are never freed.
            self.books.leak();
        }
    }
}

/// How long a drop waits for cancelled operations. Sockets take microseconds.
const QUIESCE_PATIENCE: Duration = Duration::from_secs(1);

/// Whether a socket's addresses are internet addresses.
fn is_internet_socket(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut domain: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `domain` has room for the int the kernel writes, and `length` says so.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(domain == libc::AF_INET || domain == libc::AF_INET6)
}
