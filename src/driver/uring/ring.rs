//! The kernel ring itself: set-up, submission, the one enter of a turn.
//!
//! Stands under every operation of the walk of a request. It knows nothing of connections.
//!
//! Invariants:
//! - Only the thread that enabled the ring uses it (SINGLE_ISSUER; the kernel answers EEXIST else).
//! - Entries of one chain reach the kernel in one submission: they are queued together or not at
//!   all, and wait in `backlog`, in order, when the kernel takes nothing for the moment.
//! - Deferred completions and overflown ones are posted only by an enter with GETEVENTS: every
//!   enter carries it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, Probe, Submitter, opcode, squeue};

use super::error::{StartError, Step};

/// One or two linked entries that must be submitted together.
pub(super) type Chain = (squeue::Entry, Option<squeue::Entry>);

/// How an enter ended, when the ring still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// Operations were submitted, or a completion ended the wait.
    Done { submitted: u32 },
    /// The wait was over.
    TimedOut,
    /// A signal ended the wait.
    Interrupted,
    /// The kernel takes nothing until completions were reaped (EBUSY) or memory is there (EAGAIN).
    Refused,
}

/// A ring, its feature bits and what the kernel did not take yet.
pub(super) struct Ring {
    ring: IoUring,
    /// The ring's number in the thread's table of registered rings, or -1: then the descriptor is
    /// used.
    registered: i32,
    enter_flags: EnterFlags,
    backlog: VecDeque<Chain>,
}

