//! Why a ring could not be made, and what the operator can do about it.
//!
//! Stands before the walk of a request: the supervisor prints the error and its hint and ends with
//! its own exit code. Invariant: the step and the errno are always kept; a hint never claims more
//! than what was read (a sysctl, the seccomp mode) or what the errno can mean.

use std::fmt;
use std::io;

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `io_uring_setup` with the flags the data plane needs.
    Setup,
    /// The kernel made a ring but lacks a feature bit that the data plane relies on.
    Feature(&'static str),
    /// The kernel made a ring but lacks an operation.
    Operation(&'static str),
    /// Enabling the ring in the thread of its loop.
    Enable,
    /// Registering the table of direct descriptors.
    DescriptorTable,
    /// Mapping or registering the provided buffers.
    Buffers,
    /// Limiting the kernel's own worker threads.
    KernelWorkers,
    /// The live self-test; the text says which part of it.
    SelfTest(&'static str),
}

/// A ring that cannot be used.
#[derive(Debug)]
pub struct StartError {
    /// What was being done.
    pub step: Step,
    /// What the kernel answered.
    pub source: io::Error,
}

impl StartError {
    pub(super) fn new(step: Step, source: io::Error) -> StartError {
        StartError { step, source }
    }

    pub(super) fn of_errno(step: Step, errno: i32) -> StartError {
        StartError { step, source: io::Error::from_raw_os_error(errno) }
    }

    /// One line of advice that begins with a verb or a fact about this host; no trailing newline.
    pub fn hint(&self) -> String {
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        let status = std::fs::read_to_string("/proc/thread-self/status").ok();
        self.hint_on(&Host {
            io_uring_disabled: disabled.as_deref().and_then(|text| text.trim().parse().ok()),
            is_filtered: status.as_deref().is_some_and(is_filtered),
        })
    }

    fn hint_on(&self, host: &Host) -> String {
        let text = match (self.source.raw_os_error(), self.step) {
            (_, Step::Feature(_) | Step::Operation(_)) => NEEDS_6_1,
            (Some(libc::EPERM | libc::EACCES), _) => return hint_of_refusal(host).to_owned(),
            (Some(libc::ENOSYS), _) if host.is_filtered => SECCOMP,
            (Some(libc::ENOSYS), _) => {
                "this kernel was built without io_uring, or something hides it: Linux 6.1 or newer \
                 with CONFIG_IO_URING is needed"
            }
            (Some(libc::EINVAL), Step::Setup) => NEEDS_6_1,
            (Some(libc::ENOMEM), _) => {
                "not enough memory that may be locked: raise the memlock limit (ulimit -l, \
                 LimitMEMLOCK= in systemd) or the memory limit of the control group"
            }
            (Some(libc::EMFILE), Step::DescriptorTable) => {
                "the table of connections must fit the limit of open files: raise it (ulimit -n, \
                 LimitNOFILE= in systemd) or lower --max-connections"
            }
            (Some(libc::EMFILE | libc::ENFILE), _) => {
                "no descriptor is left: raise the limit of open files (ulimit -n, LimitNOFILE= in \
                 systemd, sysctl fs.file-max)"
            }
            (Some(libc::EOPNOTSUPP), _) => {
                "this host offers io_uring but refuses its use: sandboxes such as gVisor and some \
                 managed containers do; run on a host that allows it"
            }
            (Some(libc::ETIME | libc::ETIMEDOUT), Step::SelfTest(_)) => {
                "the ring was made but did not answer within a second: the kernel's io_uring is \
                 broken or the machine is overloaded"
            }
            (_, Step::SelfTest(_)) => {
                "the ring was made but does not work as Linux 6.1 and newer do: please report the \
                 kernel version with this line"
            }
            _ => {
                "io_uring must be available to this process: Linux 6.1 or newer, not disabled by \
                 sysctl or seccomp"
            }
        };
        text.to_owned()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Step::Setup => write!(f, "io_uring: cannot create a ring: {}", self.source),
            Step::Feature(name) => write!(f, "io_uring: the kernel lacks the feature {name}"),
            Step::Operation(name) => write!(f, "io_uring: the kernel lacks the operation {name}"),
            Step::Enable => write!(f, "io_uring: cannot enable the ring: {}", self.source),
            Step::DescriptorTable => {
                write!(f, "io_uring: cannot register the table of connections: {}", self.source)
            }
            Step::Buffers => {
                write!(f, "io_uring: cannot register the receive buffers: {}", self.source)
            }
            Step::KernelWorkers => {
                write!(f, "io_uring: cannot limit the kernel's workers: {}", self.source)
            }
            Step::SelfTest(part) => {
                write!(f, "io_uring: the self-test failed at {part}: {}", self.source)
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What the hint depends on besides the errno.
struct Host {
    /// sysctl `kernel.io_uring_disabled` (Linux 6.6), `None` when the kernel has no such knob.
    io_uring_disabled: Option<u8>,
    /// A seccomp filter is active in this process.
    is_filtered: bool,
}

const NEEDS_6_1: &str = "Linux 6.1 or newer is needed (Debian 12, Ubuntu 24.04, RHEL 10)";
const SECCOMP: &str = "a seccomp filter forbids io_uring, as the default profile of Docker, \
     containerd and Kubernetes does: run with a profile that allows io_uring_setup, io_uring_enter \
     and io_uring_register";

/// EPERM has three causes: the sysctl at 2, the sysctl at 1 without the privilege, a seccomp
/// filter.
fn hint_of_refusal(host: &Host) -> &'static str {
    match host.io_uring_disabled {
        Some(2) => {
            "sysctl kernel.io_uring_disabled is 2, which forbids io_uring to everybody: set it to \
             0, or to 1 and run as a member of kernel.io_uring_group"
        }
        Some(1) => {
            "sysctl kernel.io_uring_disabled is 1: add the user's group as \
             kernel.io_uring_group, or set it to 0"
        }
        _ if host.is_filtered => SECCOMP,
        _ => {
            "io_uring is forbidden to this process, by a security module (SELinux, AppArmor) or by \
             a sandbox: its log says which rule"
        }
    }
}

/// Whether /proc/thread-self/status says that a seccomp filter (mode 2) is active.
fn is_filtered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

#[cfg(test)]
mod tests {
    use super::{Host, StartError, Step, is_filtered};

    fn check(step: Step, errno: i32, disabled: Option<u8>, filtered: bool, expected: &str) {
        let host = Host { io_uring_disabled: disabled, is_filtered: filtered };
        let hint = StartError::of_errno(step, errno).hint_on(&host);
        assert!(hint.contains(expected), "{step:?} {errno}: {hint}");
    }

    #[test]
    fn hints_name_the_knob() {
        check(Step::Setup, libc::EPERM, Some(2), true, "io_uring_disabled is 2");
        check(Step::Setup, libc::EPERM, Some(1), false, "io_uring_group");
        check(Step::Setup, libc::EPERM, Some(0), true, "seccomp");
        check(Step::Setup, libc::EPERM, None, true, "seccomp");
        check(Step::Setup, libc::EPERM, Some(0), false, "SELinux");
        check(Step::Setup, libc::ENOSYS, None, false, "built without");
        check(Step::Setup, libc::ENOSYS, None, true, "seccomp");
        check(Step::Setup, libc::EINVAL, Some(0), false, "6.1");
        check(Step::Setup, libc::ENOMEM, Some(0), false, "memlock");
        check(Step::DescriptorTable, libc::EMFILE, Some(0), false, "--max-connections");
        check(Step::Setup, libc::EMFILE, Some(0), false, "ulimit -n");
        check(Step::Setup, libc::EOPNOTSUPP, Some(0), false, "gVisor");
        check(Step::SelfTest("a receive"), libc::ETIME, Some(0), false, "within a second");
        check(Step::SelfTest("a receive"), libc::EIO, Some(0), false, "report");
        check(Step::Operation("send"), libc::EOPNOTSUPP, Some(0), false, "6.1");
        check(Step::Setup, libc::EIO, Some(0), false, "sysctl or seccomp");
    }

    #[test]
    fn says_step_and_errno_in_one_line() {
        let error = StartError::of_errno(Step::Setup, libc::EPERM);
        assert_eq!(
            error.to_string(),
            "io_uring: cannot create a ring: Operation not permitted (os error 1)"
        );
        assert!(!error.hint().contains('\n'));
    }

    #[test]
    fn reads_the_seccomp_mode() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t2\n"));
    }
}
