//! The worker process as `_bootstrap.py` sees it: hand-shake, READY, the seats' loops, the end.
//!
//! Where it stands in the walk of a request: before the first and after the last one.
//!
//! Invariants:
//! - The control socket is read by one native thread that never needs the GIL, so that a worker
//!   whose application hangs still notices that it is to stop or that its server is gone.
//! - Until the application is loaded there is nothing to finish: a stop ends the process at once.
//! - When the server is gone, requests in hand get [`ORPHAN_GRACE`] and then the process ends,
//!   whatever Python does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};
use ringhorn_exchange::control::{
    Changed, ControlError, ControlSocket, Failed, FromWorker, Hello, Ready, Received, Setup, Stop,
    ToWorker, WornOut,
};
use ringhorn_exchange::{LoopDescriptorsOwned, WorkerEnd};

use crate::environ::Constants;
use crate::fork_server::ForkServer;
use crate::interrupt::{Interrupts, Tools, Watcher};
use crate::seat::{SeatLoop, Service};
use crate::system::{self, exit_now};
use crate::title::Title;

/// What running requests get after the server's death; by taste: long enough to commit a
/// transaction.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

/// Resolution of the native thread's waits.
const POLL_STEP: Duration = Duration::from_millis(1);

/// A worker process after the hand-shake.
#[pyclass(frozen, module = "_ringhorn")]
pub struct Worker {
    shared: Arc<Shared>,
    setup: Box<Setup>,
    prepared: PyOnceLock<Prepared>,
}

/// What the native thread needs.
struct Shared {
    control: ControlSocket,
    end: Arc<WorkerEnd>,
    /// Set once, before the first claim. Relaxed: nothing is published with it. The native thread
    /// that reads it too early ends a worker that has not begun; the server then counts no request
    /// as held by it.
    serving: AtomicBool,
    interrupts: Arc<Interrupts>,
    first_seat: u16,
    /// Written by the interpreter's signal handler (`signal.set_wakeup_fd`). Here because the
    /// native thread keeps it open to the process's end: the interpreter may write to it until
    /// then.
    wakeup: OwnedFd,
    /// Its other end, read by the native thread.
    wakeup_read: OwnedFd,
    title: Title,
}

/// Counts requests up to where the server is to replace this worker (`--max-requests`).
pub struct Wear {
    limit: u64,
    /// Relaxed: it orders nothing, and exactly one seat makes it the limit.
    served: AtomicU64,
    shared: Arc<Shared>,
}

impl Wear {
    /// A request was served. At the limit the server is told, once; the worker serves on until it
    /// is told to stop, which it is when its successor is READY.
    #[inline]
    pub fn count(&self) {
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        if served == self.limit {
            self.tell(served);
        }
    }

    #[cold]
    fn tell(&self, requests: u64) {
        // The server may be gone, or be about to end this worker for another reason.
        let message = FromWorker::WornOut(WornOut { requests });
        let _unheard = self.shared.control.send(&message, &[]);
    }
}

struct Prepared {
    service: Service,
    errors: Py<PyAny>,
}

/// Takes over the control socket, greets the server and receives the set-up; starts the native
/// thread.
#[pyfunction]
pub fn connect(py: Python<'_>, descriptor: i32) -> PyResult<Py<PyAny>> {
    let Some(descriptor) = system::adopt(descriptor) else {
        return Err(PyRuntimeError::new_err(format!(
            "descriptor {descriptor} is no control socket\n\
             hint: workers are started by the server, not by hand"
        )));
    };
    let control = ControlSocket::from_descriptor(descriptor)?;
    let hello = FromWorker::Hello(greeting(py)?);
    let (setup, descriptors) = py.detach(|| shake_hands(&control, &hello)).map_err(to_python)?;
    if setup.is_fork_server() {
        // Nothing is attached and no thread started: what it forks shall find neither.
        Title::of_fork_server(option(&setup, "name"), setup.generation).show("ready");
        let fork_server = ForkServer::new(control, setup);
        return Ok(fork_server.into_pyobject(py)?.into_any().unbind());
    }
    let title = Title::of_worker(option(&setup, "name"), setup.worker, setup.generation);
    title.show("loading");
    let end = attach(&setup, descriptors)?;
    let (wakeup_read, wakeup) = system::pipe()?;
    let shared = Arc::new(Shared {
        control,
        end: Arc::new(end),
        serving: AtomicBool::new(false),
        interrupts: Arc::new(Interrupts::new(setup.first_seat, setup.threads)),
        first_seat: setup.first_seat,
        wakeup,
        wakeup_read,
        title,
    });
    let watched = Arc::clone(&shared);
    system::with_signals_blocked(|| {
        std::thread::Builder::new()
            .name("ringhorn-control".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || watch(&watched))
    })?;
    let worker = Worker { shared, setup, prepared: PyOnceLock::new() };
    Ok(worker.into_pyobject(py)?.into_any().unbind())
}

/// A further setting of the runtime; empty if the server did not send it.
fn option<'a>(setup: &'a Setup, name: &str) -> &'a str {
    let options = &setup.options;
    options.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

