//! What supervisor and worker say to each other on the control socket, and how descriptors travel.
//!
//! Not on the walk of a request: this is how a worker comes to its segments and how it is told to
//! stop. The socket is a Unix `SOCK_SEQPACKET` pair, so a message arrives whole or not at all, and
//! its end of file means that the other side is gone (which ends a worker).
//!
//! Wire format: one kind byte, then the fields in order; integers little-endian, a text as a 32-bit
//! length and its bytes, a list as a 32-bit count and its items, an optional value as 0 or 1 and
//! the value. Both ends come from one build (the layout hash in [`Hello`] is compared first), so
//! there is no negotiation beyond that.
//!
//! Invariants: every length is bounded and checked before use; a message that does not parse to its
//! last byte is an error; a descriptor that is received is owned at once and close-on-exec.

mod wire;

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::geometry::{LAYOUT_HASH, LAYOUT_VERSION, LOOPS_MAX};
use crate::running::Tenure;

/// Longest message in bytes. Below the default `SO_SNDBUF`, so one message always fits an empty
/// socket.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Longest traceback that [`Failed`] carries, in bytes; a longer one loses its beginning.
pub const TEXT_BYTES_MAX: usize = 60 * 1024;
/// Most descriptors in one message: the seats, then three a loop. The kernel's bound is 253
/// (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 1 + 3 * LOOPS_MAX;
/// The descriptor number of the worker's end.
pub const WORKER_DESCRIPTOR: RawFd = 3;

/// The worker's first message: who it is. A server of another layout refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`LAYOUT_VERSION`] of the worker's build.
    pub version: u32,
    /// [`LAYOUT_HASH`] of the worker's build.
    pub layout_hash: u64,
    /// `sys.implementation.name`.
    pub implementation: String,
    /// For example `3.12.4`.
    pub python_version: String,
    /// The worker's process id, as it sees it.
    pub pid: u32,
}

/// The application is imported; the worker waits for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Seats that wait for work.
    pub threads: u16,
    /// Whether the interpreter has one lock for all threads (the GIL).
    pub one_lock: bool,
}

/// The worker gives up before READY and ends with `exit_code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The process will exit with this code.
    pub exit_code: i32,
    /// The traceback, or one line of what failed. At most [`TEXT_BYTES_MAX`] bytes of UTF-8.
    pub text: String,
}

/// Everything a worker needs to know; with it come the descriptors: seats, then down, up and bell
/// of each loop in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Setup {
    /// `module:callable` and its kin, as the user gave it.
    pub application: String,
    /// Folders put before `sys.path`, in order.
    pub pythonpath: Vec<String>,
    /// Working folder, absolute.
    pub chdir: Option<String>,
    /// Seats of this worker: 1 or more.
    pub threads: u16,
    /// The first of its seat numbers; the others follow.
    pub first_seat: u16,
    /// The generation it belongs to.
    pub generation: u32,
    /// Its number, unique in the server's life.
    pub worker: u32,
    /// Truth of `wsgi.multiprocess`.
    pub multiprocess: bool,
    /// Load the application, say READY, end.
    pub check_only: bool,
    /// The core to pin to after READY.
    pub cpu: Option<u32>,
    /// The number of the loop this worker is paired with, if any.
    pub paired_loop: Option<u16>,
    /// How many loops' descriptors follow.
    pub loops: u16,
    /// Value of `SERVER_SOFTWARE`.
    pub server_software: String,
    /// Further settings of the runtime, by name.
    pub options: Vec<(String, String)>,
}

/// The server tells a worker to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Finish what is held; otherwise end at once.
    pub graceful: bool,
}

/// The worker served as many requests as it was to (`max-requests` in [`Setup::options`]) and
/// serves on until it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WornOut {
    /// Requests served.
    pub requests: u64,
}

/// A file that the application consists of changed (`--reload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its path, for the log. At most [`TEXT_BYTES_MAX`] bytes.
    pub path: String,
}

/// Name of the entry of [`Setup::options`] that makes a process a fork server (`--preload`): it
/// gets no segments, imports the application, says READY, and forks a worker for each [`Fork`].
pub const FORK_SERVER_OPTION: &str = "fork-server";

/// A fork server forked a worker; with it comes a pidfd, opened by the parent before anybody could
/// reap the child. The worker says Hello on its own socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forked {
    /// The number that was asked for.
    pub worker: u32,
    /// Its process id.
    pub pid: u32,
}

/// A fork server could not fork a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkFailed {
    /// The number that was asked for.
    pub worker: u32,
    /// Why. At most [`TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

/// A worker that a fork server forked has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub worker: u32,
    /// As `waitpid(2)` says it; `None` when the application took it.
    pub status: Option<u32>,
}

/// The server asks a fork server for a worker; with it comes the worker's control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Its number.
    pub worker: u32,
}

