//! The control plane: everything around the walk of a request, nothing on it.
//!
//! [`run`] prepares, in this order, whatever can fail for the operator's reasons (log, interpreter,
//! runtime modules, limits, rings, listeners), then starts loops and workers, then serves
//! (`serve.rs`) on this one thread: the process's first, which runs tokio-uring's runtime and takes
//! all signals.
//!
//! | file | part |
//! |---|---|
//! | `interpreter.rs`, `runtime_dir.rs` | which Python, which native modules |
//! | `listeners.rs` | sockets to listen on |
//! | `memory.rs` | the exchange's segments |
//! | `loops.rs`, `heartbeat.rs` | event loops, and whether they still turn |
//! | `worker.rs`, `pool.rs`, `seat_blocks.rs`, `back_off.rs` | workers |
//! | `verdict.rs`, `crashes.rs` | why they end |
//! | `places.rs`, `renewal.rs`, `recycling.rs`, `generations.rs` | who replaces them, and when |
//! | `endings.rs` | what their end brings about |
//! | `preload.rs`, `fork_server.rs` | workers that are forked (`--preload`) |
//! | `events.rs`, `watched.rs` | signals, reports, children |
//! | `serve.rs` | the loop that acts on them |
//! | `scaling.rs`, `touched.rs` | the number of workers; files whose touch reloads |
//! | `access_log.rs`, `error_log.rs` | the two logs |
//! | `hooks.rs`, `facts.rs` | hooks of the server; what hooks and warm-up requests are told |
//! | `check.rs` | `--check` |
//! | `privileges.rs`, `socket_file.rs` | who the server runs as, and whose its socket files are |
//! | `standing.rs`, `pid_file.rs`, `title.rs`, `notify.rs` | what the system sees of the server |
//! | `upgrade.rs`, `predecessor.rs`, `successor.rs`, `handed_over.rs` | USR2 |
//! | `overdue.rs` | requests that run too long |
//! | `fault.rs` | why a server ends, and its exit code |
//!
//! Invariants: the server process never runs Python; one task owns all state; every thread but this
//! one blocks all signals.

pub mod access_log;
pub mod back_off;
mod check;
pub mod crashes;
pub mod endings;
pub mod error_log;
pub mod events;
pub mod facts;
pub mod fault;
pub mod fork_server;
pub mod generations;
pub mod handed_over;
pub mod heartbeat;
pub mod hooks;
pub mod interpreter;
pub mod listeners;
pub mod loops;
pub mod memory;
pub mod notify;
pub mod overdue;
pub mod pid_file;
pub mod places;
pub mod pool;
pub mod predecessor;
pub mod preload;
pub mod privileges;
pub mod recycling;
pub mod renewal;
pub mod runtime_dir;
pub mod scaling;
pub mod seat_blocks;
pub mod serve;
pub mod socket_file;
pub mod standing;
pub mod successor;
pub mod title;
mod touched;
pub mod upgrade;
pub mod verdict;
pub mod watched;
pub mod worker;

use std::io;
use std::sync::Arc;

use access_log::AccessLog;
use core_affinity::CoreId;
use events::{Event, Events};
use facts::ServerFacts;
use fault::{ExitCode, Fault};
use generations::Generations;
use handed_over::HandedOver;
use hooks::Hooks;
use interpreter::Interpreter;
use listeners::Listeners;
use loops::Loops;
use memory::PoolMemory;
use pool::Pool;
use predecessor::Predecessor;
use privileges::Privileges;
use scaling::Scaling;
use seat_blocks::SeatBlocks;
use serve::Supervisor;
use standing::Standing;
use upgrade::Invocation;
use worker::Recipe;

use crate::config::{
    Concurrency, Config, ConfigError, ControlPlace, CpuAffinity, Environment, LoopSettings,
};
use crate::control::place;
use crate::control::socket::ControlSocket;
use crate::event_loop;
use crate::sys::eventfd::EventFd;
use crate::sys::process::adopt_orphans;
use crate::sys::rlimit::{DescriptorLimit, raise_descriptor_limit};
use crate::sys::{signals, spool, worker_start};

/// Entries of the supervisor's own ring: it writes one log at a time.
const RING_ENTRIES: u32 = 8;

/// How this process came to be.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its environment.
    pub environment: &'a Environment,
    /// Its program and arguments.
    pub invocation: &'a Invocation,
    /// The server that it follows (USR2).
    pub predecessor: Option<&'a mut Predecessor>,
}