fn greeting(py: Python<'_>) -> PyResult<Hello> {
    let sys = py.import("sys")?;
    let implementation = sys.getattr("implementation")?.getattr("name")?.extract()?;
    // "3.12.4 (main, ...)": the module `platform` knows it too, but costs memory in every worker.
    let version: String = sys.getattr("version")?.extract()?;
    let version = version.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(Hello::of_this_build(implementation, version))
}

fn shake_hands(
    control: &ControlSocket,
    hello: &FromWorker,
) -> Result<(Box<Setup>, Vec<OwnedFd>), ControlError> {
    control.send(hello, &[])?;
    match control.receive::<ToWorker>()? {
        Received::Message(ToWorker::Setup(setup), descriptors) => Ok((setup, descriptors)),
        // Stopped before it began, or refused as a module of another build: the server has said
        // why.
        Received::Message(ToWorker::Stop(_) | ToWorker::Fork(_), _) | Received::Closed => {
            Err(ControlError::Malformed("the server wants no worker like this one"))
        }
        Received::Message(ToWorker::Interrupt(_), _) => {
            Err(ControlError::Malformed("an interrupt before the set-up"))
        }
        Received::Nothing => Err(ControlError::Malformed("the control socket does not block")),
    }
}

fn attach(setup: &Setup, descriptors: Vec<OwnedFd>) -> PyResult<WorkerEnd> {
    let wrong =
        || PyRuntimeError::new_err("the server sent another number of descriptors than it said");
    if descriptors.len() != 1 + 3 * usize::from(setup.loops) {
        return Err(wrong());
    }
    let mut descriptors = descriptors.into_iter();
    let seats = descriptors.next().ok_or_else(wrong)?;
    let mut loops = Vec::with_capacity(usize::from(setup.loops));
    while let Some(down) = descriptors.next() {
        let up = descriptors.next().ok_or_else(wrong)?;
        let bell = descriptors.next().ok_or_else(wrong)?;
        loops.push(LoopDescriptorsOwned { down, up, bell });
    }
    WorkerEnd::attach(loops, seats, setup.generation).map_err(|error| {
        PyRuntimeError::new_err(format!(
            "{error}\nhint: server and native module must come from one build; \
             install or build both again"
        ))
    })
}

/// The settings that Python code acts on.
pub fn settings<'py>(py: Python<'py>, setup: &Setup) -> PyResult<Bound<'py, PyDict>> {
    let settings = PyDict::new(py);
    settings.set_item("application", &setup.application)?;
    settings.set_item("pythonpath", &setup.pythonpath)?;
    settings.set_item("chdir", &setup.chdir)?;
    settings.set_item("threads", setup.threads)?;
    settings.set_item("check_only", setup.check_only)?;
    settings.set_item("worker", setup.worker)?;
    settings.set_item("generation", setup.generation)?;
    settings.set_item("server_software", &setup.server_software)?;
    settings.set_item("multiprocess", setup.multiprocess)?;
    settings.set_item("options", setup.options.clone())?;
    Ok(settings)
}

