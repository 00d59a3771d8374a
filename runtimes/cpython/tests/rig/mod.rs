//! A worker process under a hand-driven loop end: what a test needs of supervisor and event loop.
//!
//! It starts a real interpreter by the bootstrap's command line, shakes hands, and plays the event
//! loop's part of the exchange without sockets: a request goes in as variables and body, a response
//! comes out as the bytes for the wire.
//!
//! The runtime folder is RINGHORN_RUNTIME_DIR or `target/runtime` (`make build` fills it), the
//! interpreter PYTHON or `python3`, the kind of native module RINGHORN_RUNTIME or `auto`.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringhorn_exchange::control::{ControlSocket, FromWorker, Received, Setup, Stop, ToWorker};
use ringhorn_exchange::{
    BodyEnd, Geometry, KeyId, LoopEnd, MethodId, Protocol, RecordFlags, RecordStart, ResponseEnd,
    SeatTable, SlotIndex, Wake, WorkerSeats,
};
use tempfile::TempDir;

pub const TIMEOUT: Duration = Duration::from_secs(20);

pub struct Rig {
    pub loop_end: LoopEnd,
    pub control: ControlSocket,
    pub child: Child,
    pub folder: TempDir,
    bell: OwnedFd,
}

/// What a request says; `..Request::get("/")` fills the rest.
#[derive(Clone)]
pub struct Request {
    pub protocol: Protocol,
    pub method: &'static str,
    pub path: String,
    pub content_length: Option<u64>,
    pub https: bool,
    pub more: Vec<(&'static str, Vec<u8>)>,
    pub body: Vec<u8>,
    pub body_end: BodyEnd,
}

impl Request {
    pub fn get(path: &str) -> Request {
        Request {
            protocol: Protocol::Http11,
            method: "GET",
            path: path.to_owned(),
            content_length: Some(0),
            https: false,
            more: Vec::new(),
            body: Vec::new(),
            body_end: BodyEnd::Complete,
        }
    }

    pub fn post(path: &str, body: &[u8]) -> Request {
        Request {
            method: "POST",
            content_length: Some(body.len() as u64),
            body: body.to_vec(),
            ..Request::get(path)
        }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Response {
    pub head: String,
    pub body: Vec<u8>,
    pub end: ResponseEnd,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap_or("0").parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

pub fn runtime_dir() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/runtime");
    let folder = std::env::var_os("RINGHORN_RUNTIME_DIR").map_or(default, PathBuf::from);
    assert!(folder.join("_bootstrap.py").exists(), "{folder:?} is empty: run `make build` first");
    folder.canonicalize().unwrap()
}

/// The bootstrap's one-liner, from its docstring, so that the two cannot drift apart.
fn boot_line(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("_bootstrap.py")).unwrap();
    let from = text.find("    import sys;").unwrap();
    let to = text.find("RUNTIME_DIR  absolute").unwrap();
    text[from..to].lines().map(str::trim).collect()
}

impl Rig {
    /// Starts a worker of `application.py` with this source; panics unless it gets READY.
    pub fn start(source: &str, threads: u16) -> Rig {
        let (rig, answer) = Rig::try_start(source, "application", threads);
        assert!(matches!(answer, FromWorker::Ready(_)), "{answer:?}");
        rig
    }