/// Why a request is looked at or interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// Its deadline passed: its stack is logged and an exception raised in its thread.
    Timeout = 1,
    /// It runs for long: its stack is logged, nothing else.
    Slow = 2,
    /// Its client left, and the configuration asks for an exception in its thread.
    ClientLeft = 3,
}

/// The server wants a request looked at or interrupted, if its seat still runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// What is to be done.
    pub why: Why,
    /// The seat.
    pub seat: u16,
    /// Which request.
    pub tenure: Tenure,
    /// How long it may take to unwind, in milliseconds; then the worker says [`Stuck`]. Of
    /// [`Why::Timeout`] only.
    pub grace_ms: u32,
    /// The request line, printable.
    pub request: String,
    /// The request's id.
    pub request_id: String,
}

/// A request that was interrupted has not unwound in its grace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The seat that runs it.
    pub seat: u16,
    /// Which request.
    pub tenure: Tenure,
}

/// Worker to server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// First message.
    Hello(Hello),
    /// Imported and waiting.
    Ready(Ready),
    /// Not imported.
    Failed(Failed),
    /// Wants to be replaced.
    WornOut(WornOut),
    /// Wants a reload.
    Changed(Changed),
    /// A fork server forked; carries a pidfd.
    Forked(Forked),
    /// A fork server could not fork.
    ForkFailed(ForkFailed),
    /// A fork server's child ended.
    Ended(Ended),
    /// An interrupted request runs on.
    Stuck(Stuck),
}

/// Server to worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Answer to [`Hello`]; carries the descriptors.
    Setup(Box<Setup>),
    /// End.
    Stop(Stop),
    /// Look at a request, or interrupt it.
    Interrupt(Box<Interrupt>),
    /// To a fork server: fork; carries the worker's control socket.
    Fork(Fork),
}

impl Setup {
    /// Whether it makes a fork server.
    pub fn is_fork_server(&self) -> bool {
        self.options.iter().any(|(name, _)| name == FORK_SERVER_OPTION)
    }
}

impl Hello {
    /// The greeting of this build.
    pub fn of_this_build(implementation: String, python_version: String) -> Hello {
        Hello {
            version: LAYOUT_VERSION,
            layout_hash: LAYOUT_HASH,
            implementation,
            python_version,
            pid: std::process::id(),
        }
    }

    /// Whether worker and server speak of the same memory.
    pub fn is_compatible(&self) -> bool {
        self.version == LAYOUT_VERSION && self.layout_hash == LAYOUT_HASH
    }
}

/// Why a message could not be received.
#[derive(Debug)]
pub enum ControlError {
    /// The system call failed.
    Io(io::Error),
    /// The bytes are no message of the expected kind; the text names the field.
    Malformed(&'static str),
    /// Longer than [`MESSAGE_BYTES_MAX`], or with more than [`DESCRIPTORS_MAX`] descriptors.
    TooLong,
}

impl std::fmt::Display for ControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ControlError::Io(error) => write!(f, "control socket: {error}"),
            ControlError::Malformed(what) => write!(f, "control message malformed: {what}"),
            ControlError::TooLong => f.write_str("control message exceeds its bound"),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ControlError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> Self {
        ControlError::Io(error)
    }
}

/// What a receive gave.
#[derive(Debug)]
pub enum Received<M> {
    /// A message and its descriptors.
    Message(M, Vec<OwnedFd>),
    /// Nothing there now (non-blocking sockets only).
    Nothing,
    /// The other side closed or died.
    Closed,
}

/// A message of one direction.
pub trait Message: Sized {
    /// Appends the wire form.
    fn encode(&self, into: &mut Vec<u8>);
    /// Reads the wire form to its last byte.
    ///
    /// # Errors
    /// [`ControlError::Malformed`] when the bytes are something else.
    fn decode(bytes: &[u8]) -> Result<Self, ControlError>;
}

/// One end of the socket. Sending and receiving take `&self`: two threads may do one each.
#[derive(Debug)]
pub struct ControlSocket {
    descriptor: OwnedFd,
}

impl ControlSocket {
    /// A connected pair, both close-on-exec and blocking: the server's end and the worker's.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair() -> io::Result<(ControlSocket, ControlSocket)> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors that the call writes.
        let result = unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                ends.as_mut_ptr(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so both are open and nobody else owns them.
        let ends = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        let [server, worker] = ends;
        Ok((ControlSocket { descriptor: server }, ControlSocket { descriptor: worker }))
    }

