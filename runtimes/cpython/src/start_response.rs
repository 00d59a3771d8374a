//! `start_response` and the `write` it returns.
//!
//! Where it stands in the walk of a request: called by the application, before or during the first
//! step of its iterable. Status and fields go straight into the slot's response ring through the
//! exchange's `ResponseWriter`, which owns framing and refuses what may not be on the wire.
//!
//! Contract (PEP 3333): the status is a `str` "NNN reason"; the fields are exactly a `list` of
//! exactly 2-`tuple`s of `str` within latin-1 (a subclass of `str` is let through: its characters
//! are what counts); checks are made inside the call; nothing is sent by it. A second call needs
//! `exc_info`, even if the first one raised; with `exc_info` it replaces an unsent head, and raises
//! the exception again when the head is out. `write(bytes)` hands the bytes to the event loop
//! before it returns.
//!
//! Both are built-in functions bound to the request object: the interpreter calls those without
//! building a tuple, and specialises the call (CPython 3.11 and later).
#![allow(unsafe_code)]

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use ringhorn_exchange::{HeadError, RequestWake, WriteError};

use crate::python::{self, Convention, Definition, Shape};
use crate::request::{Live, Request, Start};

static START_RESPONSE: Definition = Definition(python::method(
    c"start_response",
    Convention::FastKeywords(start_response),
    c"start_response(status, headers, exc_info=None)\n--\n\nStates the response's head (PEP 3333).",
));

static WRITE: Definition = Definition(python::method(
    c"write",
    Convention::OneArgument(write),
    c"write(data, /)\n--\n\nSends bytes before those of the iterable (PEP 3333).",
));

/// The two callables of a request object.
pub fn callables<'py>(request: &Request<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let start_response = python::bound_function(request.as_any(), &START_RESPONSE.0)?;
    let write = python::bound_function(request.as_any(), &WRITE.0)?;
    Ok((start_response, write))
}

unsafe extern "C" fn start_response(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with the object the function is bound to.
    let request = unsafe { Request::from_self(python::attached(), object) };
    let py = request.py();
    // SAFETY: `count` positional arguments, then one for each name in the tuple (or null).
    let result = unsafe { parse(py, arguments, count as usize, names) }
        .and_then(|call| start(&request, &call));
    python::hand_back(py, result)
}

unsafe extern "C" fn write(
    object: *mut ffi::PyObject,
    data: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with the object the function is bound to and one live
    // argument.
    let (request, data) = unsafe {
        let py = python::attached();
        (Request::from_self(py, object), Bound::from_borrowed_ptr(py, data))
    };
    let py = request.py();
    let result = write_data(&request, &data).map(|()| py.None().into_bound(py));
    python::hand_back(py, result)
}

/// The arguments of one call.
struct Call<'py> {
    status: Bound<'py, PyAny>,
    headers: Bound<'py, PyAny>,
    /// None when absent or None.
    exc_info: Option<Bound<'py, PyAny>>,
}

