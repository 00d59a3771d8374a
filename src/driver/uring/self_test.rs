//! Proof at start that this kernel's ring does what the data plane relies on.
//!
//! Stands before the walk of a request: the supervisor runs it once, before a worker is started,
//! and ends with the error and its hint when it fails. A ring that can be made is not yet one that
//! works: sandboxes emulate a part, old kernels lack a flag.
//!
//! It walks one request: accept linked to a receive into a provided buffer, a send of two pieces
//! hard-linked to a close, a poll on the bell. Invariant: it ends within [`DEADLINE`] and leaves
//! nothing.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{StartError, Step, UringConfig, UringDriver};
use crate::driver::{After, Completion, Driver, Kind, Piece, Token};
use crate::sys::eventfd::EventFd;

/// How long all of it may take; microseconds are usual.
const DEADLINE: Duration = Duration::from_secs(1);

const TOKEN: Token = Token { connection: 0, generation: 1 };
const BELL: Token = Token { connection: 0, generation: 0 };

/// Makes a ring of the given sizes in the calling thread, serves one request with it and drops it.
///
/// # Errors
/// The step that failed and the kernel's answer; [`StartError::hint`] says what to do.
pub fn self_test(config: &UringConfig) -> Result<(), StartError> {
    let driver = UringDriver::prepare(config)?.enable()?;
    let mut test = Test { driver, seen: Vec::new(), deadline: Instant::now() + DEADLINE };
    test.serve_one_request()
}

struct Test {
    driver: UringDriver,
    seen: Vec<Completion>,
    deadline: Instant,
}

impl Test {
    fn serve_one_request(&mut self) -> Result<(), StartError> {
        let at = |part| move |error| StartError::new(Step::SelfTest(part), error);
        let listener = listen().map_err(at("a Unix listener"))?;
        let number = self.driver.add_listener(listener.as_fd()).map_err(at("a direct listener"))?;
        self.driver.accept(number, TOKEN);

        let mut client = connect(&listener).map_err(at("a connection to itself"))?;
        client.write_all(b"question").map_err(at("the client's request"))?;
        let accepted = self.wait("an accept into a chosen slot", Kind::Accepted, TOKEN)?;
        check("an accept into a chosen slot", accepted.result == 0, accepted.result)?;

        let part = "a receive into a provided buffer";
        let received = self.wait(part, Kind::Received, TOKEN)?;
        let buffer = received.buffer.filter(|_| received.result == 8);
        let Some(buffer) = buffer else { return check(part, false, received.result) };
        check(part, self.driver.buffer(buffer, 8) == b"question", 0)?;
        self.driver.recycle(buffer);

        let part = "a send linked to a close";
        let pieces = [&b"two "[..], &b"pieces"[..]]
            .map(|bytes| Piece { pointer: bytes.as_ptr(), length: bytes.len() });
        // SAFETY: the pieces are static.
        unsafe { self.driver.send(TOKEN, pieces, After::Close) };
        let closed = self.wait(part, Kind::Closed, TOKEN)?;
        check(part, closed.result == 10, closed.result)?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).map_err(at("the client's answer"))?;
        check("the client's answer", answer == b"two pieces", 0)?;

        let bell = EventFd::new().map_err(at("an eventfd"))?;
        self.driver.watch_bell(bell.as_fd()).map_err(at("an eventfd"))?;
        for _ in 0..2 {
            bell.ring().map_err(at("an eventfd"))?;
            let rung = self.wait("a poll on an eventfd", Kind::Bell, BELL)?;
            check("a poll on an eventfd", rung.result > 0, rung.result)?;
        }
        Ok(())
    }

    /// Turns until this completion has come.
    fn wait(
        &mut self,
        part: &'static str,
        kind: Kind,
        token: Token,
    ) -> Result<Completion, StartError> {
        loop {
            let wanted = |c: &Completion| c.kind == kind && c.token == token;
            if let Some(index) = self.seen.iter().position(wanted) {
                return Ok(self.seen.remove(index));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            check(part, !left.is_zero(), -libc::ETIME)?;
            self.driver
                .turn(Some(left), &mut self.seen)
                .map_err(|error| StartError::new(Step::SelfTest(part), error))?;
        }
    }
}

/// Fails with the negative errno in `result`, or with EIO when the result is only not the expected
/// one.
fn check(part: &'static str, is_right: bool, result: i32) -> Result<(), StartError> {
    if is_right {
        return Ok(());
    }
    let errno = if result < 0 { -result } else { libc::EIO };
    Err(StartError::of_errno(Step::SelfTest(part), errno))
}

/// A listener at an abstract address that the kernel chooses: no file, no collision.
fn listen() -> io::Result<Socket> {
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listener.bind(&SockAddr::unix("")?)?;
    listener.listen(1)?;
    Ok(listener)
}

fn connect(listener: &Socket) -> io::Result<UnixStream> {
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    client.connect(&listener.local_addr()?)?;
    client.set_read_timeout(Some(DEADLINE))?;
    client.set_write_timeout(Some(DEADLINE))?;
    Ok(client.into())
}

#[cfg(test)]
mod tests {
    use super::{StartError, Step, UringConfig, self_test};

    #[test]
    fn passes_on_this_kernel_and_leaves_nothing() {
        let config = UringConfig::for_connections(64);
        for _ in 0..20 {
            self_test(&config).unwrap();
        }
    }

    #[test]
    fn a_table_beyond_the_descriptor_limit_is_refused_with_its_knob() {
        let error = self_test(&UringConfig::for_connections(u32::MAX >> 8)).unwrap_err();
        let StartError { step: Step::DescriptorTable, .. } = &error else {
            panic!("{error}");
        };
        assert!(error.hint().contains("--max-connections"), "{}", error.hint());
    }

    /// The answer of Docker's default profile, from a filter that binds this thread only.
    #[test]
    fn a_seccomp_filter_is_named() {
        forbid_rings_to_this_thread(libc::EPERM);
        let error = self_test(&UringConfig::for_connections(4)).unwrap_err();
        assert_eq!((error.step, error.source.raw_os_error()), (Step::Setup, Some(libc::EPERM)));
        let is_sysctl_open = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .map_or(true, |text| text.trim() == "0");
        assert_eq!(error.hint().contains("seccomp"), is_sysctl_open, "{}", error.hint());
    }

    /// Makes io_uring_setup fail with `errno` in this thread.
    fn forbid_rings_to_this_thread(errno: i32) {
        let code = |code: u32| code as u16;
        let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        let refusal = libc::SECCOMP_RET_ERRNO | errno as u32;
        let mut program = [
            // The system call's number is the first word.
            step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0),
            libc::sock_filter {
                code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
                jt: 0,
                jf: 1,
                k: libc::SYS_io_uring_setup as u32,
            },
            step(code(libc::BPF_RET | libc::BPF_K), refusal),
            step(code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the kernel copies the program during the call; both calls bind this thread only.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
            ]
        };
        assert_eq!(results, [0, 0], "{}", std::io::Error::last_os_error());
    }
}
