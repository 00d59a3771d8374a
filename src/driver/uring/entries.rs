//! Entries of the ring, as values: what more than one operation of the driver asks for, or what
//! takes more than a line to say.
//!
//! Stands under every operation of the walk of a request. Nothing here submits or keeps books.
//!
//! Invariant: every entry carries its operation and token, so that its completion finds back.

use std::os::fd::{AsRawFd as _, OwnedFd};

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed};

use super::buffers;
use super::multishot::IntoPiece;
use super::user_data::{Operation, Tag};
use crate::driver::Token;

/// Linger for no time: the close drops what was not sent and resets the connection (socket(7)).
pub(super) static LINGER_NOT: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

// io_uring.h, IORING_RECVSEND_POLL_FIRST (in `ioprio`).
const RECVSEND_POLL_FIRST: u16 = 1;
// io_uring.h, IORING_RECV_MULTISHOT (in `ioprio`).
const RECV_MULTISHOT: u16 = 2;

/// Puts operation and token into an entry's user data.
pub(super) trait Tagged {
    fn tagged(self, operation: Operation, token: Token) -> Entry;
}

impl Tagged for Entry {
    fn tagged(self, operation: Operation, token: Token) -> Entry {
        self.user_data(Tag::new(operation, token).to_bits())
    }
}

/// A receive that stays armed (`multishot.rs`).
pub(super) fn multi_recv(token: Token) -> Entry {
    opcode::Recv::new(Fixed(token.connection), std::ptr::null_mut(), 0)
        .buf_group(buffers::GROUP_MULTI)
        .ioprio(RECVSEND_POLL_FIRST | RECV_MULTISHOT)
        .build()
        .flags(Flags::BUFFER_SELECT)
        .tagged(Operation::RecvMulti, token)
}

/// Ends it; silent on success, since the receive itself completes.
pub(super) fn cancel_multi(token: Token) -> Entry {
    let receive = Tag::new(Operation::RecvMulti, token).to_bits();
    opcode::AsyncCancel2::new(CancelBuilder::user_data(receive))
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .tagged(Operation::EndMulti, token)
}

/// Cancels everything armed on the connection's descriptor.
pub(super) fn cancel_all(token: Token) -> Entry {
    let all = CancelBuilder::fd(Fixed(token.connection)).all();
    opcode::AsyncCancel2::new(all).build().tagged(Operation::Cancel, token)
}

/// A length as the kernel takes it. A result is an i32, so no operation may be longer.
pub(super) fn length_of(bytes: usize) -> u32 {
    assert!(bytes <= i32::MAX as usize, "an operation of {bytes} bytes");
    bytes as u32
}

/// A receive into a provided buffer of `bytes` bytes.
pub(super) fn provided_recv(token: Token, bytes: u32, poll_first: bool) -> Entry {
    opcode::Recv::new(Fixed(token.connection), std::ptr::null_mut(), bytes)
        .buf_group(buffers::GROUP)
        .ioprio(if poll_first { RECVSEND_POLL_FIRST } else { 0 })
        .build()
        .flags(Flags::BUFFER_SELECT)
        .tagged(Operation::Recv, token)
}

/// A receive into the loop's memory. Whoever submits it keeps the piece valid.
pub(super) fn recv_into(token: Token, into: IntoPiece) -> Entry {
    let IntoPiece { piece, wait_all } = into;
    let flags = if wait_all { libc::MSG_WAITALL } else { 0 };
    let (pointer, length) = (piece.pointer.cast_mut(), length_of(piece.length));
    opcode::Recv::new(Fixed(token.connection), pointer, length)
        .flags(flags)
        .build()
        .tagged(Operation::RecvInto, token)
}

/// A poll on the loop's bell that stays armed.
pub(super) fn bell(bell: &OwnedFd) -> Entry {
    opcode::PollAdd::new(Fd(bell.as_raw_fd()), libc::POLLIN as u32)
        .multi(true)
        .build()
        .tagged(Operation::Bell, Token { connection: 0, generation: 0 })
}
