//! One seat: a Python thread that claims requests and calls the application.
//!
//! Where it stands in the walk of a request: claim → `environ`, `input` → the application →
//! `start_response`, `response` → the claim is finished and the loop hears of it.
//!
//! Invariants:
//! - The GIL is taken first and the request claimed second, and it is kept from request to request:
//!   it is released only when there is nothing to claim, or inside a request when a read or write
//!   would block.
//! - Whatever an application raises, SystemExit and KeyboardInterrupt included, costs its request
//!   only.
//! - The request object and its three callables are used again for the next request if and only if
//!   nobody else holds a reference to any of them; else they stay behind, detached, and new ones
//!   are made.
//! - A forked child of the application never gets past the call: it leaves by `_exit`.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use ringhorn_exchange::{Claim, Seat, WorkWake, is_forked};

use crate::environ::{Constants, EnvironMaker};
use crate::interrupt::{Interrupts, SeatNote};
use crate::python;
use crate::request::{Live, Request, client_disconnected_callable};
use crate::response;
use crate::system::exit_now;
use crate::worker::Wear;

/// References to a request object that are ours: the seat's, and one of each bound function.
const REFERENCES_TO_REQUEST: isize = 4;
/// References to a bound function that are ours: the seat's.
const REFERENCES_TO_FUNCTION: isize = 1;

/// What every seat of a worker shares.
pub struct Service {
    /// The WSGI callable.
    pub application: Py<PyAny>,
    /// `_errors.report`.
    pub report: Py<PyAny>,
    /// Counts requests, if the worker is to serve only so many.
    pub wear: Option<Wear>,
    /// What may interrupt requests.
    pub interrupts: Arc<Interrupts>,
}

/// A thread's place, with everything it keeps from one request to the next.
pub struct SeatLoop<'a> {
    service: &'a Service,
    note: &'a SeatNote,
    environs: EnvironMaker,
    spare: Option<Handles>,
}

/// The Python objects of a request that can be used again.
struct Handles {
    request: Py<PyAny>,
    start_response: Py<PyAny>,
    write: Py<PyAny>,
    client_disconnected: Py<PyAny>,
}

/// Writes incidents of one request to the error log.
pub struct Incidents<'a, 'py> {
    service: &'a Service,
    environ: &'a Bound<'py, PyDict>,
}

impl<'a> SeatLoop<'a> {
    /// Prepares a thread, with the note by which others know what it runs.
    pub fn new(
        py: Python<'_>,
        service: &'a Service,
        note: &'a SeatNote,
        constants: &Constants<'_>,
    ) -> PyResult<Self> {
        Ok(SeatLoop { service, note, environs: EnvironMaker::new(py, constants)?, spare: None })
    }

    /// Serves until the server wants no more of this worker.
    pub fn run(&mut self, py: Python<'_>, mut seat: Seat) {
        loop {
            while let Some(claim) = seat.try_claim() {
                self.serve(py, claim);
                if let Some(wear) = &self.service.wear {
                    wear.count();
                }
            }
            match py.detach(|| seat.wait_for_work(None)) {
                WorkWake::Work | WorkWake::TimedOut => {}
                WorkWake::Stop => return,
                WorkWake::Interrupted => self.run_signal_handlers(py),
            }
        }
    }

    /// Python's handlers run in the main thread only; in others this does nothing.
    fn run_signal_handlers(&self, py: Python<'_>) {
        if let Err(error) = py.check_signals() {
            report(py, self.service, "a signal handler raised an exception", Some(error), None);
        }
    }

    #[inline]
    fn serve(&mut self, py: Python<'_>, claim: Claim) {
        self.note.begin(claim.tenure());
        if let Err(error) = self.try_serve(py, claim) {
            // Only our own preparations fail here (out of memory): the dropped claim cut the
            // request.
            report(py, self.service, "a request could not be prepared", Some(error), None);
        }
        // Behind everything that runs Python code for this request: no exception meant for it may
        // reach the next one.
        self.note.end(py);
    }

