//! One loop over the simulated driver, one worker seat in the same thread, virtual time.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use ringhorn_exchange::{
    BodyRead, Claim, Geometry, Key, KeyId, LoopDescriptorsOwned, LoopEnd, ResponseEnd, Seat,
    SeatTable, Tenure, WorkerEnd, WorkerSeats, WriteError,
};

use crate::config::{
    AddressSet, HeadLimits, HealthPaths, ListenerFacts, ListenerProtocol, LoopSettings,
};
use crate::driver::sim::{Sim, SimClient, SimConfig, SimDriver};
use crate::event_loop::messages::{Command, Readiness, Report};
use crate::event_loop::{EventLoop, LoopSetup};
use crate::metrics::LoopCounters;
use crate::sys::eventfd::EventFd;

/// The HTTP listener's number.
pub const HTTP: usize = 0;
/// The uwsgi listener's number.
pub const UWSGI: usize = 1;
/// Virtual time starts here: no phase clock may be 0.
const EPOCH_NS: u64 = 1_000_000_000;

thread_local! {
    static NOW_NS: Cell<u64> = const { Cell::new(EPOCH_NS) };
}

fn now_ns() -> u64 {
    NOW_NS.get()
}

/// Everything a play needs.
pub struct Stage {
    pub event_loop: EventLoop<SimDriver>,
    pub sim: Sim,
    pub commands: Sender<Command>,
    pub reports: Receiver<Report>,
    pub counters: Arc<LoopCounters>,
    seats: Arc<SeatTable>,
    seat: Seat,
    jobs: Vec<Job>,
    /// Quiet turns after which nothing is on its way: in storms what is late comes later. Each lets
    /// virtual time pass.
    quiet_turns_max: u32,
    /// The worker answers nothing while this is set.
    pub is_worker_asleep: bool,
    /// Every request claimed so far.
    tenures: Vec<Tenure>,
}

/// A request that the worker has in hand.
struct Job {
    claim: Claim,
    path: String,
    body: Vec<u8>,
    is_broken: bool,
    reply: Option<Vec<u8>>,
    written: usize,
    is_begun: bool,
    hangs: bool,
}

/// The settings of most plays.
pub fn settings() -> LoopSettings {
    let listener = |protocol| ListenerFacts {
        protocol,
        is_unix: true,
        server_name: "localhost".into(),
        server_port: "80".into(),
    };
    LoopSettings {
        event_loops: 1,
        head_limits: HeadLimits {
            line_bytes: 8190,
            fields: 100,
            field_bytes: 16_384,
            head_bytes: 65_536,
        },
        body_bytes_max: 0,
        keep_alive_timeout: Duration::from_secs(75),
        header_timeout: Duration::from_secs(30),
        body_timeout: Duration::from_secs(30),
        send_timeout: Duration::from_secs(30),
        inflight_max: 16,
        queue_timeout: None,
        timeout: None,
        interrupt_grace: Duration::from_secs(2),
        slow_request_log: None,
        cancel_on_disconnect: false,
        connections_max: 32,
        body_buffer_bytes: 64 << 10,
        body_spool_bytes: 1 << 20,
        response_buffer_bytes: 1 << 20,
        buffer_memory_bytes_max: 8 << 20,
        spool_disk_bytes_max: 8 << 20,
        spool_dir: std::env::temp_dir(),
        forwarded_allow: AddressSet::default(),
        uwsgi_allow: AddressSet::default(),
        health: HealthPaths::default(),
        listeners: vec![listener(ListenerProtocol::Http), listener(ListenerProtocol::Uwsgi)],
        access: None,
    }
}

impl Stage {
    /// No faults but those the play asks for.
    pub fn calm() -> Stage {
        Stage::new(settings(), SimConfig::calm(64))
    }

