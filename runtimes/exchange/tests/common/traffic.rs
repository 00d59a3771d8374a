//! Requests that can be told apart to the last byte, and the two programs that exchange them: a
//! worker process (this test binary again, its control socket as standard input) and an event loop
//! in small.
//!
//! Every request has a number; all bytes of its body and of its response follow from that number,
//! so a byte delivered to the wrong request is seen.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringhorn_exchange::control::{
    ControlSocket, FromWorker, Hello, Ready, Received, Setup, ToWorker,
};
use ringhorn_exchange::{
    BodyEnd, BodyRead, Claim, Geometry, Impossible, LoopDescriptorsOwned, LoopEnd, MethodId,
    Progress, Protocol, RecordFlags, RecordStart, RequestWake, ResponseEnd, Seat, SeatTable,
    SlotIndex, StatedBody, WAITED_NS, Wake, Withdrawal, WorkWake, WorkerEnd, WorkerSeats,
};

use super::{KeyId, bell};

/// Names the program that a child of the test binary runs.
pub const PROGRAM: &str = "RINGHORN_TEST_PROGRAM";

/// A small generator (xorshift64*): tests repeat with a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A few bytes with a stated length.
    Small,
    /// A response larger than its ring, chunked.
    Download,
    /// A body larger than its ring, read whole before a small answer.
    Upload,
    /// A body sent back piece by piece, with a stated length.
    Echo,
}

const KINDS: [Kind; 4] = [Kind::Small, Kind::Download, Kind::Upload, Kind::Echo];

/// A request as both sides derive it from its number.
#[derive(Clone, Copy, Debug)]
struct Plan {
    number: u64,
    kind: Kind,
    /// Bytes of the request's body.
    body: usize,
    /// Bytes of the response's body.
    response: usize,
}

impl Plan {
    fn of(number: u64) -> Plan {
        let mut dice = Dice::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Half of all requests are small.
        let kind = KINDS[(dice.below(6) as usize).saturating_sub(2)];
        let large = 1 + dice.below(40_000) as usize;
        let (body, response) = match kind {
            Kind::Small => (0, 200),
            Kind::Download => (0, large),
            Kind::Upload => (large, 64),
            Kind::Echo => (large, large),
        };
        Plan { number, kind, body, response }
    }

    /// Fills a piece of the body or the response that starts at `at`.
    fn fill(&self, at: usize, piece: &mut [u8]) {
        for (offset, byte) in piece.iter_mut().enumerate() {
            *byte = self.byte(at + offset);
        }
    }

    fn byte(&self, at: usize) -> u8 {
        let mixed = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64 / 8);
        (mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> (8 * (at as u64 % 8))) as u8
    }

    fn check(&self, at: usize, piece: &[u8], what: &str) {
        for (offset, &byte) in piece.iter().enumerate() {
            assert_eq!(
                byte,
                self.byte(at + offset),
                "{what} of request {}: {at}+{offset}",
                self.number
            );
        }
    }
}

// ---- the worker's program

/// Attaches, serves on `threads` seats, ends when the control socket does or says stop.
pub fn run_worker() {
    let (socket, setup, end) = attach();
    let end = Arc::new(end);
    for number in setup.first_seat..setup.first_seat + setup.threads {
        let seat = end.seat(number, Some(0));
        std::thread::spawn(move || serve(seat));
    }
    let ready = Ready { threads: setup.threads, one_lock: false };
    socket.send(&FromWorker::Ready(ready), &[]).unwrap();
    // A stop or the end of the socket: nothing is in hand that anybody waits for.
    let _ = socket.receive::<ToWorker>();
    std::process::exit(0);
}

/// Greets and attaches; standard input is the control socket.
pub fn attach() -> (ControlSocket, Setup, WorkerEnd) {
    let descriptor = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let socket = ControlSocket::from_descriptor(descriptor).unwrap();
    let hello = Hello::of_this_build("rust".into(), "0".into());
    socket.send(&FromWorker::Hello(hello), &[]).unwrap();
    let Ok(Received::Message(ToWorker::Setup(setup), descriptors)) = socket.receive() else {
        // The server stopped before this worker was set up.
        std::process::exit(0);
    };
    let mut descriptors = descriptors.into_iter();
    let seats = descriptors.next().unwrap();
    let loops = (0..setup.loops)
        .map(|_| LoopDescriptorsOwned {
            down: descriptors.next().unwrap(),
            up: descriptors.next().unwrap(),
            bell: descriptors.next().unwrap(),
        })
        .collect();
    let end = WorkerEnd::attach(loops, seats, setup.generation).unwrap();
    (socket, *setup, end)
}