    fn try_serve(&mut self, py: Python<'_>, claim: Claim) -> PyResult<()> {
        let handles = self.handles(py)?;
        let request = Request::of(handles.request.bind(py))?;
        let head = claim.head();
        let disconnected = handles.client_disconnected.bind(py);
        let environ =
            self.environs.make(py, &claim, head.flags.https, request.as_any(), disconnected)?;
        request.begin(Live::new(claim, &head, handles.write.clone_ref(py)));
        let application = self.service.application.bind(py);
        let start_response = handles.start_response.bind(py);
        let result = python::call_two(application, environ.as_any(), start_response);
        let incidents = Incidents { service: self.service, environ: &environ };
        match result {
            // A child that the application forked must neither serve nor run the parent's atexit
            // handlers.
            Ok(_) if is_forked() => exit_now(0),
            Ok(result) => response::deliver(&request, result, &incidents),
            Err(error) => response::refuse(&request, error, &incidents),
        }
        if is_forked() {
            exit_now(0);
        }
        // The application's own objects go first: their destructors may run for a while or look
        // around.
        drop(environ);
        drop(request);
        if handles.is_ours_alone(py) {
            self.spare = Some(handles);
        }
        Ok(())
    }

    fn handles(&mut self, py: Python<'_>) -> PyResult<Handles> {
        match self.spare.take() {
            Some(handles) => Ok(handles),
            None => Handles::new(py),
        }
    }
}

impl Handles {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let request = Request::new(py)?;
        let (start_response, write) = crate::start_response::callables(&request)?;
        Ok(Handles {
            request: request.as_any().clone().unbind(),
            start_response: start_response.unbind(),
            write: write.unbind(),
            client_disconnected: client_disconnected_callable(&request)?.unbind(),
        })
    }

    /// Whether nobody else can reach any of the four.
    #[inline]
    fn is_ours_alone(&self, py: Python<'_>) -> bool {
        python::reference_count(self.start_response.bind(py)) == REFERENCES_TO_FUNCTION
            && python::reference_count(self.write.bind(py)) == REFERENCES_TO_FUNCTION
            && python::reference_count(self.client_disconnected.bind(py)) == REFERENCES_TO_FUNCTION
            && python::reference_count(self.request.bind(py)) == REFERENCES_TO_REQUEST
    }
}

impl Incidents<'_, '_> {
    /// Whether the exception is one that was raised to interrupt the request: it was logged then.
    pub fn has_interrupted(&self, error: &PyErr) -> bool {
        self.service.interrupts.has_raised(self.environ.py(), error)
    }

    /// One incident of this request, with a traceback if there is an exception.
    #[cold]
    pub fn report(&self, what: &str, error: Option<PyErr>) {
        report(self.environ.py(), self.service, what, error, Some(self.environ));
    }
}

/// Hands an incident to `_errors.report`, which writes it to stderr.
#[cold]
fn report(
    py: Python<'_>,
    service: &Service,
    what: &str,
    error: Option<PyErr>,
    environ: Option<&Bound<'_, PyDict>>,
) {
    let text = |key: &str| {
        let value = environ.and_then(|environ| environ.get_item(key).ok().flatten());
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    };
    // SCRIPT_NAME + PATH_INFO stays the same when middleware shifts segments from one to the other.
    let path = match environ {
        Some(_) => format!("{}{}", text("SCRIPT_NAME"), text("PATH_INFO")),
        None => text("PATH_INFO"),
    };
    let error = error.map(|error| error.into_value(py));
    let (id, method) = (text("ringhorn.request_id"), text("REQUEST_METHOD"));
    let write = || service.report.bind(py).call1((what, &id, &method, &path, &error));
    let outcome = match write() {
        // The request was interrupted while its report was written: that was meant for others.
        Err(error) if service.interrupts.has_raised(py, &error) => write(),
        outcome => outcome,
    };
    if let Err(error) = outcome {
        error.write_unraisable(py, None);
    }
}
