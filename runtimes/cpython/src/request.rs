//! The object that stands for one request in Python: `wsgi.input`, and what `start_response` and
//! `write` are bound to.
//!
//! Where it stands in the walk of a request: `seat` puts the claim in, the application reaches it
//! through `input` and `start_response`, `response` writes through it, `seat` takes the claim out
//! and finishes it.
//!
//! Invariants:
//! - The claim lives in [`State::live`] exactly while the request runs. Taking it out detaches the
//!   object: every later use raises ValueError. No Python object holds ring memory.
//! - The state is behind a mutex because applications hand `wsgi.input` to other threads. Nobody
//!   waits for the mutex while holding the GIL, and nobody runs Python code while holding the
//!   mutex: so the two locks cannot wait for each other.
//! - In a forked child nothing of the exchange is mapped: [`Request::with`] refuses before it
//!   looks.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, OnceLock, TryLockError};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use ringhorn_exchange::{Claim, RecordHead, is_forked};

use crate::input;
use crate::python::{self, Convention, Definition};

/// The request while it runs.
pub struct Live {
    /// The slot in the exchange.
    pub claim: Claim,
    /// What `start_response` has been told.
    pub start: Start,
    /// Whether no body may follow the head: HEAD, 1xx, 204, 304 (set once the status is known).
    pub bodiless: bool,
    /// The request's method is HEAD.
    pub head_method: bool,
    /// Bytes of the request's body not read yet, if its length is known.
    pub body_left: Option<u64>,
    /// What `start_response` returns.
    pub write: Py<PyAny>,
}

/// How far `start_response` has come (PEP 3333, "The start_response() Callable").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Not called.
    Expected,
    /// Called, but it raised: a second call needs exc_info, and there is no head to send.
    Refused,
    /// Called: there is a head.
    Accepted,
}

impl Live {
    /// The state of a request that has just been claimed.
    pub fn new(claim: Claim, head: &RecordHead, write: Py<PyAny>) -> Live {
        Live {
            claim,
            start: Start::Expected,
            bodiless: false,
            head_method: head.flags.head_method,
            body_left: head.content_length,
            write,
        }
    }

    /// RuntimeError unless `start_response` was called with success.
    pub fn require_head(&self) -> PyResult<()> {
        if self.start == Start::Accepted {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(match self.start {
            Start::Refused => {
                "the application returned although start_response had refused its head"
            }
            _ => "the application returned data without calling start_response",
        }))
    }

    /// Whether the head is stated and no body may follow it: the iterable need not be asked for
    /// more.
    pub fn is_bodiless(&self) -> bool {
        self.start == Start::Accepted && self.bodiless
    }

    /// Whether all the bytes that the stated length allows are written (or none are allowed).
    pub fn is_full(&mut self) -> bool {
        self.is_bodiless() || self.claim.writer().remaining() == Some(0)
    }
}

/// What the mutex guards.
pub struct State {
    /// None before and after the request.
    pub live: Option<Live>,
}

/// The Python object's memory.
#[repr(C)]
struct RequestObject {
    base: ffi::PyObject,
    state: Mutex<State>,
}

/// A reference to a request object.
pub struct Request<'py> {
    object: Bound<'py, PyAny>,
}

struct RequestType(NonNull<ffi::PyTypeObject>);
// SAFETY: the pointer is to a type that lives as long as the process; using it needs an attached
// thread like any object.
unsafe impl Send for RequestType {}
// SAFETY: as above; the pointer itself is never written again.
unsafe impl Sync for RequestType {}

static TYPE: OnceLock<RequestType> = OnceLock::new();

const NAME: &CStr = c"ringhorn.Input";

impl<'py> Request<'py> {
    /// Makes the type; once, when the module is loaded.
    pub fn make_type(py: Python<'py>) -> PyResult<()> {
        let slots = vec![
            python::slot(ffi::Py_tp_new, refuse_new as *mut c_void),
            python::slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
            python::slot(ffi::Py_tp_iter, input::iterate as *mut c_void),
            python::slot(ffi::Py_tp_iternext, input::next_line as *mut c_void),
        ];
        let flags = ffi::Py_TPFLAGS_DEFAULT;
        // SAFETY: the size is that of the object the slots expect, and each slot holds its own
        // signature.
        let made = unsafe {
            let size = size_of::<RequestObject>();
            python::make_type(py, NAME, size, flags, input::methods(), slots)?
        };
        let pointer = NonNull::new(made.into_ptr().cast())
            .ok_or_else(|| PyRuntimeError::new_err("no type for wsgi.input"))?;
        // A second load in one process keeps the first type; the new one is leaked with its module.
        TYPE.get_or_init(|| RequestType(pointer));
        Ok(())
    }

    /// A fresh object without a request.
    pub fn new(py: Python<'py>) -> PyResult<Self> {
        let kind = TYPE.get().ok_or_else(|| PyRuntimeError::new_err("module not initialised"))?;
        // SAFETY: allocates zeroed memory of the type's size with one reference; the state is
        // written before anyone sees the object.
        unsafe {
            let object = ffi::PyType_GenericAlloc(kind.0.as_ptr(), 0);
            let bound = Bound::from_owned_ptr_or_err(py, object)?;
            let state = &raw mut (*object.cast::<RequestObject>()).state;
            ptr::write(state, Mutex::new(State { live: None }));
            Ok(Request { object: bound })
        }
    }