    pub fn new(settings: LoopSettings, config: SimConfig) -> Stage {
        NOW_NS.set(EPOCH_NS);
        let (driver, sim) = SimDriver::new(config);
        sim.on_clock(|now| NOW_NS.set(EPOCH_NS + now));
        // Quiet turns must not run ahead of the play to the next deadline.
        sim.nap_at_most(Duration::from_millis(100));
        let seats = Arc::new(SeatTable::create(4).unwrap());
        let bell = EventFd::new().unwrap();
        let geometry = Geometry {
            slots: 32,
            seats: 4,
            request_ring_bytes: 128 << 10,
            response_ring_bytes: 64 << 10,
            large_rings: 2,
            large_ring_bytes: 128 << 10,
        };
        let mut end = LoopEnd::create(0, geometry, Arc::clone(&seats), owned(&bell)).unwrap();
        end.set_generations(1, 1);
        end.worker_joined(WorkerSeats {
            worker: 1,
            seats: 0..1,
            generation: 1,
            one_lock: true,
            paired: true,
        });
        let mut seat = attach(&end, &seats, 0);
        seat.set_clock(now_ns);
        let (commands, commands_in) = bounded(16);
        let (reports_out, reports) = bounded(1024);
        let counters = Arc::new(LoopCounters::default());
        let setup = LoopSetup {
            index: 0,
            listeners: settings.listeners.iter().map(|_| owned(&bell)).collect(),
            settings: Arc::new(settings),
            pools: vec![end],
            bell,
            reports_bell: EventFd::new().unwrap(),
            commands: commands_in,
            reports: reports_out,
            counters: Arc::clone(&counters),
            core: None,
        };
        let event_loop = EventLoop::new(setup, driver, now_ns).unwrap();
        let ready = Readiness { workers: 1, is_stopping: false };
        commands.send(Command::Readiness(ready)).unwrap();
        commands.send(Command::OpenAccepts).unwrap();
        let mut stage = Stage {
            event_loop,
            sim,
            commands,
            reports,
            counters,
            seats,
            seat,
            jobs: Vec::new(),
            quiet_turns_max: if config.late_turns > 0 { 20 } else { 1 },
            is_worker_asleep: false,
            tenures: Vec::new(),
        };
        stage.settle();
        stage
    }

    /// A seat of another worker, asleep: it serves the first request that it is woken for and says
    /// which one that was.
    pub fn sleeper(&mut self) -> JoinHandle<String> {
        let end = &mut self.event_loop.state.pools[0].end;
        end.worker_joined(WorkerSeats {
            worker: 2,
            seats: 1..2,
            generation: 1,
            one_lock: true,
            paired: false,
        });
        let mut seat = attach(end, &self.seats, 1);
        let thread = std::thread::spawn(move || {
            let claim = loop {
                seat.wait_for_work(None);
                if let Some(claim) = seat.try_claim() {
                    break claim;
                }
            };
            let mut job = Job::new(claim);
            while !matches!(job.step(), Step::Ends(_)) {}
            job.claim.finish(ResponseEnd::Complete);
            seat.ring_deferred();
            job.path
        });
        while end.idle_seats() == 0 {
            std::thread::yield_now();
        }
        thread
    }

    /// A client connects to the HTTP listener and sends.
    pub fn http(&self, bytes: &[u8]) -> SimClient {
        self.sim.connect(HTTP, bytes)
    }

    /// Turns loop and worker until only a client or time could make a difference.
    pub fn settle(&mut self) {
        let mut quiet_turns = 0;
        for _ in 0..20_000 {
            self.sim.advance(Duration::from_micros(1));
            self.event_loop.turn().unwrap();
            let worked = self.work();
            quiet_turns = if self.sim.is_quiet() && !worked { quiet_turns + 1 } else { 0 };
            if quiet_turns > self.quiet_turns_max {
                return;
            }
        }
        panic!("never quiet");
    }

    /// Lets time pass, turn by turn.
    pub fn pass(&mut self, time: Duration) {
        let until = NOW_NS.get() + time.as_nanos() as u64;
        while NOW_NS.get() < until {
            self.sim.advance(Duration::from_millis(100));
            self.event_loop.turn().unwrap();
            self.work();
        }
        self.settle();
    }

    /// The supervisor says something.
    pub fn command(&mut self, command: Command) {
        self.commands.send(command).unwrap();
        self.sim.ring_bell();
        self.settle();
    }