/// Runs a server, or the check of one, to its end.
///
/// # Errors
/// Why it did not start or could not go on.
pub fn run(config: &Config, start: Start<'_>, warnings: &[String]) -> Result<(), Fault> {
    let privileges = Privileges::find(config)?;
    privileges.give_log_files(config)?;
    {
        let _rights = privileges.for_files()?;
        error_log::open(config)?;
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let prepared = signals::unblock_all().and_then(|()| worker_start::reserve_control_descriptor());
    prepared.map_err(system_fault)?;
    let python = config.python.as_deref();
    let interpreter = Interpreter::find(python, start.environment, &privileges)?;
    tracing::info!("interpreter: {interpreter}, chosen by {}", interpreter.reason);
    let runtime_dir = runtime_dir::find(config.runtime_dir.as_deref(), &interpreter)?;
    let descriptor_limit = raise_descriptor_limit().map_err(system_fault)?;
    let facts = ServerFacts::default();
    let (interpreter, runtime_dir) = (&interpreter, runtime_dir.as_path());
    let recipe = Recipe { config, interpreter, runtime_dir, descriptor_limit, facts };
    let hooks = Hooks::start(&recipe, &privileges)?;
    if config.check {
        privileges.drop_for_good()?;
        run_check(recipe)
    } else {
        run_server(recipe, hooks, start, &privileges)
    }
}

fn run_check(recipe: Recipe<'_>) -> Result<(), Fault> {
    let concurrency = Concurrency {
        workers: 1,
        workers_range: (1, 1),
        workers_room: 1,
        threads: 1,
        event_loops: 1,
    };
    let settings = recipe.config.loop_settings(1, Vec::new());
    let blocks = SeatBlocks::new(1, 1);
    let bells = new_bells(1)?;
    let (memory, _ends) =
        PoolMemory::create(blocks.seats(), &settings, &bells, Generations::first())?;
    let pool = Pool::new(recipe, concurrency, blocks, memory, Vec::new());
    start_runtime()?.block_on(check::check(pool))
}

fn run_server(
    mut recipe: Recipe<'_>,
    mut hooks: Hooks<'_>,
    start: Start<'_>,
    privileges: &Privileges,
) -> Result<(), Fault> {
    let config = recipe.config;
    let limit = recipe.descriptor_limit;
    let mut standing = Standing::take(config, start.environment, start.invocation, limit);
    let environment = start.environment;
    let mut predecessor = start.predecessor;
    let is_following = predecessor.is_some();
    let mut handed_over =
        predecessor.as_mut().map_or_else(HandedOver::default, |other| other.take_sockets());
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let cores = cores(&config.cpu_affinity, &allowed)?;
    let usable = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let concurrency = config.concurrency(usable, !recipe.interpreter.has_one_lock)?;
    let listeners = Listeners::bind(config, concurrency.event_loops, privileges, &mut handed_over)?;
    let mut settings = config.loop_settings(concurrency.event_loops, listeners.facts());
    if config.startup.preload {
        adopt_orphans().map_err(system_fault)?;
    }
    recipe.facts = ServerFacts::of(listeners.urls(), &settings.listeners);
    hooks.introduce(&recipe.facts);
    fit_connections(&mut settings, recipe.descriptor_limit);
    let settings = Arc::new(settings);
    let rings = loops::prepare_rings(&settings)?;
    let runtime = start_runtime()?;
    // Root's rights end here, before there is a second thread or any of the user's code.
    privileges.drop_for_good()?;
    check_spool_dir(&settings)?;
    standing.bound(predecessor, handed_over.taken())?;
    drop(handed_over);

    let bells = new_bells(concurrency.event_loops)?;
    let blocks = SeatBlocks::new(concurrency.workers_room, concurrency.threads);
    let generations = Generations::first();
    let (memory, ends) = PoolMemory::create(blocks.seats(), &settings, &bells, generations)?;
    let reports_bell = EventFd::new().map_err(system_fault)?;
    let mut starts = Vec::new();
    for (bell, end) in bells.iter().zip(ends) {
        starts.push((bell.try_clone().map_err(system_fault)?, vec![end]));
    }
    let loops = Loops::start(rings, &settings, &listeners, starts, &reports_bell, &cores)?;
    let worker_cores = cores.iter().map(|core| core.id).collect();
    let pool = Pool::new(recipe, concurrency, blocks, memory, worker_cores);
    runtime.block_on(async {
        let (events, queue) = Events::queue();
        events.watch(reports_bell)?;
        standing.watch(&events).map_err(system_fault)?;
        // Said once signals are heeded: whoever waits for these lines may send one.
        for url in listeners.urls() {
            tracing::info!("listening on {url}");
        }
        let access_log = config.access_log.clone();
        let access_log = access_log.map(|(target, format)| AccessLog::open(target, format));
        touched::watch(&config.lifecycle.touch_files, &events);
        let control = open_control(config, environment, is_following, &events)?;
        let supervisor = Supervisor {
            config,
            settings: &settings,
            concurrency,
            loops,
            bells,
            listeners,
            pool,
            access_log: access_log.transpose()?,
            events,
            scaling: Scaling::new(concurrency),
            control,
            hooks,
            standing,
        };
        supervisor.serve(queue).await
    })
}

/// Binds the control socket and listens on it. One that nobody named may be missing: the server
/// serves without.
fn open_control(
    config: &Config,
    environment: &Environment,
    is_following: bool,
    events: &Events,
) -> Result<Option<ControlSocket>, Fault> {
    let place = &config.lifecycle.control;
    let opened = match place {
        ControlPlace::None => return Ok(None),
        // The server before this one answers there until it has handed over.
        ControlPlace::Path(path) if is_following => ControlSocket::bind_beside(path),
        ControlPlace::Path(path) => ControlSocket::bind(path),
        ControlPlace::Default => {
            let dir = place::default_dir(environment);
            place::prepare(&dir)
                .and_then(|()| ControlSocket::bind(&place::of_server(&dir, std::process::id())))
        }
    };
    let events = events.clone();
    let served = opened.and_then(|mut socket| {
        socket.serve(move |request, reply| events.tell(Event::Asked(request, reply)))?;
        Ok(socket)
    });
    match (served, place) {
        (Ok(socket), _) => {
            tracing::debug!("control socket: {}", socket.path().display());
            Ok(Some(socket))
        }
        (Err(error), ControlPlace::Path(path)) => Err(Fault::new(
            ExitCode::Configuration,
            format!("--control-socket {}: {error}", path.display()),
            "name a path in a folder that the server's user may write to, or `none`",
        )),
        (Err(error), _) => {
            tracing::warn!("no control socket: {error}; `ringhorn reload` needs --control-socket");
            Ok(None)
        }
    }
}

fn start_runtime() -> Result<tokio_uring::Runtime, Fault> {
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    tokio_uring::Runtime::new(&builder).map_err(|error| {
        Fault::new(
            ExitCode::IoUring,
            format!("the kernel refuses io_uring to the supervisor: {error}"),
            "allow io_uring (seccomp profile, sysctl kernel.io_uring_disabled=0) and locked memory",
        )
    })
}

/// Better now than at the first large body.
fn check_spool_dir(settings: &LoopSettings) -> Result<(), Fault> {
    if settings.body_spool_bytes == 0 {
        return Ok(());
    }
    let dir = &settings.spool_dir;
    spool::unlinked_file(dir).map(drop).map_err(|error| {
        Fault::new(
            ExitCode::Configuration,
            format!("--spool-dir: cannot make a file in {}: {error}", dir.display()),
            "name a folder that the server's user may write to, or say --body-spool-size 0",
        )
    })
}

fn new_bells(count: u32) -> Result<Vec<EventFd>, Fault> {
    (0..count).map(|_| EventFd::new()).collect::<io::Result<_>>().map_err(system_fault)
}

/// A table of direct descriptors is at most as large as the limit of open ones. It takes none of
/// them: connections leave spool files, logs and sockets of workers what there is.
fn fit_connections(settings: &mut LoopSettings, limit: DescriptorLimit) {
    let loops = u64::from(settings.event_loops);
    let own = settings.share(u64::from(settings.connections_max));
    let armed = u64::from(event_loop::connection_numbers(settings)).saturating_sub(own);
    let room = limit.hard.saturating_sub(armed).max(1);
    let most = u32::try_from(room.saturating_mul(loops)).unwrap_or(u32::MAX);
    if settings.connections_max > most {
        tracing::warn!(
            "--max-connections {} is lowered to {most}: raise the hard limit of open files \
             (ulimit -Hn, LimitNOFILE= in systemd)",
            settings.connections_max
        );
        settings.connections_max = most;
    }
}

/// The cores to pin to, in order; empty: no pinning.
fn cores(affinity: &CpuAffinity, allowed: &[CoreId]) -> Result<Vec<CoreId>, ConfigError> {
    let list = match affinity {
        CpuAffinity::None => return Ok(Vec::new()),
        CpuAffinity::Auto => return Ok(allowed.to_vec()),
        CpuAffinity::List(list) => list,
    };
    let allowed_core = |id: usize| allowed.iter().find(|core| core.id == id).copied();
    let core = |id: &usize| {
        allowed_core(*id).ok_or_else(|| {
            let ids: Vec<String> = allowed.iter().map(|core| core.id.to_string()).collect();
            ConfigError::new(
                format!("--cpu-affinity: core {id} may not be used by this process"),
                format!("usable are {}", ids.join(",")),
            )
        })
    };
    list.iter().map(core).collect()
}

fn system_fault(error: io::Error) -> Fault {
    Fault::new(
        ExitCode::Runtime,
        format!("the system refuses: {error}"),
        "check the limits of open files, processes and memory",
    )
}