    /// The request object behind `self` of a method or slot.
    ///
    /// # Safety
    /// `object` is the `self` that the interpreter passed to a method, slot or bound function of
    /// this type.
    pub unsafe fn from_self(py: Python<'py>, object: *mut ffi::PyObject) -> Self {
        // SAFETY: a live object, by the caller's promise.
        Request { object: unsafe { Bound::from_borrowed_ptr(py, object) } }
    }

    /// The request object behind a reference that came from [`Request::new`].
    pub fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let kind = TYPE.get().ok_or_else(|| PyRuntimeError::new_err("module not initialised"))?;
        // SAFETY: reads a live object's type.
        if unsafe { ffi::Py_TYPE(object.as_ptr()) } != kind.0.as_ptr() {
            return Err(PyTypeError::new_err("not a request object"));
        }
        Ok(Request { object: object.clone() })
    }

    /// As a plain object.
    pub fn as_any(&self) -> &Bound<'py, PyAny> {
        &self.object
    }

    /// The token.
    pub fn py(&self) -> Python<'py> {
        self.object.py()
    }

    fn state(&self) -> &Mutex<State> {
        // SAFETY: every Request is of this type (its constructors ensure it), so the state was
        // written by `new` and lives as long as the object, which `self` keeps.
        unsafe { &(*self.object.as_ptr().cast::<RequestObject>()).state }
    }

    /// Locks the state. While another thread of the application is inside (it waits for body bytes
    /// without the GIL), waits without the GIL as well.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        loop {
            match self.state().try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
            let state = self.state();
            // A guard cannot cross `detach`: wait for the mutex to come free, then try again with
            // the GIL.
            self.py().detach(|| drop(state.lock()));
        }
    }

    /// Runs `act` on the live request; raises ValueError after its end and RuntimeError in a forked
    /// child. `act` must not run Python code.
    pub fn with<R>(&self, act: impl FnOnce(Python<'py>, &mut Live) -> PyResult<R>) -> PyResult<R> {
        refuse_in_child()?;
        let mut state = self.lock();
        match &mut state.live {
            Some(live) => act(self.py(), live),
            None => Err(ended()),
        }
    }

    /// Begins a request. The object must be detached.
    pub fn begin(&self, live: Live) {
        let before = self.lock().live.replace(live);
        debug_assert!(before.is_none(), "a request object serves one request at a time");
    }

    /// Whether nobody waits for the response any more: the client was seen to leave, the request
    /// was given up, or it has ended. Never waits: while another thread waits inside for body bytes
    /// or room, the answer is no; that thread is woken when the request is given up.
    fn has_client_left(&self) -> bool {
        let state = match self.state().try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        state.live.as_ref().is_none_or(|live| live.claim.has_client_left())
    }

    /// Ends the request: from here on the object is detached.
    pub fn take(&self) -> Option<Live> {
        self.lock().live.take()
    }
}

static CLIENT_DISCONNECTED: Definition = Definition(python::method(
    c"client_disconnected",
    Convention::NoArguments(client_disconnected),
    c"client_disconnected()\n--\n\nWhether the client was seen to leave, or the request has ended.",
));

/// `environ["ringhorn.client_disconnected"]` of a request object.
pub fn client_disconnected_callable<'py>(request: &Request<'py>) -> PyResult<Bound<'py, PyAny>> {
    python::bound_function(request.as_any(), &CLIENT_DISCONNECTED.0)
}

unsafe extern "C" fn client_disconnected(
    object: *mut ffi::PyObject,
    _unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with the object the function is bound to.
    let request = unsafe { Request::from_self(python::attached(), object) };
    let result = refuse_in_child().map(|()| {
        let has_left = request.has_client_left();
        PyBool::new(request.py(), has_left).to_owned().into_any()
    });
    python::hand_back(request.py(), result)
}

/// The error of every entry in a forked child of the application.
pub fn refuse_in_child() -> PyResult<()> {
    if is_forked() {
        return Err(PyRuntimeError::new_err(
            "this is a forked child: the request belongs to the parent process",
        ));
    }
    Ok(())
}

fn ended() -> PyErr {
    PyValueError::new_err(
        "the request has ended: its wsgi.input, start_response and write are closed",
    )
}

unsafe extern "C" fn refuse_new(
    _kind: *mut ffi::PyTypeObject,
    _arguments: *mut ffi::PyObject,
    _keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter.
    let py = unsafe { python::attached() };
    PyTypeError::new_err("cannot create 'ringhorn.Input' instances").restore(py);
    ptr::null_mut()
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone, so nobody holds the mutex; the state was written by
    // `new`. The type is a heap type: each instance holds a reference to it.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        if is_forked() {
            // Finishing a claim would touch memory that only the parent has; the child leaves by
            // _exit.
            return;
        }
        ptr::drop_in_place(&raw mut (*object.cast::<RequestObject>()).state);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(kind.cast());
    }
}