fn serve(mut seat: Seat) {
    loop {
        while let Some(claim) = seat.try_claim() {
            answer(claim);
        }
        if seat.wait_for_work(None) == WorkWake::Stop {
            return;
        }
    }
}

/// Answers one request by its plan. A request that was given up ends where it is.
fn answer(mut claim: Claim) {
    let path = super::path_of(&claim);
    let plan = Plan::of(path.trim_start_matches('/').parse().unwrap());
    let head = claim.writer();
    head.begin_head(b"200 OK").unwrap();
    head.header(b"X-Number", path.as_bytes()).unwrap();
    if plan.kind != Kind::Download {
        head.header(b"Content-Length", plan.response.to_string().as_bytes()).unwrap();
    }
    if write_response(&mut claim, &plan).is_some() {
        claim.finish(ResponseEnd::Complete);
    }
}

/// `None`: the request was given up.
fn write_response(claim: &mut Claim, plan: &Plan) -> Option<()> {
    let (mut read, mut into) = (0, [0; 3000]);
    while read < plan.body {
        match claim.read_body(&mut into) {
            BodyRead::Bytes(bytes) => {
                plan.check(read, &into[..bytes], "body");
                if plan.kind == Kind::Echo {
                    put(claim, &into[..bytes])?;
                    claim.writer().flush();
                }
                read += bytes;
            }
            BodyRead::Pending => match claim.wait_for_body() {
                RequestWake::Ready => {}
                RequestWake::Cancelled | RequestWake::Stop => return None,
            },
            BodyRead::Broken => return None,
            BodyRead::End => panic!("request {} ends at {read} of {}", plan.number, plan.body),
        }
    }
    // The end may come a moment after the last byte.
    while plan.body > 0 && claim.read_body(&mut into) != BodyRead::End {
        if claim.wait_for_body() != RequestWake::Ready {
            return None;
        }
    }
    let mut at = if plan.kind == Kind::Echo { plan.response } else { 0 };
    while at < plan.response {
        let bytes = into.len().min(plan.response - at);
        plan.fill(at, &mut into[..bytes]);
        put(claim, &into[..bytes])?;
        at += bytes;
    }
    Some(())
}

fn put(claim: &mut Claim, mut piece: &[u8]) -> Option<()> {
    while !piece.is_empty() {
        let taken = claim.writer().write(piece).ok()?;
        piece = &piece[taken..];
        if taken == 0 && claim.writer().wait_for_room() != RequestWake::Ready {
            return None;
        }
    }
    Some(())
}

// ---- the server's side

/// A worker process.
pub struct Worker {
    pub number: u32,
    pub child: Child,
    pub socket: ControlSocket,
    pub first_seat: u16,
    pub is_ready: bool,
    /// When it is to be killed, once it is ready.
    pub doomed_at: Option<Instant>,
}

/// What went through a loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub whole: u64,
    pub withdrawn: u64,
    pub given_up: u64,
    pub lost_with_worker: u64,
    pub impossible: u64,
}

/// One request on its way.
struct Flight {
    plan: Plan,
    since: Instant,
    /// Request body bytes written.
    written: usize,
    /// Response bytes taken, as they would go on the wire.
    wire: Vec<u8>,
}

/// An event loop in small for one pool: no sockets, everything else.
pub struct MiniLoop {
    pub end: LoopEnd,
    pub seats: Arc<SeatTable>,
    bell: OwnedFd,
    flights: HashMap<SlotIndex, Flight>,
    dice: Dice,
    next_number: u64,
    news: Vec<SlotIndex>,
    pub tally: Tally,
    /// Requests kept in flight.
    pub load: usize,
    /// Whether requests are now and then withdrawn and given up.
    pub is_rough: bool,
    /// Whether the bytes that arrive are checked: not where a worker of the pool runs wild.
    pub is_checked: bool,
    waited_at_ns: u64,
}

/// Longest a request may take: beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

impl MiniLoop {
    pub fn new(geometry: Geometry, seed: u64) -> MiniLoop {
        let seats = Arc::new(SeatTable::create(geometry.seats).unwrap());
        let bell = bell();
        let shared = bell.try_clone().unwrap();
        let mut end = LoopEnd::create(0, geometry, Arc::clone(&seats), shared).unwrap();
        end.set_generations(1, 1);
        MiniLoop {
            end,
            seats,
            bell,
            flights: HashMap::new(),
            dice: Dice::new(seed),
            next_number: seed << 20,
            news: Vec::new(),
            tally: Tally::default(),
            load: 0,
            is_rough: false,
            is_checked: true,
            waited_at_ns: 0,
        }
    }