/// Sorts positional and keyword arguments.
///
/// # Safety
/// `arguments` holds `count` live objects and one more for each name in the tuple `names` (null:
/// none).
unsafe fn parse<'py>(
    py: Python<'py>,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Call<'py>> {
    let mut found: [Option<Bound<'py, PyAny>>; 3] = [None, None, None];
    if count > found.len() {
        return Err(PyTypeError::new_err("start_response takes status, headers and exc_info"));
    }
    for (at, place) in found.iter_mut().enumerate().take(count) {
        // SAFETY: in range by the caller's promise.
        *place = Some(unsafe { Bound::from_borrowed_ptr(py, *arguments.add(at)) });
    }
    if !names.is_null() {
        // SAFETY: the interpreter passes a tuple of str.
        let names = unsafe { Bound::from_borrowed_ptr(py, names) };
        for (at, name) in names.cast::<PyTuple>()?.iter().enumerate() {
            let place = match name.extract::<String>()?.as_str() {
                "status" => 0,
                "headers" | "response_headers" => 1,
                "exc_info" => 2,
                other => {
                    return Err(PyTypeError::new_err(format!(
                        "start_response has no argument {other:?}"
                    )));
                }
            };
            if found[place].is_some() {
                return Err(PyTypeError::new_err("start_response got an argument twice"));
            }
            // SAFETY: the values of keyword arguments follow the positional ones.
            found[place] =
                Some(unsafe { Bound::from_borrowed_ptr(py, *arguments.add(count + at)) });
        }
    }
    let [Some(status), Some(headers), exc_info] = found else {
        return Err(PyTypeError::new_err("start_response needs a status and a list of headers"));
    };
    Ok(Call { status, headers, exc_info: exc_info.filter(|object| !object.is_none()) })
}

fn start<'py>(request: &Request<'py>, call: &Call<'py>) -> PyResult<Bound<'py, PyAny>> {
    if let Some(exc_info) = &call.exc_info {
        let error = exception_of(exc_info)?;
        // Outside the mutex: setting a traceback may run Python code.
        if request.with(|_, live| Ok(live.claim.writer().is_committed()))? {
            return Err(error);
        }
    }
    request.with(|py, live| {
        if live.start != Start::Expected && call.exc_info.is_none() {
            return Err(PyRuntimeError::new_err(
                "start_response was called a second time without exc_info (PEP 3333)",
            ));
        }
        // Refused until every check has passed: a head that failed half-way is never sent.
        live.start = Start::Refused;
        begin_head(live, &call.status)?;
        add_headers(live, &call.headers)?;
        live.start = Start::Accepted;
        Ok(live.write.bind(py).clone())
    })
}

/// The exception to raise again, with its traceback.
fn exception_of(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let wrong = || PyTypeError::new_err("exc_info must be a (type, value, traceback) tuple");
    let triple = exc_info.cast::<PyTuple>().map_err(|_| wrong())?;
    if triple.len() != 3 {
        return Err(wrong());
    }
    let value = triple.get_item(1)?;
    let value = value.cast::<PyBaseException>().map_err(|_| wrong())?;
    let traceback = triple.get_item(2)?;
    let value = value.call_method1("with_traceback", (traceback,))?;
    Ok(PyErr::from_value(value))
}

fn begin_head(live: &mut Live, status: &Bound<'_, PyAny>) -> PyResult<()> {
    if !python::is_exact_text(status) {
        return Err(wrong_type("the status", "str", status));
    }
    let claim = &mut live.claim;
    let (result, bodiless) = python::with_latin1(status, |bytes| {
        (claim.writer().begin_head(bytes), is_bodiless(bytes))
    })?;
    live.bodiless = live.head_method || bodiless;
    result.map_err(|error| head_error(error, Some(status), None))
}

/// 1xx, 204 and 304 have no body (RFC 9110 §6.4.1).
fn is_bodiless(status: &[u8]) -> bool {
    matches!(status, [b'1', ..] | [b'2', b'0', b'4', ..] | [b'3', b'0', b'4', ..])
}

fn add_headers(live: &mut Live, headers: &Bound<'_, PyAny>) -> PyResult<()> {
    if python::shape(headers) != Shape::List {
        return Err(wrong_type("the headers", "list", headers));
    }
    let mut index = 0;
    while let Some(field) = python::sequence_item(headers, Shape::List, index) {
        index += 1;
        if python::shape(&field) != Shape::Tuple {
            return Err(wrong_type("a header", "(name, value) tuple", &field));
        }
        let (Some(name), Some(value), 2) = (
            python::sequence_item(&field, Shape::Tuple, 0),
            python::sequence_item(&field, Shape::Tuple, 1),
            python::sequence_length(&field, Shape::Tuple),
        ) else {
            return Err(PyTypeError::new_err("a header must be a (name, value) tuple"));
        };
        if !python::is_text(&name) {
            return Err(wrong_type("a header's name", "str", &name));
        }
        if !python::is_text(&value) {
            return Err(wrong_type("a header's value", "str", &value));
        }
        let writer = live.claim.writer();
        python::with_latin1(&name, |name| {
            python::with_latin1(&value, |value| writer.header(name, value))
        })??
        .map_err(|error| head_error(error, Some(&name), Some(&value)))?;
    }
    Ok(())
}

fn wrong_type(what: &str, wanted: &str, found: &Bound<'_, PyAny>) -> PyErr {
    let found = found.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!("{what} must be a {wanted}, not {found}"))
}

