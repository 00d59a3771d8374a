//! The only room that talks to sockets: operations in, completions out.
//!
//! Where it stands in the walk of a request: first and last. `event_loop` asks for operations,
//! calls [`Driver::turn`] once a turn, and acts on the completions only after all of them were
//! copied out. `uring/` drives a kernel ring, `sim/` plays scripted faults to the same loop; an
//! epoll back end has its place here later. Nothing above this room knows which one runs.
//!
//! Invariants:
//! - A connection is named by its [`ConnectionIndex`], which is also its direct-descriptor slot;
//!   the loop owns the numbers. At most one receive and one send are armed on a connection at a
//!   time.
//! - Every operation ends in exactly one completion, except the permanent ones (bell) and a send
//!   with [`After::Close`], which ends in one [`Kind::Closed`] completion on success.
//! - Memory given to an operation stays valid and unmoved until its completion was returned.
//! - A completion carries the generation its operation was asked with; the loop drops stale ones.

pub mod counters;
#[cfg(any(test, fuzzing))]
pub mod sim;
#[cfg(test)]
mod tests;
pub mod uring;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use counters::Counters;

/// A connection's number: the loop's table index and the driver's direct-descriptor slot.
pub type ConnectionIndex = u32;

/// What an operation belongs to: copied into its completion. `generation` is 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The connection, or for file operations the same connection whose body is spooled.
    pub connection: ConnectionIndex,
    /// The connection's generation when the operation was asked for; wraps at 2^24.
    pub generation: u32,
}

/// What completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An accept on a listener: `result` is 0 or a negative errno; the linked receive follows as
    /// its own.
    Accepted,
    /// A receive: `result` bytes, 0 at end of stream, or a negative errno (`-ENOBUFS`: no provided
    /// buffer was free; ask again when one was recycled. `-ECANCELED`: the accept it was linked to
    /// failed, or it was cancelled).
    Received,
    /// A send: `result` is the bytes that went out (all of them unless the peer failed or the send
    /// was cancelled on the way), or a negative errno.
    Sent,
    /// The descriptor slot is free again: after `close`, or after a send with [`After::Close`]
    /// (then `result` is the send's outcome: bytes out, fewer than asked when it was cut, or a
    /// negative errno).
    Closed,
    /// A spool file write or read: bytes or a negative errno.
    FileDone,
    /// The bell rang: news from workers or a command from the supervisor.
    Bell,
    /// A cancel was carried out (the operation it cancelled completes on its own).
    Cancelled,
    /// `shutdown` of the writing side is done.
    ShutDown,
}

/// A provided buffer that holds received bytes until [`Driver::recycle`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct BufferId(pub u16);

/// One finished operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Whose it is.
    pub token: Token,
    /// Which kind of operation finished.
    pub kind: Kind,
    /// Bytes, 0, or a negative errno, as [`Kind`] says.
    pub result: i32,
    /// The provided buffer that a [`Kind::Received`] filled, for `recv` (not for `recv_into`).
    /// Always there when `result` > 0, never when it is not: then there is nothing to recycle.
    pub buffer: Option<BufferId>,
    /// For `Received`: the kernel says that more bytes already wait in the socket.
    pub more: bool,
}

/// What becomes of the connection after a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Stays open.
    Keep,
    /// Is closed by a hard-linked close: only when no other operation is armed on it.
    Close,
}

/// Bytes outside the loop's heap or inside it, to send or to receive into.
///
/// Whoever asks for the operation keeps them valid and unmoved until its completion.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First byte.
    pub pointer: *const u8,
    /// Length in bytes.
    pub length: usize,
}