    /// Takes over one end, for example descriptor 3 of a worker. Marks it close-on-exec.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<ControlSocket> {
        // SAFETY: fcntl on a descriptor we own.
        if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ControlSocket { descriptor })
    }

    /// Makes both directions of this end fail with `WouldBlock` / [`Received::Nothing`] instead of
    /// waiting.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let descriptor = self.descriptor.as_raw_fd();
        // SAFETY: fcntl on a descriptor we own.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        let wanted = if nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        // SAFETY: as above.
        if unsafe { libc::fcntl(descriptor, libc::F_SETFL, wanted) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Sends one message whole, with descriptors.
    ///
    /// # Errors
    /// [`ControlError::TooLong`] beyond the bounds; `Io` with `WouldBlock` on a full non-blocking
    /// socket, with `BrokenPipe` when the other side is gone (no SIGPIPE is raised).
    pub fn send<M: Message>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        let mut bytes = Vec::with_capacity(256);
        message.encode(&mut bytes);
        if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(ControlError::TooLong);
        }
        let mut numbers = [0 as RawFd; DESCRIPTORS_MAX];
        for (number, descriptor) in numbers.iter_mut().zip(descriptors) {
            *number = descriptor.as_raw_fd();
        }
        let mut ancillary = Ancillary::new();
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            ancillary.write(&mut header, &numbers[..descriptors.len()]);
        }
        loop {
            // SAFETY: `header` names `part` and `ancillary`, both alive and unmoved for the call.
            let sent =
                unsafe { libc::sendmsg(self.descriptor.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error.into());
            }
        }
    }

    /// Receives one message. Blocks unless [`set_nonblocking`](Self::set_nonblocking) was called.
    ///
    /// # Errors
    /// See [`ControlError`]. After any of them the socket should be closed.
    pub fn receive<M: Message>(&self) -> Result<Received<M>, ControlError> {
        let mut bytes = vec![0u8; MESSAGE_BYTES_MAX];
        let mut ancillary = Ancillary::new();
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        ancillary.attach(&mut header, DESCRIPTORS_MAX);
        let length = loop {
            // SAFETY: `header` names `part` and `ancillary`, both alive and unmoved for the call.
            let length = unsafe {
                libc::recvmsg(self.descriptor.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC)
            };
            if length >= 0 {
                break length as usize;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                // The peer died with our bytes unread: for us the same as its end of file.
                io::ErrorKind::ConnectionReset => return Ok(Received::Closed),
                _ => return Err(error.into()),
            }
        };
        // Owned before anything can fail, so that no path leaks them.
        let descriptors = ancillary.take(&header);
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(ControlError::TooLong);
        }
        if length == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Message(M::decode(&bytes[..length])?, descriptors))
    }

    /// The descriptor itself, for example to hand it to a child as descriptor 3.
    pub fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Room for the descriptors of one message, aligned as `cmsghdr` asks.
struct Ancillary {
    space: [MaybeUninit<u64>; ANCILLARY_WORDS],
}

/// `CMSG_SPACE` of the most descriptors is their bytes plus one header, rounded up; 64 bytes cover
/// it.
const ANCILLARY_WORDS: usize = (DESCRIPTORS_MAX * mem::size_of::<RawFd>() + 64) / 8;

impl Ancillary {
    fn new() -> Ancillary {
        Ancillary { space: [MaybeUninit::zeroed(); ANCILLARY_WORDS] }
    }

    /// Names the space in the header with room for `count` descriptors.
    fn attach(&mut self, header: &mut libc::msghdr, count: usize) {
        // SAFETY: CMSG_SPACE only computes.
        let bytes = unsafe { libc::CMSG_SPACE((count * mem::size_of::<RawFd>()) as u32) } as usize;
        assert!(bytes <= mem::size_of_val(&self.space));
        header.msg_control = self.space.as_mut_ptr().cast();
        header.msg_controllen = bytes as _;
    }

    fn write(&mut self, header: &mut libc::msghdr, numbers: &[RawFd]) {
        self.attach(header, numbers.len());
        let bytes = mem::size_of_val(numbers);
        // SAFETY: `attach` gave the header zeroed space for exactly this one control message, so
        // the first header and its data lie inside it; the source is `numbers`, of the same length.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(bytes as u32) as _;
            std::ptr::copy_nonoverlapping(
                numbers.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(message),
                bytes,
            );
        }
    }

    /// Takes ownership of what the kernel put there.
    fn take(&mut self, header: &libc::msghdr) -> Vec<OwnedFd> {
        let mut descriptors = Vec::new();
        // SAFETY: the kernel filled the space that `header` names and set its length; the CMSG
        // macros stay inside it. Each number in an SCM_RIGHTS message is a new descriptor that only
        // we know.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while !message.is_null() {
                if (*message).cmsg_level == libc::SOL_SOCKET
                    && (*message).cmsg_type == libc::SCM_RIGHTS
                {
                    let bytes = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let numbers = libc::CMSG_DATA(message).cast::<RawFd>();
                    for at in 0..bytes / mem::size_of::<RawFd>() {
                        let number = numbers.add(at).read_unaligned();
                        descriptors.push(OwnedFd::from_raw_fd(number));
                    }
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        descriptors
    }
}

#[cfg(test)]
mod tests;
