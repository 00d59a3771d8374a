//! Requests that are looked at or interrupted from outside: their stack is logged, an exception is
//! raised in their thread.
//!
//! Beside the walk of a request: the event loop keeps the deadlines, and its wish arrives on the
//! control socket. Two native threads carry it out:
//!
//! - The control thread ([`Watcher`]) never needs the GIL. It keeps the time: a request whose stack
//!   could not be had because native code holds the GIL gets it dumped by a signal to its thread
//!   ([`LOCK_PATIENCE`]); one that has not unwound in its grace is reported to the server as stuck;
//!   a worker that is to stop ends at once when nothing but stuck requests are left in it.
//! - `ringhorn-interrupt`, started at the first wish, takes the GIL, has the stack written, and
//!   raises.
//!
//! Invariants:
//! - Only the request that is meant is ever interrupted: the exception is made pending while the
//!   seat cannot pull another (`ringhorn_exchange::Running`), and the seat takes back what is still
//!   pending before it pulls ([`SeatNote::end`]).
//! - `--slow-request-log` touches nothing: no exception, no signal, however long the GIL is held.
//! - The exception is raised before the log is written: the log may block.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use ringhorn_exchange::control::{ControlSocket, FromWorker, Interrupt, Stuck, Why};
use ringhorn_exchange::{Running, Tenure};

use crate::python;
use crate::system;

/// How long the GIL is waited for before a request's stack is dumped without it. By taste: far
/// above the 5 ms after which a thread of the interpreter gives the GIL to another.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);
/// How often a worker that is to stop looks whether only stuck requests are left.
const STOP_STEP: Duration = Duration::from_millis(50);
/// How long after a stop an idle seat has left, unless native code keeps the GIL from it.
const LEAVING: Duration = Duration::from_secs(1);
/// Formatting a stack reads and decodes source files.
const STACK_BYTES: usize = 1 << 20;

/// What all threads of the worker share.
pub struct Interrupts {
    seats: Box<[SeatNote]>,
    first_seat: u16,
    tools: OnceLock<Tools>,
    /// Wishes passed on and not carried out yet. Release by whoever carried one out, acquire by
    /// whoever ends the process: what was logged is out by then.
    unfinished: AtomicU64,
    /// True: the interpreter may be finalised; nobody takes the GIL from a native thread any more.
    is_closed: Mutex<bool>,
}

/// The Python side of it.
pub struct Tools {
    /// `_errors.take_stack`.
    pub take_stack: Py<PyAny>,
    /// `_errors.log_stack`.
    pub log_stack: Py<PyAny>,
    /// `_errors.RequestTimeout`.
    pub timeout: Py<PyAny>,
    /// `_errors.ClientDisconnected`.
    pub client_left: Py<PyAny>,
    /// A signal that does nothing but end a system call of the main thread.
    pub poke_signal: i32,
    /// The signal on which `faulthandler` dumps the stack of the thread that gets it.
    pub dump_signal: i32,
}

/// One seat as other threads see it.
#[derive(Default)]
pub struct SeatNote {
    running: Running,
    /// What the interpreter and the kernel call its thread. Relaxed, as `serves`: written by the
    /// seat before its first `begin`, which releases, and read behind `Running::is`, which
    /// acquires.
    identifier: AtomicU64,
    thread: AtomicI32,
    serves: AtomicBool,
}

impl SeatNote {
    /// The calling thread serves this seat from here on.
    pub fn enter(&self) {
        self.identifier.store(system::thread_identifier(), Ordering::Relaxed);
        self.thread.store(system::thread_id(), Ordering::Relaxed);
        self.serves.store(true, Ordering::Relaxed);
    }

    /// It serves no more.
    pub fn leave(&self) {
        self.serves.store(false, Ordering::Relaxed);
    }

    /// The seat runs this request now.
    #[inline]
    pub fn begin(&self, tenure: Tenure) {
        self.running.begin(tenure);
    }

    /// The seat is through with its request. What an interrupt left pending is taken back.
    #[inline]
    pub fn end(&self, py: Python<'_>) {
        if self.running.end() {
            self.settle(py);
        }
    }

    #[cold]
    fn settle(&self, py: Python<'_>) {
        // Under a GIL the other thread was through when this one got it; without one it may not be.
        py.detach(|| self.running.settle());
        python::set_async_exception(py, self.identifier.load(Ordering::Relaxed), None);
    }
}

impl Interrupts {
    /// For so many seats, of which the first has this number.
    pub fn new(first_seat: u16, seats: u16) -> Interrupts {
        Interrupts {
            seats: (0..seats).map(|_| SeatNote::default()).collect(),
            first_seat,
            tools: OnceLock::new(),
            unfinished: AtomicU64::new(0),
            is_closed: Mutex::new(false),
        }
    }

    /// Sets the Python side, once; until then wishes are not carried out, and there are none.
    pub fn equip(&self, tools: Tools) {
        let _again = self.tools.set(tools);
    }

    /// The note of a seat by its place in the worker.
    pub fn seat(&self, index: u16) -> Option<&SeatNote> {
        self.seats.get(usize::from(index))
    }

