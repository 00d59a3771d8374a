//! What the driver costs per request: system calls, entries, completions and CPU time of its
//! thread.
//!
//! `cargo bench --bench driver [-- ROUNDS REQUESTS]` (5 and 20,000 unless said). A thread of
//! clients talks over Unix sockets to the smallest loop that answers 200 bytes to 500. Variants run
//! in turns, so that drift hits all alike; the medians are printed. `docs/io_uring.md` holds the
//! figures.
//!
//! CPU time is the loop thread's own, from `/proc/thread-self/schedstat`, user and system: it
//! includes the kernel's work on the sockets that happens in that thread.

#![allow(clippy::print_stdout, reason = "figures are what this program is for")]

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use ringhorn::driver::uring::{UringConfig, UringDriver};
use ringhorn::driver::{After, Completion, Counters, Driver, Kind, Piece, Token};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

static REQUEST: [u8; 500] = [b'q'; 500];
static REPLY: [u8; 200] = [b'a'; 200];
const PIECES: usize = 120;

/// One way to do it.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    clients: usize,
    is_kept_alive: bool,
    accepts: usize,
    register: bool,
    two_pieces: bool,
    /// A close of its own behind the send, instead of a linked one.
    separate_close: bool,
    poll_first: bool,
}

const ONE_SHOT: Variant = Variant {
    name: "connection per request",
    clients: 64,
    is_kept_alive: false,
    accepts: 4,
    register: true,
    two_pieces: false,
    separate_close: false,
    poll_first: true,
};

const KEPT: Variant = Variant { name: "kept alive", is_kept_alive: true, ..ONE_SHOT };

fn variants() -> Vec<Variant> {
    vec![
        ONE_SHOT,
        Variant { name: "- one client", clients: 1, ..ONE_SHOT },
        Variant { name: "- 1 accept armed", accepts: 1, ..ONE_SHOT },
        Variant { name: "- 16 accepts armed", accepts: 16, ..ONE_SHOT },
        Variant { name: "- two pieces (SendMsg)", two_pieces: true, ..ONE_SHOT },
        Variant { name: "- close not linked", separate_close: true, ..ONE_SHOT },
        Variant { name: "- ring descriptor not registered", register: false, ..ONE_SHOT },
        KEPT,
        Variant { name: "- one client", clients: 1, ..KEPT },
        Variant { name: "- two pieces (SendMsg)", two_pieces: true, ..KEPT },
        Variant { name: "- without POLL_FIRST", poll_first: false, ..KEPT },
        Variant { name: "- ring descriptor not registered", register: false, ..KEPT },
        Variant { name: "- one client, not registered", clients: 1, register: false, ..KEPT },
    ]
}

/// What a run cost, per request.
#[derive(Clone, Copy, Default)]
struct Cost {
    enters: f64,
    entries: f64,
    completions: f64,
    cpu_us: f64,
}

fn main() -> Outcome<()> {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<usize>().ok());
    let rounds = numbers.next().unwrap_or(5);
    let requests = numbers.next().unwrap_or(20_000);
    let variants = variants();
    let mut costs = vec![Vec::new(); variants.len()];
    for _ in 0..rounds {
        for (variant, costs) in variants.iter().zip(&mut costs) {
            costs.push(run(variant, requests)?);
        }
    }
    println!("{rounds} rounds of {requests} requests; medians per request (CPU: min .. max)");
    println!("{:<34} {:>7} {:>7} {:>7} {:>8}", "", "enters", "SQEs", "CQEs", "CPU us");
    for (variant, costs) in variants.iter().zip(&costs) {
        let of = |part: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = costs.iter().map(part).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        };
        let (cpu, least, most) = of(|cost| cost.cpu_us);
        println!(
            "{:<34} {:>7.3} {:>7.3} {:>7.3} {cpu:>8.2}  ({least:.2} .. {most:.2})",
            variant.name,
            of(|cost| cost.enters).0,
            of(|cost| cost.entries).0,
            of(|cost| cost.completions).0,
        );
    }
    Ok(())
}

fn run(variant: &Variant, requests: usize) -> Outcome<Cost> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path)?;
    let mut server = Server::new(*variant, &listener)?;
    let clients = *variant;
    let driver = std::thread::spawn(move || drive(&clients, &path, requests));
    // The first tenth warms up.
    server.serve(requests / 10)?;
    let (before, cpu_before) = (*server.driver.counters(), cpu_ns()?);
    let served = server.served;
    server.serve(requests - server.served)?;
    let (after, cpu_after) = (*server.driver.counters(), cpu_ns()?);
    let count = (server.served - served) as f64;
    while !driver.is_finished() || server.open > 0 {
        server.turn(Some(Duration::from_millis(10)))?;
    }
    driver.join().map_err(|_| "the clients panicked")??;
    let per = |part: fn(&Counters) -> u64| (part(&after) - part(&before)) as f64 / count;
    Ok(Cost {
        enters: per(|counters| counters.enters),
        entries: per(|counters| counters.submitted),
        completions: per(|counters| counters.completed),
        cpu_us: (cpu_after - cpu_before) as f64 / 1000.0 / count,
    })
}