impl Ring {
    /// Creates a disabled ring: permission is checked here, the issuing thread is chosen by
    /// `enable`.
    ///
    /// The ladder has two rungs: all flags; then without NO_SQARRAY, which Linux 6.6 brought. There
    /// is none below: without DEFER_TASKRUN (6.1) the data plane's costs are different ones.
    pub(super) fn create(submissions: u32, completions: u32) -> Result<Ring, StartError> {
        let mut builder = IoUring::builder();
        builder
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(completions)
            .dontfork();
        let full = builder.clone().setup_no_sqarray().build(submissions);
        let built = match full {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(submissions),
            other => other,
        };
        let ring = built.map_err(|error| StartError::new(Step::Setup, error))?;
        let parameters = ring.params();
        for (present, name) in [
            (parameters.is_feature_nodrop(), "NODROP"),
            (parameters.is_feature_submit_stable(), "SUBMIT_STABLE"),
            (parameters.is_feature_ext_arg(), "EXT_ARG"),
            (parameters.is_feature_fast_poll(), "FAST_POLL"),
            (parameters.is_feature_linked_file(), "LINKED_FILE"),
            (parameters.is_feature_skip_cqe_on_success(), "CQE_SKIP"),
        ] {
            if !present {
                return Err(StartError::of_errno(Step::Feature(name), libc::EOPNOTSUPP));
            }
        }
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if parameters.is_feature_no_iowait() {
            // A sleeping event loop is idle, not waiting for a disk: keep it out of iowait and PSI.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Ring { ring, registered: -1, enter_flags, backlog: VecDeque::new() })
    }

    /// Makes the calling thread the one that issues operations, and checks that the kernel has
    /// them.
    pub(super) fn enable(&mut self) -> Result<(), StartError> {
        let submitter = self.ring.submitter();
        submitter.register_enable_rings().map_err(|e| StartError::new(Step::Enable, e))?;
        let mut probe = Probe::new();
        submitter.register_probe(&mut probe).map_err(|e| StartError::new(Step::Enable, e))?;
        for (code, name) in [
            (opcode::Accept::CODE, "accept"),
            (opcode::Recv::CODE, "recv"),
            (opcode::Send::CODE, "send"),
            (opcode::SendMsg::CODE, "sendmsg"),
            (opcode::Close::CODE, "close"),
            (opcode::Shutdown::CODE, "shutdown"),
            (opcode::AsyncCancel2::CODE, "cancel"),
            (opcode::PollAdd::CODE, "poll"),
            (opcode::Read::CODE, "read"),
            (opcode::Write::CODE, "write"),
        ] {
            if !probe.is_supported(code) {
                return Err(StartError::of_errno(Step::Operation(name), libc::EOPNOTSUPP));
            }
        }
        // A stray operation that must block may cost two kernel threads, never a crowd.
        submitter
            .register_iowq_max_workers(&mut [2, 2])
            .map_err(|e| StartError::new(Step::KernelWorkers, e))
    }

    /// Registers the ring's own descriptor with the calling thread, so that an enter needs no
    /// look-up in the process's descriptor table. A kernel that refuses costs only that.
    pub(super) fn register_own_descriptor(&mut self) {
        let mut update =
            RingUpdate { offset: u32::MAX, reserved: 0, data: self.ring.as_raw_fd() as u64 };
        // SAFETY: `update` is one valid, writable io_uring_rsrc_update during the call.
        let count = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        if count == 1 {
            self.registered = update.offset as i32;
        }
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Entries the submission queue holds for the kernel.
    pub(super) fn queued(&mut self) -> u32 {
        self.ring.submission().len() as u32
    }

    /// Queues a chain; false when the queue is full and the chain went to the backlog.
    ///
    /// # Safety
    /// Memory that the entries point to is valid until their completions, or until submission where
    /// the kernel copies it.
    pub(super) unsafe fn push(&mut self, chain: Chain) -> bool {
        if self.backlog.is_empty() {
            // SAFETY: passed on from the caller.
            if unsafe { push_chain(&mut self.ring.submission(), &chain) } {
                return true;
            }
        }
        self.backlog.push_back(chain);
        false
    }

    /// Moves what waits in the backlog to the submission queue, as far as it has room.
    pub(super) fn move_backlog(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(chain) = self.backlog.front() {
            // SAFETY: whoever pushed the chain vouched for its memory until its completion.
            if !unsafe { push_chain(&mut submission, chain) } {
                break;
            }
            self.backlog.pop_front();
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether completions can be reaped without a system call.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Whether the kernel holds completions back until the next enter: deferred work, or an
    /// overflow.
    pub(super) fn holds_back(&mut self) -> HeldBack {
        let submission = self.ring.submission();
        HeldBack { deferred: submission.taskrun(), overflown: submission.cq_overflow() }
    }

    pub(super) fn completions(&mut self) -> CompletionQueue<'_> {
        self.ring.completion()
    }

    /// Whether the kernel takes an accept that arms its poll before it tries
    /// (IORING_ACCEPT_POLL_FIRST, Linux 6.10). Asked with an accept on an empty slot of the table
    /// of direct descriptors, which must exist: EBADF where the flag is known, EINVAL where not.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub(super) fn knows_accept_poll_first(&mut self) -> io::Result<bool> {
        let null = std::ptr::null_mut();
        let accept = opcode::Accept::new(Fixed(0), null, null.cast()).build();
        // SAFETY: the entry points to no memory.
        let is_queued = unsafe { self.push((with_ioprio(accept, ACCEPT_POLL_FIRST), None)) };
        debug_assert!(is_queued, "a fresh queue has room");
        self.enter(1, Some(Duration::from_secs(1)))?;
        let answer = self.completions().next().map(|entry| entry.result());
        Ok(answer.is_some_and(|result| result != -libc::EINVAL))
    }

    /// Submits everything queued and waits for `want` completions, at most `timeout`.
    ///
    /// # Errors
    /// The ring is broken: EBADR (a completion was lost), ENXIO, EEXIST (a foreign thread) and all
    /// else.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<Entered> {
        let to_submit = self.queued();
        let timespec = timeout.map(|t| Timespec::new().sec(t.as_secs()).nsec(t.subsec_nanos()));
        let arguments = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        let (descriptor, flags) = match self.registered {
            -1 => (self.ring.as_raw_fd(), self.enter_flags),
            index => (index, self.enter_flags | EnterFlags::REGISTERED_RING),
        };
        // SAFETY: `arguments` is an io_uring_getevents_arg and points to `timespec`; both outlive
        // the call. The queued entries' memory was vouched for at `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                descriptor,
                to_submit,
                want,
                flags.bits(),
                &raw const arguments,
                size_of::<SubmitArgs<'_, '_>>(),
            )
        };
        if result >= 0 {
            return Ok(Entered::Done { submitted: result as u32 });
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ETIME) => Ok(Entered::TimedOut),
            Some(libc::EINTR) => Ok(Entered::Interrupted),
            Some(libc::EBUSY | libc::EAGAIN) => Ok(Entered::Refused),
            _ => Err(error),
        }
    }

    /// Cancels everything and waits until the kernel let go of all memory, at most `patience`.
    /// False when something was still running then.
    pub(super) fn quiesce(&mut self, patience: Duration) -> bool {
        let timespec = Timespec::new().sec(patience.as_secs()).nsec(patience.subsec_nanos());
        let all = CancelBuilder::any().all();
        match self.ring.submitter().register_sync_cancel(Some(timespec), all) {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.registered < 0 {
            return;
        }
        // The registration holds the ring open until the thread ends; without this line a dropped
        // driver would keep its sockets open.
        let update = RingUpdate { offset: self.registered as u32, reserved: 0, data: 0 };
        // SAFETY: `update` is one valid io_uring_rsrc_update that the kernel only reads.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                UNREGISTER_RING_FDS,
                &raw const update,
                1,
            )
        };
    }
}