    /// Starts a worker process that runs `program`, a test of this binary.
    pub fn spawn(&mut self, number: u32, first_seat: u16, threads: u16, program: &str) -> Worker {
        self.end.worker_joined(WorkerSeats {
            worker: number,
            seats: first_seat..first_seat + threads,
            generation: 1,
            one_lock: false,
            paired: true,
        });
        let (socket, theirs) = ControlSocket::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", program, "--nocapture", "--quiet"])
            .env(PROGRAM, program)
            .stdin(Stdio::from(theirs.into_descriptor()))
            .stdout(Stdio::null())
            // Beside a worker that runs wild an honest one may well fail; that is not worth a line.
            .stderr(if self.is_checked { Stdio::inherit() } else { Stdio::null() })
            .spawn()
            .unwrap();
        let setup = Setup {
            threads,
            first_seat,
            generation: 1,
            worker: number,
            loops: 1,
            ..Setup::default()
        };
        let own = self.end.descriptors();
        let descriptors = [self.seats.descriptor(), own.down, own.up, own.bell];
        // Sent ahead: it waits in the socket until the worker has greeted.
        socket.send(&ToWorker::Setup(Box::new(setup)), &descriptors).unwrap();
        socket.set_nonblocking(true).unwrap();
        Worker { number, child, socket, first_seat, is_ready: false, doomed_at: None }
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// One turn: fill up, wake, sleep, sweep, act. At most `wait` asleep.
    pub fn turn(&mut self, wait: Duration) -> Result<(), Impossible> {
        while self.flights.len() < self.load {
            if !self.start_request()? {
                break;
            }
        }
        self.sleep(wait)?;
        let mut news = std::mem::take(&mut self.news);
        news.clear();
        self.end.sweep(&mut news);
        for &slot in &news {
            if self.flights.contains_key(&slot) {
                self.pump(slot)?;
            }
        }
        self.news = news;
        if self.is_rough && self.dice.below(8) == 0 {
            self.disturb()?;
        }
        self.look_for_hangs();
        Ok(())
    }

    fn start_request(&mut self) -> Result<bool, Impossible> {
        let Some(slot) = self.end.reserve() else { return Ok(false) };
        let plan = Plan::of(self.next_number);
        self.next_number += 1;
        let mut record = self.end.record(slot);
        record.begin(RecordStart {
            protocol: Protocol::Http11,
            method: MethodId::Post,
            flags: RecordFlags { keep_alive: true, ..RecordFlags::default() },
            content_length: Some(plan.body as u64),
        });
        record.known(KeyId::PATH_INFO, format!("/{}", plan.number).as_bytes());
        record.finish().unwrap();
        let flight = Flight { plan, since: Instant::now(), written: 0, wire: Vec::new() };
        self.flights.insert(slot, flight);
        self.feed(slot)?;
        if self.end.enqueue(slot, now_ns()).is_err() {
            self.end.cancel_reservation(slot);
            self.flights.remove(&slot);
            return Ok(false);
        }
        self.end.wake_one(Wake::Fresh);
        Ok(true)
    }

    /// Writes as much of the request's body as fits: until the ring takes less than it is given,
    /// since only then is there news of room.
    fn feed(&mut self, slot: SlotIndex) -> Result<(), Impossible> {
        let Some(flight) = self.flights.get_mut(&slot) else { return Ok(()) };
        while flight.written < flight.plan.body {
            let mut piece = vec![0; (flight.plan.body - flight.written).min(9000)];
            flight.plan.fill(flight.written, &mut piece);
            let taken = self.end.write_body(slot, &piece)?;
            flight.written += taken;
            if taken < piece.len() {
                return Ok(());
            }
        }
        if flight.written == flight.plan.body {
            self.end.finish_body(slot, BodyEnd::Complete);
            // Beyond the body: nothing more to feed.
            flight.written += 1;
        }
        Ok(())
    }

    fn sleep(&mut self, wait: Duration) -> Result<(), Impossible> {
        let mut wait = wait;
        if !self.end.queue_is_empty()? {
            let now = now_ns();
            let waited = now - self.end.oldest_queued_ns().unwrap_or(now).min(now);
            if waited >= WAITED_NS && now - self.waited_at_ns >= WAITED_NS {
                self.waited_at_ns = now;
                self.end.wake_one(Wake::Waited);
            }
            wait = wait.min(Duration::from_nanos(WAITED_NS));
        }
        if self.end.prepare_sleep()? {
            wait_for_bell(&self.bell, wait);
        }
        self.end.awake();
        Ok(())
    }

    /// Looks at a slot: sends, feeds, ends.
    fn pump(&mut self, slot: SlotIndex) -> Result<(), Impossible> {
        let progress = self.end.progress(slot)?;
        if progress.unsent > 0 {
            let Some(flight) = self.flights.get_mut(&slot) else { return Ok(()) };
            // Sometimes in two goes, with the kernel's hold played.
            let bytes = match self.dice.below(3) {
                0 => 1 + self.dice.below(progress.unsent as u64) as usize,
                _ => progress.unsent,
            };
            self.end.kernel_holds(slot);
            self.end.copy_unsent(slot, bytes, &mut flight.wire);
            self.end.kernel_released(slot);
            self.end.sent(slot, bytes);
            if bytes < progress.unsent {
                return self.pump(slot);
            }
        }
        if progress.end.is_none() {
            if progress.body_room > 0 {
                self.feed(slot)?;
            }
            return Ok(());
        }
        let Some(flight) = self.flights.remove(&slot) else { return Ok(()) };
        if self.is_checked {
            flight.check_whole(&progress);
        }
        self.end.release(slot)?;
        self.tally.whole += 1;
        Ok(())
    }

    /// A client leaves or a deadline passes: some request is withdrawn or given up.
    fn disturb(&mut self) -> Result<(), Impossible> {
        let which = self.dice.below(self.flights.len().max(1) as u64) as usize;
        let Some(&slot) = self.flights.keys().nth(which) else { return Ok(()) };
        if self.end.withdraw(slot)? == Withdrawal::Withdrawn {
            self.tally.withdrawn += 1;
        } else {
            self.end.abandon(slot)?;
            self.end.release(slot)?;
            self.tally.given_up += 1;
        }
        self.flights.remove(&slot);
        Ok(())
    }

    /// A worker is dead and reaped.
    pub fn note_death(&mut self, worker: u32) -> Result<(), Impossible> {
        let mut owned = Vec::new();
        for dead in [None, Some(worker)] {
            if let Some(worker) = dead {
                self.end.worker_died(worker, &mut owned)?;
            }
            let mut news = Vec::new();
            self.end.sweep(&mut news);
            for slot in news {
                if self.flights.contains_key(&slot) {
                    self.pump(slot)?;
                }
            }
        }
        for slot in owned {
            let flight = self.flights.remove(&slot).expect("a slot that is in flight");
            if self.is_checked {
                flight.check_beginning();
            }
            self.end.release(slot)?;
            self.tally.lost_with_worker += 1;
        }
        Ok(())
    }

    fn look_for_hangs(&self) {
        for (slot, flight) in &self.flights {
            assert!(
                flight.since.elapsed() < PATIENCE,
                "{:?} in slot {slot} hangs: {} body bytes written, {} response bytes taken, {:?}",
                flight.plan,
                flight.written,
                flight.wire.len(),
                self.end.counts()
            );
        }
    }

    /// Takes no new requests and waits for those in flight.
    pub fn run_dry(&mut self) -> Result<(), Impossible> {
        self.load = 0;
        self.is_rough = false;
        while !self.flights.is_empty() {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }
}

impl Flight {
    /// The response is the right one, to the last byte.
    fn check_whole(&self, progress: &Progress) {
        assert_eq!(progress.end, Some(ResponseEnd::Complete), "{:?} broke", self.plan);
        let statement = progress.statement.expect("a complete response has a statement");
        self.check_beginning();
        let body = &self.wire[statement.head_bytes as usize..];
        let body = match statement.body {
            StatedBody::Chunked => unchunk(body),
            _ => body.to_vec(),
        };
        assert_eq!(body.len(), self.plan.response, "{:?}", self.plan);
        self.plan.check(0, &body, "response");
    }

    /// What there is of the response belongs to this request.
    fn check_beginning(&self) {
        let number = format!("X-Number: /{}\r\n", self.plan.number);
        let text = String::from_utf8_lossy(&self.wire);
        assert!(self.wire.is_empty() || text.contains(&number), "{:?} got {text}", self.plan);
    }
}

/// Decodes a whole chunked body.
pub fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        bytes = &bytes[line + 2..];
        body.extend_from_slice(&bytes[..size]);
        assert_eq!(&bytes[size..size + 2], b"\r\n");
        bytes = &bytes[size + 2..];
        if size == 0 {
            assert!(bytes.is_empty());
            return body;
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps until the bell rings, at most `wait`, and empties its counter.
fn wait_for_bell(bell: &OwnedFd, wait: Duration) {
    let mut poll = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::timespec {
        tv_sec: wait.as_secs() as libc::time_t,
        tv_nsec: wait.subsec_nanos().into(),
    };
    // SAFETY: one pollfd and one timespec, both alive for the call.
    let ready = unsafe { libc::ppoll(&mut poll, 1, &time, std::ptr::null()) };
    if ready > 0 {
        let mut counter = [0u8; 8];
        let mut file = std::fs::File::from(bell.try_clone().unwrap());
        let _ = file.read(&mut counter);
    }
}

/// Writes a line that shows even when the test harness captures output.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
