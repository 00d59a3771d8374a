//! The start of an event loop's thread.
//!
//! Where it stands in the walk of a request: before it. The supervisor prepares everything that can
//! fail for the operator's reasons (the ring, listeners, the exchange) and hands it over here.
//!
//! Invariants: the ring is enabled by the thread that uses it (SINGLE_ISSUER); nothing of a loop is
//! shared but its counters and its two channels.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender};
use ringhorn_exchange::LoopEnd;

use super::EventLoop;
use super::accept::{ACCEPTS_ARMED, Listener};
use super::deadlines::TimerWheel;
use super::messages::{Command, Readiness, Report};
use super::overdue::Orphans;
use super::state::{Budget, Mode, Pool, RequestIds, State};
use super::table::Table;
use crate::config::LoopSettings;
use crate::driver::Driver;
use crate::driver::uring::PreparedUring;
use crate::metrics::LoopCounters;
use crate::sys::clock;
use crate::sys::eventfd::EventFd;

/// What a loop is started with.
#[derive(Debug)]
pub struct LoopSetup {
    /// Its number, from 0.
    pub index: u16,
    /// What was configured.
    pub settings: Arc<LoopSettings>,
    /// Its own descriptors of the listeners, in the order of `settings.listeners`.
    pub listeners: Vec<OwnedFd>,
    /// Its end of each pool's exchange.
    pub pools: Vec<LoopEnd>,
    /// The eventfd that wakes it.
    pub bell: EventFd,
    /// The eventfd that wakes the supervisor when it reported something that waits.
    pub reports_bell: EventFd,
    /// What the supervisor asks; each command is followed by a ring of `bell`.
    pub commands: Receiver<Command>,
    /// What it tells the supervisor.
    pub reports: Sender<Report>,
    /// What it counts.
    pub counters: Arc<LoopCounters>,
    /// The core it is pinned to.
    pub core: Option<CoreId>,
}

/// How many numbers (direct descriptors) a loop needs: its share of the connections and the armed
/// accepts.
pub fn connection_numbers(settings: &LoopSettings) -> u32 {
    let connections = settings.share(u64::from(settings.connections_max));
    let armed = settings.listeners.len() as u64 * u64::from(ACCEPTS_ARMED);
    u32::try_from(connections + armed).unwrap_or(u32::MAX)
}

/// Starts the loop's thread.
///
/// # Errors
/// The thread could not be started. What fails later comes as [`Report::Failed`]. However the
/// thread ends, the report channel is closed then and the supervisor rung.
pub fn start(setup: LoopSetup, ring: PreparedUring) -> io::Result<JoinHandle<()>> {
    let name = format!("event-loop-{}", setup.index);
    let last_ring = LastRing(setup.reports_bell.try_clone()?);
    std::thread::Builder::new().name(name).spawn(move || {
        // Dropped last: behind the loop and both senders of its channel.
        let _last_ring = last_ring;
        let (index, reports) = (setup.index, setup.reports.clone());
        if let Err(error) = run(setup, ring) {
            // The channel is the only way to say it; were it full for so long, the supervisor still
            // sees the thread end.
            let _ = reports.send_timeout(Report::Failed { event_loop: index, error }, LAST_WORDS);
        }
    })
}

/// How long the last report waits for room.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Wakes the supervisor when the thread ends, whatever ends it.
struct LastRing(EventFd);

impl Drop for LastRing {
    fn drop(&mut self) {
        // A bell that cannot be rung is nobody's any more; the supervisor's next heartbeat looks.
        let _ = self.0.ring();
    }
}

fn run(setup: LoopSetup, ring: PreparedUring) -> io::Result<()> {
    if let Some(core) = setup.core
        && !core_affinity::set_for_current(core)
    {
        return Err(io::Error::other(format!("cannot pin the event loop to core {}", core.id)));
    }
    let driver = ring.enable().map_err(|error| io::Error::other(error.to_string()))?;
    let mut event_loop = EventLoop::new(setup, driver, clock::now_ns)?;
    event_loop.run()
}

impl<D: Driver> EventLoop<D> {
    /// A loop over any driver, by any clock (monotonic nanoseconds).
    ///
    /// # Errors
    /// The driver refuses a listener or the bell.
    pub fn new(setup: LoopSetup, mut driver: D, clock: fn() -> u64) -> io::Result<EventLoop<D>> {
        let mut listeners = Vec::new();
        for listener in &setup.listeners {
            let driver_number = driver.add_listener(listener.as_fd())?;
            let (armed, paused_until_ns, is_removed) = (0, 0, false);
            listeners.push(Listener { driver_number, armed, paused_until_ns, is_removed });
        }
        driver.watch_bell(setup.bell.as_fd())?;
        let reports_bell = setup.reports_bell.try_clone()?;
        Ok(EventLoop {
            driver,
            state: state(setup, clock()),
            listeners,
            completions: Vec::new(),
            due: Vec::new(),
            reports_bell,
            last_accept_ns: 0,
            drain_began_ns: 0,
            drain_ends_ns: 0,
            pause_ends_ns: None,
            is_disarmed: false,
            leaves_backlog: false,
            has_closed_idle: false,
            has_refused_rest: false,
            has_drained: false,
            is_fresh: true,
            requests_seen: 0,
            pages_next_ns: 0,
            pages_until_ns: 0,
            clock,
        })
    }
}

fn state(setup: LoopSetup, now_ns: u64) -> State {
    let settings = setup.settings;
    let inflight_max = settings.share(u64::from(settings.inflight_max));
    State {
        index: setup.index,
        connections_max: usize::try_from(settings.share(u64::from(settings.connections_max)))
            .unwrap_or(usize::MAX),
        table: Table::new(connection_numbers(&settings) as usize),
        wheel: TimerWheel::new(now_ns),
        pools: setup.pools.into_iter().map(|end| Pool::new(end, 0)).collect(),
        retired_pools: Vec::new(),
        news: Vec::new(),
        unsent_reports: VecDeque::new(),
        incident_second: 0,
        incidents_this_second: 0,
        intents: VecDeque::new(),
        ready: VecDeque::new(),
        starving: VecDeque::new(),
        stalled: VecDeque::new(),
        memory: Budget::new(settings.share(settings.buffer_memory_bytes_max)),
        disk: Budget::new(settings.share(settings.spool_disk_bytes_max)),
        inflight: 0,
        inflight_max: u32::try_from(inflight_max).unwrap_or(u32::MAX),
        // Health is told before anybody can be served; other requests wait in the queue.
        mode: if settings.health.is_asked_for() { Mode::Open } else { Mode::Closed },
        readiness: Readiness::default(),
        now_ns,
        commands: setup.commands,
        reports: setup.reports,
        counters: setup.counters,
        orphans: Orphans::default(),
        request_ids: RequestIds::new(nonce(), setup.index),
        scratch: Vec::new(),
        settings,
    }
}

/// Tells this boot's request ids from another's. The standard library's hasher keys are random.
fn nonce() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}