/// Says what was refused and why. The values are the application's own strings: shown as Python
/// would.
fn head_error(
    error: HeadError,
    name: Option<&Bound<'_, PyAny>>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyErr {
    // Not by `repr`: it may be the application's, and this runs under the request's mutex.
    let show = |text: Option<&Bound<'_, PyAny>>| match text {
        Some(text) => python::with_latin1(text, |bytes| format!("'{}'", bytes.escape_ascii()))
            .unwrap_or_default(),
        None => String::new(),
    };
    let (name, value) = (show(name), show(value));
    match error {
        HeadError::Status => PyValueError::new_err(format!(
            "status {name}: must be three digits, a space and a reason without control characters"
        )),
        HeadError::Name => {
            PyValueError::new_err(format!("header name {name}: not a token (RFC 9110 §5.1)"))
        }
        HeadError::Value => PyValueError::new_err(format!(
            "header {name}: value {value} holds a control character (header injection?)"
        )),
        HeadError::HopByHop => PyValueError::new_err(format!(
            "header {name}: hop-by-hop headers are the server's (PEP 3333)"
        )),
        HeadError::ContentLength => PyValueError::new_err(format!(
            "header {name}: {value} is not a length, or it was given twice"
        )),
        HeadError::TooLarge => {
            PyValueError::new_err(format!("header {name}: the response's head grows too large"))
        }
        HeadError::Committed => PyRuntimeError::new_err("the response's head is out already"),
        HeadError::NoHead => PyRuntimeError::new_err("a header without a status"),
        HeadError::Forked => PyRuntimeError::new_err("this is a forked child"),
    }
}

fn write_data(request: &Request<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    if !python::is_bytes(data) {
        return Err(wrong_type("what write() sends", "bytes", data));
    }
    match send_bytes(request, python::bytes_body(data), true)? {
        // Whoever left cannot be told, and is no error of the application's: it learns of it by
        // `ringhorn.client_disconnected`, and one that writes without end by its deadline.
        Sent::Whole | Sent::Abandoned => Ok(()),
        Sent::PastLength => Err(PyValueError::new_err(
            "write() past the Content-Length that start_response was given",
        )),
    }
}

/// What became of a piece of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it is in the ring.
    Whole,
    /// What fitted into Content-Length is; the rest never leaves.
    PastLength,
    /// Nobody wants it any more.
    Abandoned,
}

/// Puts one piece of the response into the ring, waiting without the GIL while the ring is full;
/// then, if `flush` is set, tells the loop. An empty piece sends nothing, not even the head.
pub fn send_bytes(request: &Request<'_>, mut bytes: &[u8], flush: bool) -> PyResult<Sent> {
    loop {
        let step = request.with(|py, live| {
            live.require_head()?;
            Ok(put(py, live, &mut bytes, flush))
        })?;
        match step {
            Put::Done(sent) => return Ok(sent),
            // Signal handlers run here, not under the request's mutex.
            Put::Waited => request.py().check_signals()?,
        }
    }
}

/// What one try gave.
pub enum Put {
    /// The piece is dealt with.
    Done(Sent),
    /// The ring was full; room has been waited for.
    Waited,
}

/// One try to put `bytes` into the ring; what was taken is cut off their front.
pub fn put(py: Python<'_>, live: &mut Live, bytes: &mut &[u8], flush: bool) -> Put {
    let writer = live.claim.writer();
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => {
                return match py.detach(|| writer.wait_for_room()) {
                    RequestWake::Ready => Put::Waited,
                    RequestWake::Cancelled | RequestWake::Stop => Put::Done(Sent::Abandoned),
                };
            }
            Ok(taken) => *bytes = &bytes[taken..],
            Err(WriteError::PastLength) => return Put::Done(Sent::PastLength),
            // The caller has checked that there is a head and that this is no child: what is left
            // is that the loop gave the request up.
            Err(WriteError::Abandoned | WriteError::NoHead | WriteError::Forked) => {
                return Put::Done(Sent::Abandoned);
            }
        }
    }
    if flush {
        writer.flush();
    }
    Put::Done(Sent::Whole)
}