    /// As `start`, with any answer.
    pub fn try_start(source: &str, application: &str, threads: u16) -> (Rig, FromWorker) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("application.py"), source).unwrap();
        let seats = Arc::new(SeatTable::create(u32::from(threads)).unwrap());
        // SAFETY: a fresh eventfd, owned by nobody else.
        let bell = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) };
        let geometry = Geometry {
            slots: 64,
            seats: u32::from(threads),
            request_ring_bytes: 128 * 1024,
            response_ring_bytes: 64 * 1024,
            large_rings: 2,
            large_ring_bytes: 128 * 1024,
        };
        let mut loop_end =
            LoopEnd::create(0, geometry, Arc::clone(&seats), bell.try_clone().unwrap()).unwrap();
        loop_end.set_generations(1, 1);
        let (control, theirs) = ControlSocket::pair().unwrap();
        let child = spawn(folder.path(), theirs);
        let Received::Message(FromWorker::Hello(hello), _) = control.receive().unwrap() else {
            panic!("no hello");
        };
        assert!(hello.is_compatible());
        let setup = Setup {
            application: application.to_owned(),
            chdir: Some(folder.path().to_str().unwrap().to_owned()),
            threads,
            generation: 1,
            worker: 1,
            loops: 1,
            paired_loop: Some(0),
            server_software: "ringhorn/test".to_owned(),
            ..Setup::default()
        };
        let descriptors = loop_end.descriptors();
        let sent = [seats.descriptor(), descriptors.down, descriptors.up, descriptors.bell];
        control.send(&ToWorker::Setup(Box::new(setup)), &sent).unwrap();
        let Received::Message(answer, _) = control.receive().unwrap() else {
            panic!("the worker died before READY");
        };
        if matches!(answer, FromWorker::Ready(_)) {
            loop_end.worker_joined(WorkerSeats {
                worker: 1,
                seats: 0..threads,
                generation: 1,
                one_lock: true,
                paired: true,
            });
        }
        (Rig { loop_end, control, child, folder, bell }, answer)
    }

    /// Queues a request and wakes a seat; body bytes that do not fit at once follow in `finish`.
    pub fn submit(&mut self, request: &Request) -> (SlotIndex, usize) {
        let slot = self.fill(request);
        let written = self.feed(slot, &request.body, request.body_end);
        self.enqueue(slot);
        (slot, written)
    }

    /// Queues a request whose body never comes.
    pub fn submit_without_body(&mut self, request: &Request) -> SlotIndex {
        let slot = self.fill(request);
        self.enqueue(slot);
        slot
    }

    /// Returns when a seat has the request.
    pub fn wait_for_claim(&mut self, slot: SlotIndex) {
        let deadline = Instant::now() + TIMEOUT;
        while self.loop_end.progress(slot).unwrap().claimed_by.is_none() {
            assert!(Instant::now() < deadline, "nobody claims the request");
            std::thread::yield_now();
        }
    }

    fn enqueue(&mut self, slot: SlotIndex) {
        self.loop_end.enqueue(slot, 1).unwrap();
        self.loop_end.wake_one(Wake::Fresh);
    }

    fn fill(&mut self, request: &Request) -> SlotIndex {
        let slot = self.loop_end.reserve().expect("a free slot");
        let mut record = self.loop_end.record(slot);
        record.begin(RecordStart {
            protocol: request.protocol,
            method: MethodId::of(request.method.as_bytes()),
            flags: RecordFlags {
                https: request.https,
                head_method: request.method == "HEAD",
                body_gathered: true,
                keep_alive: true,
            },
            content_length: request.content_length,
        });
        record.known(KeyId::REQUEST_METHOD, request.method.as_bytes());
        record.known(KeyId::PATH_INFO, request.path.as_bytes());
        record.known(KeyId::QUERY_STRING, b"");
        record.known(KeyId::SERVER_NAME, b"example.org");
        record.known(KeyId::SERVER_PORT, b"8000");
        record.known(KeyId::SERVER_PROTOCOL, b"HTTP/1.1");
        record.known(KeyId::REMOTE_ADDR, b"127.0.0.1");
        record.known(KeyId::REQUEST_ID, b"0123456789abcdef");
        for (name, value) in &request.more {
            match KeyId::of_environ(name.as_bytes()) {
                Some(key) => record.known(key, value),
                None => record.named(name.as_bytes(), value),
            }
        }
        if let Some(length) = request.content_length.filter(|&length| length > 0) {
            record.known(KeyId::CONTENT_LENGTH, length.to_string().as_bytes());
        }
        record.finish().unwrap();
        slot
    }

    fn feed(&mut self, slot: SlotIndex, body: &[u8], end: BodyEnd) -> usize {
        let mut written = 0;
        while written < body.len() {
            match self.loop_end.write_body(slot, &body[written..]).unwrap() {
                0 => return written,
                more => written += more,
            }
        }
        self.loop_end.finish_body(slot, end);
        written
    }

    /// Drives one submitted request to its end.
    pub fn finish(&mut self, slot: SlotIndex, request: &Request, mut written: usize) -> Response {
        let deadline = Instant::now() + TIMEOUT;
        let mut wire = Vec::new();
        let mut head_bytes = None;
        let mut fed = written == request.body.len();
        loop {
            assert!(
                Instant::now() < deadline,
                "no answer; so far {:?}",
                String::from_utf8_lossy(&wire)
            );
            self.loop_end.sweep(&mut Vec::new());
            let progress = self.loop_end.progress(slot).unwrap();
            if let Some(statement) = progress.statement {
                head_bytes = Some(statement.head_bytes as usize);
            }
            self.take(slot, &mut wire);
            if !fed && progress.end.is_none() {
                written += self.feed(slot, &request.body[written..], request.body_end);
                fed = written == request.body.len();
            }
            if let Some(end) = progress.end {
                self.take(slot, &mut wire);
                self.loop_end.release(slot).unwrap();
                let body = wire.split_off(head_bytes.unwrap_or(0).min(wire.len()));
                let head = wire.iter().map(|&byte| char::from(byte)).collect();
                return Response { head, body, end };
            }
            self.sleep();
        }
    }

    pub fn take(&mut self, slot: SlotIndex, wire: &mut Vec<u8>) {
        let before = wire.len();
        for piece in self.loop_end.unsent(slot) {
            if piece.length > 0 {
                // SAFETY: the piece lies in the slot's response ring, valid until `sent` gives it
                // back.
                wire.extend_from_slice(unsafe {
                    std::slice::from_raw_parts(piece.pointer, piece.length)
                });
            }
        }
        let taken = wire.len() - before;
        if taken > 0 {
            self.loop_end.sent(slot, taken);
        }
    }

    /// Waits for the bell as a loop does, at most 50 ms.
    pub fn sleep(&mut self) {
        if self.loop_end.prepare_sleep().unwrap() {
            let mut entry =
                libc::pollfd { fd: self.bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, alive through the call.
            unsafe { libc::poll(&mut entry, 1, 50) };
            self.loop_end.awake();
        }
        let mut count = [0u8; 8];
        // SAFETY: reads 8 bytes into `count`; an empty eventfd fails with EAGAIN, which is fine.
        unsafe { libc::read(self.bell.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }

    /// One request from start to end.
    pub fn ask(&mut self, request: &Request) -> Response {
        let (slot, written) = self.submit(request);
        self.finish(slot, request, written)
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.ask(&Request::get(path))
    }

    /// Asks the worker to stop and returns its exit code and what it wrote to stderr.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.control.send(&ToWorker::Stop(Stop { graceful: true }), &[]).unwrap();
        self.wait()
    }

    pub fn wait(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the worker does not end");
            std::thread::yield_now();
        };
        let mut log = String::new();
        fs::File::open(self.folder.path().join("log")).unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- worker's log ---\n{}", self.log());
        }
    }
}

fn spawn(folder: &Path, control: ControlSocket) -> Child {
    let runtime = runtime_dir();
    let log = fs::File::create(folder.join("log")).unwrap();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let control = control.into_descriptor();
    let number = control.as_raw_fd();
    let kind = std::env::var("RINGHORN_RUNTIME").unwrap_or_else(|_| "auto".to_owned());
    let mut command = Command::new(python);
    command.args(["-X", "faulthandler", "-c", &boot_line(&runtime)]);
    command.arg(&runtime).arg("3").arg(kind).current_dir(folder);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    // SAFETY: only dup2 and fcntl between fork and exec, both async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if number == 3 {
                libc::fcntl(3, libc::F_SETFD, 0);
            } else if libc::dup2(number, 3) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    drop(control);
    child
}