/// Why an enter is needed although nothing is to be submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldBack {
    pub(super) deferred: bool,
    pub(super) overflown: bool,
}

/// Queues a chain whole or not at all.
///
/// # Safety
/// As [`Ring::push`].
unsafe fn push_chain(submission: &mut squeue::SubmissionQueue<'_>, chain: &Chain) -> bool {
    let needed = 1 + usize::from(chain.1.is_some());
    if submission.capacity() - submission.len() < needed {
        return false;
    }
    // SAFETY: passed on from the caller. There is room, so both pushes succeed.
    let first = unsafe { submission.push(&chain.0) }.is_ok();
    let second = match &chain.1 {
        // SAFETY: as above.
        Some(entry) => unsafe { submission.push(entry) }.is_ok(),
        None => true,
    };
    assert!(first && second, "a submission queue with room refused an entry");
    true
}

/// An entry with the operation's own flags, which the crate sets for some operations only.
pub(super) fn with_ioprio(mut entry: squeue::Entry, flags: u16) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 2) };
    // SAFETY: an entry is one `struct io_uring_sqe` (`repr(C)`, 64 bytes, asserted), whose layout
    // is the kernel's interface: opcode and flags of a byte each, then the two bytes of `ioprio`.
    unsafe { (&raw mut entry).cast::<u16>().add(1).write(flags) };
    entry
}

/// io_uring.h, IORING_ACCEPT_POLL_FIRST: an accept tried on an empty backlog makes a socket and a
/// file and drops both.
pub(super) const ACCEPT_POLL_FIRST: u16 = 1 << 2;

/// `struct io_uring_rsrc_update` of io_uring_register(2).
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

// io_uring_register(2), IORING_REGISTER_RING_FDS and IORING_UNREGISTER_RING_FDS.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

#[cfg(test)]
mod tests {
    use io_uring::opcode;
    use io_uring::types::Fixed;

    use super::with_ioprio;

    /// The crate sets the same two bytes for a receive.
    #[test]
    fn ioprio_lies_where_the_kernel_looks_for_it() {
        let receive = || opcode::Recv::new(Fixed(7), std::ptr::null_mut(), 9);
        let ours = with_ioprio(receive().build(), 0x1234);
        assert_eq!(format!("{ours:?}"), format!("{:?}", receive().ioprio(0x1234).build()));
        let bytes = |entry: &io_uring::squeue::Entry| {
            // SAFETY: an entry is 64 initialised bytes (the kernel's interface has no padding).
            unsafe { *std::ptr::from_ref(entry).cast::<[u8; 64]>() }
        };
        assert_eq!(bytes(&ours), bytes(&receive().ioprio(0x1234).build()));
        assert_ne!(bytes(&ours), bytes(&receive().build()));
    }
}