/// The clients: all send, then all wait for their answers.
fn drive(variant: &Variant, path: &Path, requests: usize) -> Outcome<()> {
    let mut answer = [0; REPLY.len()];
    let mut kept = Vec::new();
    for _ in 0..if variant.is_kept_alive { variant.clients } else { 0 } {
        kept.push(UnixStream::connect(path)?);
    }
    for _ in 0..requests.div_ceil(variant.clients) {
        if variant.is_kept_alive {
            for client in &mut kept {
                client.write_all(&REQUEST)?;
            }
            for client in &mut kept {
                client.read_exact(&mut answer)?;
            }
            continue;
        }
        let mut clients = Vec::with_capacity(variant.clients);
        for _ in 0..variant.clients {
            let mut client = UnixStream::connect(path)?;
            client.write_all(&REQUEST)?;
            clients.push(client);
        }
        for client in &mut clients {
            client.read_exact(&mut answer)?;
            if client.read(&mut answer)? != 0 {
                return Err("more than an answer".into());
            }
        }
    }
    Ok(())
}

/// The smallest loop.
struct Server {
    driver: UringDriver,
    variant: Variant,
    free: Vec<u32>,
    taken: Vec<usize>,
    open: usize,
    served: usize,
    completions: Vec<Completion>,
}

impl Server {
    fn new(variant: Variant, listener: &UnixListener) -> Outcome<Server> {
        let connections = (variant.clients * 2 + variant.accepts) as u32;
        let config = UringConfig {
            register_own_descriptor: variant.register,
            ..UringConfig::for_connections(connections)
        };
        let mut driver = UringDriver::prepare(&config)?.enable()?;
        driver.add_listener(listener.as_fd())?;
        let mut server = Server {
            driver,
            variant,
            free: (0..connections).rev().collect(),
            taken: vec![0; connections as usize],
            open: 0,
            served: 0,
            completions: Vec::new(),
        };
        (0..variant.accepts).for_each(|_| server.accept());
        Ok(server)
    }

    fn accept(&mut self) {
        if let Some(connection) = self.free.pop() {
            self.driver.accept(0, Token { connection, generation: 0 });
        }
    }

    fn serve(&mut self, requests: usize) -> Outcome<()> {
        let goal = self.served + requests;
        while self.served < goal {
            self.turn(None)?;
        }
        Ok(())
    }

    fn turn(&mut self, wait: Option<Duration>) -> Outcome<()> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        self.driver.turn(wait, &mut completions)?;
        for completion in &completions {
            self.act(*completion)?;
        }
        self.completions = completions;
        Ok(())
    }

    fn act(&mut self, completion: Completion) -> Outcome<()> {
        let token = completion.token;
        let index = token.connection as usize;
        match (completion.kind, completion.result) {
            (Kind::Accepted, 0) => {
                self.open += 1;
                self.accept();
            }
            (Kind::Received, 0) => self.driver.close(token),
            (Kind::Received, bytes @ 1..) => {
                let buffer = completion.buffer.ok_or("no buffer")?;
                self.driver.recycle(buffer);
                self.taken[index] += bytes as usize;
                if self.taken[index] < REQUEST.len() {
                    self.driver.recv(token, false);
                } else {
                    self.taken[index] = 0;
                    self.answer(token);
                }
            }
            (Kind::Sent, _) => {
                self.served += 1;
                if self.variant.separate_close {
                    self.driver.close(token);
                } else {
                    self.driver.recv(token, self.variant.poll_first);
                }
            }
            (Kind::Closed, _) => {
                let is_linked = !self.variant.is_kept_alive && !self.variant.separate_close;
                self.served += usize::from(is_linked);
                self.open -= 1;
                self.free.push(token.connection);
            }
            _ => return Err(format!("unexpected: {completion:?}").into()),
        }
        Ok(())
    }

    fn answer(&mut self, token: Token) {
        let cut = if self.variant.two_pieces { PIECES } else { REPLY.len() };
        let pieces = [&REPLY[..cut], &REPLY[cut..]]
            .map(|bytes| Piece { pointer: bytes.as_ptr(), length: bytes.len() });
        let keeps = self.variant.is_kept_alive || self.variant.separate_close;
        let after = if keeps { After::Keep } else { After::Close };
        // SAFETY: the reply is static.
        unsafe { self.driver.send(token, pieces, after) }
    }
}

/// CPU time of this thread so far.
fn cpu_ns() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("an empty schedstat")?.parse()?)
}