    fn note_of(&self, interrupt: &Interrupt) -> Option<&SeatNote> {
        self.seat(interrupt.seat.checked_sub(self.first_seat)?)
    }

    /// Whether the exception is one that was raised from here.
    pub fn has_raised(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.tools.get().is_some_and(|tools| {
            [&tools.timeout, &tools.client_left]
                .into_iter()
                .any(|class| error.is_instance(py, class.bind(py)))
        })
    }

    /// Returns when no native thread has the GIL or waits for it; none will from then on.
    pub fn close(&self, py: Python<'_>) {
        py.detach(|| *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true);
    }

    /// Looks at a request or interrupts it; the calling thread is native.
    fn carry_out(&self, job: &Job) {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        let interrupt = &job.interrupt;
        let (Some(note), Some(tools)) = (self.note_of(interrupt), self.tools.get()) else { return };
        if *is_closed || !note.running.is(interrupt.tenure) {
            return;
        }
        Python::attach(|py| {
            job.has_lock.store(true, Ordering::Relaxed);
            if let Err(error) = self.carry_out_attached(py, interrupt, note, tools) {
                error.write_unraisable(py, None);
            }
        });
    }

    fn carry_out_attached(
        &self,
        py: Python<'_>,
        interrupt: &Interrupt,
        note: &SeatNote,
        tools: &Tools,
    ) -> PyResult<()> {
        if interrupt.why == Why::ClientLeft {
            // Clients leave all the time: the access log has it, and that is enough.
            self.raise(py, interrupt, note, &tools.client_left);
            return Ok(());
        }
        let identifier = note.identifier.load(Ordering::Relaxed);
        let stack = tools.take_stack.bind(py).call1((identifier,))?;
        // The stack is of this request only if the seat still runs it.
        let (is_meant, what) = if interrupt.why == Why::Slow {
            (note.running.is(interrupt.tenure), "a request runs longer than --slow-request-log")
        } else {
            (
                self.raise(py, interrupt, note, &tools.timeout),
                "a request ran longer than --timeout and is interrupted",
            )
        };
        if is_meant {
            let arguments = (what, &interrupt.request_id, &interrupt.request, stack);
            tools.log_stack.bind(py).call1(arguments)?;
        }
        Ok(())
    }

    /// Makes the exception pending in the seat's thread, if that runs the request.
    fn raise(
        &self,
        py: Python<'_>,
        interrupt: &Interrupt,
        note: &SeatNote,
        class: &Py<PyAny>,
    ) -> bool {
        let raised = note.running.interrupt(interrupt.tenure, || {
            let identifier = note.identifier.load(Ordering::Relaxed);
            python::set_async_exception(py, identifier, Some(class.bind(py)));
            // A sleep, a wait for a lock or a system call of the main thread ends by a signal, and
            // the exception is raised; in other threads the interpreter goes on waiting.
            if interrupt.seat == self.first_seat
                && let Some(tools) = self.tools.get()
            {
                system::signal_thread(note.thread.load(Ordering::Relaxed), tools.poke_signal);
            }
        });
        raised.is_some()
    }
}

/// A wish on its way to the thread that takes the GIL.
struct Job {
    interrupt: Interrupt,
    /// That thread has the GIL. Relaxed: nothing is published with it, and a dump too many is
    /// only a dump too many.
    has_lock: AtomicBool,
}

/// A request that was interrupted and has not ended.
struct Pending {
    job: Arc<Job>,
    dump_at: Option<Instant>,
    stuck_at: Option<Instant>,
    is_stuck: bool,
}

/// What the control thread keeps.
pub struct Watcher {
    shared: Arc<Interrupts>,
    jobs: Option<Sender<Arc<Job>>>,
    pending: Vec<Pending>,
    /// When the last wish was passed on.
    passed_on: Option<Instant>,
    stop_heard: Option<Instant>,
}

impl Watcher {
    /// Nothing to watch yet.
    pub fn new(shared: Arc<Interrupts>) -> Watcher {
        Watcher { shared, jobs: None, pending: Vec::new(), passed_on: None, stop_heard: None }
    }

    /// The server wants a request looked at or interrupted.
    pub fn take(&mut self, interrupt: Interrupt) {
        let is_running =
            self.shared.note_of(&interrupt).is_some_and(|note| note.running.is(interrupt.tenure));
        if !is_running {
            return;
        }
        let now = Instant::now();
        let grace = Duration::from_millis(interrupt.grace_ms.into());
        let (why, job) =
            (interrupt.why, Arc::new(Job { interrupt, has_lock: AtomicBool::new(false) }));
        self.pass_on(&job);
        if why != Why::Slow {
            self.pending.push(Pending {
                job,
                dump_at: (why == Why::Timeout).then(|| now + LOCK_PATIENCE),
                stuck_at: (why == Why::Timeout).then(|| now + grace),
                is_stuck: false,
            });
        }
    }