/// What the loop asks a back end for. One instance per event loop, used by its thread alone.
///
/// Operations are queued and reach the kernel in [`turn`](Driver::turn); none of them blocks or
/// fails at the call: faults arrive as completions. A full submission queue is flushed inside the
/// driver.
pub trait Driver {
    /// Registers a listener; accepts are armed on it by its number in order of registration.
    ///
    /// # Errors
    /// The table of listeners is full, or the descriptor is not a socket.
    fn add_listener(&mut self, listener: BorrowedFd<'_>) -> std::io::Result<usize>;
    /// Gives up the driver's own reference to a listener, which would keep the socket listening
    /// after its owner closed it. Call it at drain, when the accepts armed on it have completed.
    fn remove_listener(&mut self, listener: usize);
    /// Arms one one-shot accept into the free slot `token.connection`, linked to a first receive
    /// with a provided buffer. Completes as `Accepted` and then, apart, as `Received`.
    fn accept(&mut self, listener: usize, token: Token);
    /// The peer's address of the accept that just completed (`None` for Unix sockets). Known until
    /// the next [`turn`](Driver::turn).
    fn peer(&self, connection: ConnectionIndex) -> Option<SocketAddr>;
    /// Receives into a provided buffer. `poll_first`: nothing is expected yet (an idle keep-alive
    /// connection).
    fn recv(&mut self, token: Token, poll_first: bool);
    /// Receives straight into memory (a body of known length); `wait_all` asks for every byte.
    ///
    /// # Safety
    /// `into` stays valid, unmoved and unread until the completion.
    unsafe fn recv_into(&mut self, token: Token, into: Piece, wait_all: bool);
    /// Sends up to two pieces in order, every byte (the kernel finishes short sends itself).
    ///
    /// # Safety
    /// The pieces stay valid and unmoved until the completion.
    unsafe fn send(&mut self, token: Token, pieces: [Piece; 2], after: After);
    /// Closes the connection's descriptor. No operation may be armed on it.
    fn close(&mut self, token: Token);
    /// As [`close`](Driver::close), but a TCP peer sees the connection break (RST) instead of end:
    /// for a reply that only the end of the connection delimits and that is not whole. Where the
    /// kernel cannot (before 6.7, Unix sockets) it is a plain close.
    fn reset(&mut self, token: Token);
    /// Shuts down the writing side (FIN), before a bounded drain.
    fn shutdown_write(&mut self, token: Token);
    /// Cancels every operation armed on the connection; each completes by itself.
    fn cancel(&mut self, token: Token);
    /// Cancels the accept armed with this token (at drain).
    fn cancel_accept(&mut self, token: Token);
    /// Writes to or reads from a spool file at an offset.
    ///
    /// # Safety
    /// The piece stays valid, unmoved (and for a read, untouched) until the completion.
    unsafe fn file_write(&mut self, token: Token, file: BorrowedFd<'_>, from: Piece, offset: u64);
    /// See [`file_write`](Driver::file_write).
    ///
    /// # Safety
    /// As for `file_write`.
    unsafe fn file_read(&mut self, token: Token, file: BorrowedFd<'_>, into: Piece, offset: u64);
    /// The bytes a `Received` left in its buffer (`length` = its `result`).
    fn buffer(&self, buffer: BufferId, length: usize) -> &[u8];
    /// Gives a provided buffer back to the kernel.
    fn recycle(&mut self, buffer: BufferId);
    /// Provided buffers free now: the loop defers receives while none is.
    fn buffers_free(&self) -> usize;
    /// What the driver counted since its start.
    fn counters(&self) -> &Counters;
    /// Watches the loop's bell (an eventfd) for ever; each ring is one `Bell` completion, several
    /// rings between two turns may be one.
    ///
    /// # Errors
    /// `EMFILE`: the driver keeps a descriptor of its own.
    fn watch_bell(&mut self, bell: BorrowedFd<'_>) -> std::io::Result<()>;
    /// Whether completions wait for the next turn already, as far as can be told without a system
    /// call.
    fn has_more(&mut self) -> bool;
    /// Whether operations were asked for that the kernel has not seen.
    fn has_unsubmitted(&mut self) -> bool;
    /// Submits what was asked for and takes what completed. `wait`: None = until something
    /// completes, Some(0) = do not wait. Appends to `out` (not cleared) at most the driver's batch
    /// bound, and perhaps nothing: a signal ends the wait, and so does what the driver settles by
    /// itself.
    ///
    /// # Errors
    /// Only when the ring itself is broken: the loop must end.
    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> std::io::Result<()>;
}