pub fn to_python(error: ControlError) -> PyErr {
    match error {
        ControlError::Io(error) => PyOSError::new_err(error.to_string()),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

#[pymethods]
impl Worker {
    /// The settings that Python code acts on.
    fn setup<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        settings(py, &self.setup)
    }

    /// The descriptor for `signal.set_wakeup_fd`.
    fn wakeup_descriptor(&self) -> i32 {
        self.shared.wakeup.as_raw_fd()
    }

    /// Tells the server that the application cannot be loaded. The caller ends the process.
    fn failed(&self, py: Python<'_>, exit_code: i32, text: String) {
        let message = FromWorker::Failed(Failed { exit_code, text });
        // The server may be gone; then nobody is left to be told, and stderr has the text too.
        let _unheard = py.detach(|| self.shared.control.send(&message, &[]));
    }

    /// Tells the server that the application is loaded.
    fn ready(&self, py: Python<'_>) -> PyResult<()> {
        let one_lock = match py.import("sys")?.getattr_opt("_is_gil_enabled")? {
            Some(is_enabled) => is_enabled.call0()?.extract()?,
            None => true,
        };
        let message = FromWorker::Ready(Ready { threads: self.setup.threads, one_lock });
        self.shared.title.show("ready");
        py.detach(|| self.shared.control.send(&message, &[])).map_err(to_python)
    }

    /// Tells the server that a file of the application changed.
    fn changed(&self, py: Python<'_>, path: String) -> PyResult<()> {
        let message = FromWorker::Changed(Changed { path });
        py.detach(|| self.shared.control.send(&message, &[])).map_err(to_python)
    }

    /// Keeps what the seats need: the application, `wsgi.errors` and `_errors.report`.
    fn prepare(
        &self,
        py: Python<'_>,
        application: Py<PyAny>,
        errors: Py<PyAny>,
        report: Py<PyAny>,
    ) {
        let interrupts = Arc::clone(&self.shared.interrupts);
        let wear = self.wear();
        let prepared =
            Prepared { service: Service { application, report, wear, interrupts }, errors };
        // A second call would be a bug of the bootstrap; the first one holds.
        let _again = self.prepared.set(py, prepared);
        self.shared.serving.store(true, Ordering::Relaxed);
    }

    /// Keeps what interrupting requests needs: `_errors.take_stack`, `_errors.log_stack`, the two
    /// exceptions, a signal whose handler does nothing and one on which the stack is dumped.
    fn watch_requests(
        &self,
        take_stack: Py<PyAny>,
        log_stack: Py<PyAny>,
        timeout: Py<PyAny>,
        client_left: Py<PyAny>,
        poke_signal: i32,
        dump_signal: i32,
    ) {
        self.shared.interrupts.equip(Tools {
            take_stack,
            log_stack,
            timeout,
            client_left,
            poke_signal,
            dump_signal,
        });
    }

    /// No seat serves any more and the interpreter may end.
    fn close(&self, py: Python<'_>) {
        self.shared.interrupts.close(py);
    }

    /// Serves in the calling thread as seat `index` (from 0) of this worker, until the server says
    /// stop.
    fn serve(&self, py: Python<'_>, index: u16) -> PyResult<()> {
        let prepared = self
            .prepared
            .get(py)
            .ok_or_else(|| PyRuntimeError::new_err("serve() before prepare()"))?;
        if let Some(core) = self.setup.cpu {
            // An invalid core is reported by the server, which checks the list; unpinned still
            // works.
            let _unpinned = system::pin_thread(core as usize);
        }
        let constants = Constants {
            server_software: self.setup.server_software.clone(),
            multithread: self.setup.threads > 1,
            multiprocess: self.setup.multiprocess,
            errors: prepared.errors.bind(py).clone(),
            file_wrapper: py.import("_ringhorn")?.getattr("FileWrapper")?,
        };
        let interrupts = &prepared.service.interrupts;
        let note = interrupts
            .seat(index)
            .ok_or_else(|| PyRuntimeError::new_err(format!("there is no seat {index}")))?;
        let mut seat_loop = SeatLoop::new(py, &prepared.service, note, &constants)?;
        let number = self.setup.first_seat + index;
        let seat = self.shared.end.seat(number, self.setup.paired_loop);
        note.enter();
        seat_loop.run(py, seat);
        note.leave();
        Ok(())
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, &format!("<ringhorn worker {}>", self.setup.worker))
    }
}

impl Worker {
    /// Counts the worker's requests, if it is to serve only so many.
    fn wear(&self) -> Option<Wear> {
        let mut options = self.setup.options.iter();
        let (_, limit) = options.find(|(name, _)| name == "max-requests")?;
        let limit = limit.parse().ok()?;
        Some(Wear { limit, served: AtomicU64::new(0), shared: Arc::clone(&self.shared) })
    }
}

/// The native thread: control socket and signal wake-ups, until the process ends.
fn watch(shared: &Shared) {
    let wakeup = &shared.wakeup_read;
    let mut watcher = Watcher::new(Arc::clone(&shared.interrupts));
    let mut deadline: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            exit_now(1);
        }
        watcher.tend(&shared.control);
        let due = [deadline, watcher.next_due()].into_iter().flatten().min();
        // A millisecond more: poll counts whole ones, and would find that it is not yet time.
        let timeout = due.map(|due| due.saturating_duration_since(now) + POLL_STEP);
        let control = shared.control.as_fd();
        // Once the server is gone its socket is readable for ever: wait for the pipe alone.
        let first = if deadline.is_none() { control } else { wakeup.as_fd() };
        let (control_ready, wakeup_ready) =
            match system::wait_for_either(first, wakeup.as_fd(), timeout) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => exit_now(1),
            };
        if wakeup_ready {
            system::drain(wakeup.as_fd());
            shared.end.interrupt(shared.first_seat);
        }
        if deadline.is_none() && control_ready && hear(shared, &mut watcher) == Heard::Gone {
            deadline = Some(Instant::now() + ORPHAN_GRACE);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Heard {
    Message,
    Gone,
}

fn hear(shared: &Shared, watcher: &mut Watcher) -> Heard {
    match shared.control.receive::<ToWorker>() {
        Ok(Received::Message(ToWorker::Stop(Stop { graceful }), _)) => {
            leave_unless_serving(shared, 0);
            shared.title.show("leaving");
            if graceful {
                watcher.stop();
                shared.end.stop();
            } else {
                shared.end.stop_now();
            }
            Heard::Message
        }
        Ok(Received::Message(ToWorker::Interrupt(interrupt), _)) => {
            watcher.take(*interrupt);
            Heard::Message
        }
        // A second set-up has no meaning; what is not understood from a server of the same build is
        // a bug there, and no reason to drop requests here.
        Ok(Received::Message(ToWorker::Setup(_) | ToWorker::Fork(_), _) | Received::Nothing) => {
            Heard::Message
        }
        Ok(Received::Closed) | Err(_) => {
            leave_unless_serving(shared, 1);
            shared.end.stop_now();
            Heard::Gone
        }
    }
}

fn leave_unless_serving(shared: &Shared, code: i32) {
    if !shared.serving.load(Ordering::Relaxed) {
        exit_now(code);
    }
}