    /// Ends the play: everything closed, nothing left behind in driver, table or exchange.
    pub fn finish(mut self) {
        self.commands.send(Command::Drain { within: Duration::from_secs(1) }).unwrap();
        self.sim.ring_bell();
        self.is_worker_asleep = false;
        self.pass(Duration::from_secs(6));
        assert!(self.jobs.is_empty(), "the worker still holds requests");
        let drained = self.reports.try_iter().any(|r| matches!(r, Report::Drained { .. }));
        assert!(drained, "the loop did not drain: {:#?}", self.event_loop.state);
        let counts = self.event_loop.state.pools[0].end.counts();
        assert_eq!((counts.reserved, counts.queued, counts.running), (0, 0, 0), "{counts:?}");
        assert_eq!(counts.quarantined, 0, "{counts:?}");
        assert_eq!(self.event_loop.state.inflight, 0);
        assert!(self.event_loop.state.memory.is_unused(), "buffer memory not given back");
        assert!(self.event_loop.state.disk.is_unused(), "spool space not given back");
        self.sim.finish();
    }

    /// Ends `/hang` for those that are in it.
    pub fn let_go(&mut self) {
        self.jobs.iter_mut().for_each(|job| job.hangs = false);
    }

    /// Whether the client of each request in the worker's hands left, as the application is told.
    pub fn clients_left(&self) -> Vec<bool> {
        self.jobs.iter().map(|job| job.claim.has_client_left()).collect()
    }

    /// Every request claimed so far.
    pub fn tenures(&self) -> &[Tenure] {
        &self.tenures
    }

    /// Lets the worker go on with what it has and claim what there is; whether anything moved.
    pub fn work(&mut self) -> bool {
        if self.is_worker_asleep {
            return false;
        }
        let mut moved = false;
        while let Some(claim) = self.seat.try_claim() {
            self.tenures.push(claim.tenure());
            self.jobs.push(Job::new(claim));
            moved = true;
        }
        let mut index = 0;
        while index < self.jobs.len() {
            match self.jobs[index].step() {
                Step::Waits => index += 1,
                Step::Moved => moved = true,
                Step::Ends(end) => {
                    let job = self.jobs.remove(index);
                    job.claim.finish(end);
                    moved = true;
                }
            }
        }
        self.seat.ring_deferred();
        moved
    }
}

enum Step {
    Waits,
    Moved,
    Ends(ResponseEnd),
}

impl Job {
    fn new(claim: Claim) -> Job {
        let path = variable(&claim, KeyId::PATH_INFO);
        Job {
            claim,
            hangs: path.starts_with("/hang"),
            path,
            body: Vec::new(),
            is_broken: false,
            reply: None,
            written: 0,
            is_begun: false,
        }
    }

    /// `/echo`: the body. `/big/N`: N bytes. `/cut/N`: states N bytes, sends N/2.
    /// `/environ/A/B`: the values of A and B. `/until-close`:
    /// no length. `/early`: the reply's first bytes before the body is read. `/deaf`: a reply, the
    /// body unread. `/hang`: nothing until it is let go; `/hang/after/bytes`: after the first
    /// bytes. Anything else: what the worker saw of the request.
    fn step(&mut self) -> Step {
        if self.path == "/early" && !self.is_begun {
            self.is_begun = true;
            let writer = self.claim.writer();
            writer.begin_head(b"200 OK").unwrap();
            writer.write(b"early ").unwrap();
            writer.flush();
            return Step::Moved;
        }
        if self.path == "/hang/after/bytes" && !self.is_begun {
            self.is_begun = true;
            let writer = self.claim.writer();
            writer.begin_head(b"200 OK").unwrap();
            writer.write(b"bytes ").unwrap();
            writer.flush();
            return Step::Moved;
        }
        if self.hangs {
            return Step::Waits;
        }
        if self.path == "/deaf" && self.reply.is_none() {
            return self.begin();
        }
        if self.reply.is_none() {
            let mut piece = [0; 4096];
            match self.claim.read_body(&mut piece) {
                BodyRead::Bytes(bytes) => {
                    self.body.extend_from_slice(&piece[..bytes]);
                    return Step::Moved;
                }
                BodyRead::Pending if self.claim.is_abandoned() => {
                    return Step::Ends(ResponseEnd::Broken);
                }
                BodyRead::Pending => return Step::Waits,
                BodyRead::Broken => self.is_broken = true,
                BodyRead::End => {}
            }
            return self.begin();
        }
        self.write()
    }