    /// Hands a wish to the thread that takes the GIL; starts it at the first one.
    fn pass_on(&mut self, job: &Arc<Job>) {
        if self.jobs.is_none() {
            // Bounded by what is sent: a request that runs is named once for each reason, and there
            // are as many of them as seats.
            let (sender, receiver) = mpsc::channel();
            let shared = Arc::clone(&self.shared);
            // Signals are blocked: the thread inherits the mask of this one.
            let started = std::thread::Builder::new()
                .name("ringhorn-interrupt".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || carry_out_all(&shared, &receiver));
            match started {
                Ok(_) => self.jobs = Some(sender),
                Err(error) => {
                    system::write_log(&format!(
                        "ringhorn: cannot start the thread that interrupts requests: {error}\n"
                    ));
                }
            }
        }
        if let Some(jobs) = &self.jobs {
            self.passed_on = Some(Instant::now());
            // Relaxed: the send publishes it.
            self.shared.unfinished.fetch_add(1, Ordering::Relaxed);
            // It ends only with the process.
            let _ended = jobs.send(Arc::clone(job));
        }
    }

    /// Graceful stop was asked for.
    pub fn stop(&mut self) {
        self.stop_heard.get_or_insert_with(Instant::now);
    }

    /// When [`tend`](Self::tend) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let moments = |pending: &Pending| [pending.dump_at, pending.stuck_at];
        let due = self.pending.iter().flat_map(moments).flatten().min();
        let waits_to_end =
            self.stop_heard.is_some() && self.pending.iter().any(|pending| pending.is_stuck);
        let step = waits_to_end.then(|| Instant::now() + STOP_STEP);
        [due, step].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tend(&mut self, control: &ControlSocket) {
        let (now, shared) = (Instant::now(), Arc::clone(&self.shared));
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        self.pending.retain_mut(|pending| {
            let interrupt = &pending.job.interrupt;
            let Some(note) = shared.note_of(interrupt) else { return false };
            if !note.running.is(interrupt.tenure) {
                return false;
            }
            if is_over(pending.dump_at) {
                pending.dump_at = None;
                if !pending.job.has_lock.load(Ordering::Relaxed) {
                    dump(&shared, note, interrupt);
                }
            }
            if is_over(pending.stuck_at) {
                (pending.stuck_at, pending.is_stuck) = (None, true);
                let stuck = Stuck { seat: interrupt.seat, tenure: interrupt.tenure };
                // A server that is gone ends this worker anyway.
                let _unheard = control.send(&FromWorker::Stuck(stuck), &[]);
            }
            true
        });
        if self.stop_heard.is_some_and(|heard| self.has_only_stuck_ones(now >= heard + LEAVING))
            && self.has_carried_out(now)
        {
            system::write_log("ringhorn: only requests that do not unwind are left: ending\n");
            system::exit_now(1);
        }
    }

    /// Whether every wish was carried out, its stack logged: an interrupted request may unwind, and
    /// leave only stuck ones behind, before that. Who keeps the GIL for good is not waited for.
    fn has_carried_out(&self, now: Instant) -> bool {
        self.shared.unfinished.load(Ordering::Acquire) == 0
            || self.passed_on.is_none_or(|passed_on| now >= passed_on + LEAVING)
    }

    /// Whether nothing but stuck requests is left. An idle seat that has not left long after the
    /// stop cannot: a stuck request keeps the GIL from it. (One that claimed just before the stop
    /// and has not noted it yet holds the GIL, and is through with that in no time.)
    fn has_only_stuck_ones(&self, is_long_after: bool) -> bool {
        let is_stuck = |seat: usize| {
            self.pending.iter().any(|pending| {
                pending.is_stuck
                    && usize::from(pending.job.interrupt.seat - self.shared.first_seat) == seat
            })
        };
        let seats = self.shared.seats.iter().enumerate();
        let serving = seats.filter(|(_, note)| note.serves.load(Ordering::Relaxed));
        let mut left = serving.filter(|(_, note)| !is_long_after || !note.running.is_idle());
        self.pending.iter().any(|pending| pending.is_stuck) && left.all(|(seat, _)| is_stuck(seat))
    }
}

/// The thread that takes the GIL.
fn carry_out_all(shared: &Interrupts, jobs: &Receiver<Arc<Job>>) {
    while let Ok(job) = jobs.recv() {
        shared.carry_out(&job);
        shared.unfinished.fetch_sub(1, Ordering::Release);
    }
}

/// Has the seat's thread write its stack from a signal handler, which needs no GIL.
fn dump(shared: &Interrupts, note: &SeatNote, interrupt: &Interrupt) {
    let Interrupt { request, request_id, .. } = interrupt;
    system::write_log(&format!(
        "ringhorn: a request that is interrupted does not let go of the interpreter's lock; the \
         stack of its thread follows (request {request_id}: {request})\n"
    ));
    let thread = note.thread.load(Ordering::Relaxed);
    let is_sent =
        shared.tools.get().is_some_and(|tools| system::signal_thread(thread, tools.dump_signal));
    if !is_sent {
        system::write_log("ringhorn: its stack cannot be had: nobody handles the signal\n");
    }
}