    fn begin(&mut self) -> Step {
        let reply = match self.path.split('/').collect::<Vec<_>>()[..] {
            ["", "echo"] => std::mem::take(&mut self.body),
            ["", "big" | "cut" | "endless", bytes] => vec![b'x'; bytes.parse().unwrap()],
            ["", "environ", ..] => environ(&self.claim, &self.path).into_bytes(),
            _ => format!(
                "path={} query={} length={} body={} broken={}",
                self.path,
                variable(&self.claim, KeyId::QUERY_STRING),
                variable(&self.claim, KeyId::CONTENT_LENGTH),
                self.body.len(),
                self.is_broken,
            )
            .into_bytes(),
        };
        let states_length = !self.path.starts_with("/endless");
        let is_cut = self.path.starts_with("/cut");
        if self.is_begun {
            self.reply = Some(reply);
            return Step::Moved;
        }
        let writer = self.claim.writer();
        writer.begin_head(b"200 OK").unwrap();
        if states_length {
            let length = reply.len().to_string();
            writer.header(b"Content-Length", length.as_bytes()).unwrap();
        }
        let sent = if is_cut { reply[..reply.len() / 2].to_vec() } else { reply };
        self.reply = Some(sent);
        Step::Moved
    }

    fn write(&mut self) -> Step {
        let reply = self.reply.as_deref().unwrap_or_default();
        let writer = self.claim.writer();
        if self.written == reply.len() {
            return Step::Ends(ResponseEnd::Complete);
        }
        match writer.write(&reply[self.written..]) {
            // The ring is full, or a large one was asked for: the loop must hear of it.
            Ok(0) => {
                writer.flush();
                Step::Waits
            }
            Ok(bytes) => {
                self.written += bytes;
                writer.flush();
                Step::Moved
            }
            Err(WriteError::Abandoned) => Step::Ends(ResponseEnd::Broken),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The values of the variables that the path names, each followed by `|`.
fn environ(claim: &Claim, path: &str) -> String {
    let value_of = |name: &str| {
        let named = |key: Key<'_>| match key {
            Key::Known(id) => id.name() == name,
            Key::Named(bytes) => bytes == name.as_bytes(),
        };
        let values: Vec<_> = claim.variables().filter(|v| named(v.key)).map(|v| v.value).collect();
        assert_eq!(values.len(), 1, "{name} is there once");
        String::from_utf8_lossy(values[0]).into_owned() + "|"
    };
    path.split('/').skip(2).map(value_of).collect()
}

fn variable(claim: &Claim, key: KeyId) -> String {
    let found = claim.variables().find(|variable| variable.key == Key::Known(key));
    found.map_or_else(|| "-".into(), |v| String::from_utf8_lossy(v.value).into_owned())
}

fn attach(end: &LoopEnd, seats: &SeatTable, number: u16) -> Seat {
    let descriptors = end.descriptors();
    let loops = vec![LoopDescriptorsOwned {
        down: descriptors.down.try_clone_to_owned().unwrap(),
        up: descriptors.up.try_clone_to_owned().unwrap(),
        bell: descriptors.bell.try_clone_to_owned().unwrap(),
    }];
    let seats = seats.descriptor().try_clone_to_owned().unwrap();
    Arc::new(WorkerEnd::attach(loops, seats, 1).unwrap()).seat(number, Some(0))
}

fn owned(bell: &EventFd) -> OwnedFd {
    use std::os::fd::AsFd as _;
    bell.as_fd().try_clone_to_owned().unwrap()
}

/// A uwsgi packet of these variables.
pub fn packet(variables: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in variables {
        for part in [key, value] {
            body.extend_from_slice(&(part.len() as u16).to_le_bytes());
            body.extend_from_slice(part.as_bytes());
        }
    }
    let mut packet = vec![0];
    packet.extend_from_slice(&(body.len() as u16).to_le_bytes());
    packet.push(0);
    packet.extend_from_slice(&body);
    packet
}

/// Status, head and body of the first response in `bytes`, and the rest.
pub fn response(bytes: &[u8]) -> (u16, String, Vec<u8>, Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    let end = text.find("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}")) + 4;
    let head = text[..end].to_string();
    let status = head[9..12].parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.map_or(bytes.len() - end, |length| length.parse().unwrap());
    let body = bytes[end..].iter().take(length).copied().collect();
    (status, head, body, bytes[(end + length).min(bytes.len())..].to_vec())
}
