//! `wsgi.input`: the request's body as a readable stream.
//!
//! Where it stands in the walk of a request: while the application runs; the bytes come through the
//! slot's request ring, filled by the event loop.
//!
//! Contract (PEP 3333, "Input and Error Streams", and `wsgi.input_terminated`): `read`, `readline`
//! and `readlines` take an optional size where None and negative numbers mean "all"; iteration
//! gives lines; the end of the body is `b""`, again and again; `close()` is harmless. `read(n)`
//! returns n bytes unless the body ends before. A body that is cut short raises OSError, never
//! looks like its end.
//!
//! Invariants: bytes are copied once, from the ring into the object that is returned. The GIL is
//! released only when there are no bytes to be had.
#![allow(unsafe_code)]

use std::slice;

use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use ringhorn_exchange::{BodyRead, RequestWake};

use crate::bytes_maker::BytesMaker;
use crate::python::{self, Convention};
use crate::request::{Live, Request};

/// Bytes set aside before they arrive, at most: a client that announces a large body and sends
/// little must not cost its announced size.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// First room for a line whose length is unknown.
const LINE_BYTES: usize = 256;

/// The methods of the type.
pub fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        python::method(
            c"read",
            Convention::Fast(read),
            c"read(size=-1, /)\n--\n\nReads size bytes, or all; less only at the end of the body.",
        ),
        python::method(
            c"readline",
            Convention::Fast(readline),
            c"readline(size=-1, /)\n--\n\nReads one line with its end, at most size bytes.",
        ),
        python::method(
            c"readlines",
            Convention::Fast(readlines),
            c"readlines(hint=-1, /)\n--\n\nReads lines until hint bytes are reached, or all.",
        ),
        python::method(
            c"close",
            Convention::NoArguments(close),
            c"close()\n--\n\nDoes nothing: the stream belongs to the server.",
        ),
        python::method(c"readable", Convention::NoArguments(readable), c"readable()\n--\n\nTrue."),
    ]
}

unsafe extern "C" fn read(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with our object and `count` arguments.
    let (request, size) = unsafe { entry(object, arguments, count) };
    let result = size.and_then(|size| read_bytes(&request, size));
    python::hand_back(request.py(), result)
}

unsafe extern "C" fn readline(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with our object and `count` arguments.
    let (request, size) = unsafe { entry(object, arguments, count) };
    let result = size.and_then(|size| read_line(&request, size));
    python::hand_back(request.py(), result)
}

unsafe extern "C" fn readlines(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with our object and `count` arguments.
    let (request, hint) = unsafe { entry(object, arguments, count) };
    let result = hint.and_then(|hint| read_lines(&request, hint));
    python::hand_back(request.py(), result)
}

unsafe extern "C" fn close(
    _object: *mut ffi::PyObject,
    _unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter; a new reference to None.
    unsafe { python::another_reference(ffi::Py_None()) }
}

unsafe extern "C" fn readable(
    _object: *mut ffi::PyObject,
    _unused: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter; a new reference to True.
    unsafe { python::another_reference(ffi::Py_True()) }
}

/// `tp_iter`: the stream is its own iterator.
pub unsafe extern "C" fn iterate(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with a live object.
    unsafe { python::another_reference(object) }
}

/// `tp_iternext`: the next line; null without an exception at the end.
pub unsafe extern "C" fn next_line(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with an object of our type.
    let request = unsafe { Request::from_self(python::attached(), object) };
    match read_line(&request, None) {
        Ok(line) if python::bytes_body(&line).is_empty() => std::ptr::null_mut(),
        result => python::hand_back(request.py(), result),
    }
}

/// The object, and its one optional size.
///
/// # Safety
/// The arguments are those of a `METH_FASTCALL` method of this type.
unsafe fn entry<'py>(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> (Request<'py>, PyResult<Option<usize>>) {
    // SAFETY: the caller's promise: an attached thread, our object, `count` live arguments.
    unsafe {
        let py = python::attached();
        let request = Request::from_self(py, object);
        let size = match count {
            0 => Ok(None),
            1 => size_argument(&Bound::from_borrowed_ptr(py, *arguments)),
            _ => Err(PyTypeError::new_err("at most one argument: the size")),
        };
        (request, size)
    }
}

/// None and negative numbers mean "no bound".
fn size_argument(size: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    if size.is_none() {
        return Ok(None);
    }
    // SAFETY: a live object; null exception type means that numbers out of range are clipped.
    let number = unsafe { ffi::PyNumber_AsSsize_t(size.as_ptr(), std::ptr::null_mut()) };
    if number == -1
        && let Some(error) = PyErr::take(size.py())
    {
        return Err(error);
    }
    Ok(usize::try_from(number).ok())
}

/// What is beyond a ring that showed no bytes.
enum Look {
    /// A byte that came meanwhile.
    Byte(u8),
    /// The body's end.
    End,
    /// There was nothing; it has been waited for.
    Waited,
}

/// Finds out why there are no bytes; waits once, without the GIL, when more are to come.
fn look(py: Python<'_>, live: &mut Live) -> PyResult<Look> {
    let mut byte = 0u8;
    match live.claim.read_body(slice::from_mut(&mut byte)) {
        BodyRead::Bytes(count) => {
            count_down(live, count);
            Ok(Look::Byte(byte))
        }
        BodyRead::End => Ok(Look::End),
        BodyRead::Broken => Err(PyOSError::new_err(
            "the request body was cut short: the client went away, stalled or sent garbage",
        )),
        BodyRead::Pending => {
            let claim = &mut live.claim;
            match py.detach(|| claim.wait_for_body()) {
                RequestWake::Ready => Ok(Look::Waited),
                RequestWake::Cancelled => {
                    Err(PyOSError::new_err("the request was given up while its body was awaited"))
                }
                RequestWake::Stop => Err(PyOSError::new_err("the server stops")),
            }
        }
    }
}

/// Whether a reader has what it wants.
enum Step {
    Done,
    /// It waited: signal handlers may run now (not under the request's mutex), then it goes on.
    Waited,
}

fn read_bytes<'py>(request: &Request<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
    let (wanted, room) = request.with(|_, live| {
        let left =
            live.body_left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let wanted = size.unwrap_or(usize::MAX).min(left);
        let here = live.claim.body_piece().len();
        let first = if wanted == usize::MAX { here.max(LINE_BYTES) } else { wanted };
        Ok((wanted, first.min(RESERVE_BYTES_MAX.max(here))))
    })?;
    if wanted == 0 {
        return Ok(PyBytes::new(request.py(), b"").into_any());
    }
    let mut bytes = BytesMaker::new(request.py(), room)?;
    while let Step::Waited = request.with(|py, live| fill(py, live, &mut bytes, wanted))? {
        request.py().check_signals()?;
    }
    bytes.freeze()
}

/// Reads into `bytes` until there are `wanted` in it, the body ends or has to be waited for.
fn fill(
    py: Python<'_>,
    live: &mut Live,
    bytes: &mut BytesMaker<'_>,
    wanted: usize,
) -> PyResult<Step> {
    while bytes.filled() < wanted {
        if bytes.room() == 0 {
            bytes.grow(bytes.filled().saturating_mul(2).min(wanted))?;
        }
        let piece = live.claim.body_piece();
        let count = piece.len().min(bytes.room()).min(wanted - bytes.filled());
        if count > 0 {
            bytes.push(&piece[..count]);
            live.claim.consume_body(count);
            count_down(live, count);
            continue;
        }
        match look(py, live)? {
            Look::Byte(byte) => bytes.push(&[byte]),
            Look::End => break,
            Look::Waited => return Ok(Step::Waited),
        }
    }
    Ok(Step::Done)
}

fn read_line<'py>(request: &Request<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
    let most = size.unwrap_or(usize::MAX);
    // The usual case: the whole line lies in one piece of the ring.
    let whole = request.with(|py, live| {
        if most == 0 || live.body_left == Some(0) {
            return Ok(Some(PyBytes::new(py, b"").into_any()));
        }
        let piece = live.claim.body_piece();
        let (count, complete) = line_in(piece, most);
        if !complete {
            return Ok(None);
        }
        let line = PyBytes::new(py, &piece[..count]);
        live.claim.consume_body(count);
        count_down(live, count);
        Ok(Some(line.into_any()))
    })?;
    if let Some(line) = whole {
        return Ok(line);
    }
    let mut line = BytesMaker::new(request.py(), LINE_BYTES)?;
    while let Step::Waited = request.with(|py, live| fill_line(py, live, &mut line, most))? {
        request.py().check_signals()?;
    }
    line.freeze()
}

/// Reads into `line` until its end or `most` bytes are in it, the body ends or has to be waited
/// for.
fn fill_line(
    py: Python<'_>,
    live: &mut Live,
    line: &mut BytesMaker<'_>,
    most: usize,
) -> PyResult<Step> {
    loop {
        let piece = live.claim.body_piece();
        let (count, complete) = line_in(piece, most - line.filled());
        if line.room() < count + 1 {
            line.grow((line.filled() + count + 1).saturating_mul(2))?;
        }
        line.push(&piece[..count]);
        live.claim.consume_body(count);
        count_down(live, count);
        if complete {
            return Ok(Step::Done);
        }
        // The piece is used up. One byte more tells whether the body goes on.
        match look(py, live)? {
            Look::Byte(byte) => {
                line.push(&[byte]);
                if byte == b'\n' || line.filled() == most {
                    return Ok(Step::Done);
                }
            }
            Look::End => return Ok(Step::Done),
            Look::Waited => return Ok(Step::Waited),
        }
    }
}

fn count_down(live: &mut Live, count: usize) {
    if let Some(left) = &mut live.body_left {
        *left = left.saturating_sub(count as u64);
    }
}

/// How many bytes of `piece` belong to the line, and whether the line (or `most`) ends with them.
fn line_in(piece: &[u8], most: usize) -> (usize, bool) {
    let piece = &piece[..piece.len().min(most)];
    match memchr::memchr(b'\n', piece) {
        Some(at) => (at + 1, true),
        None => (piece.len(), piece.len() == most),
    }
}

fn read_lines<'py>(request: &Request<'py>, hint: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
    let lines = PyList::empty(request.py());
    // As in `io`: a hint of 0 means no bound either.
    let bound = hint.filter(|&hint| hint > 0).unwrap_or(usize::MAX);
    let mut total = 0;
    while total < bound {
        let line = read_line(request, None)?;
        let length = python::bytes_body(&line).len();
        if length == 0 {
            break;
        }
        total += length;
        lines.append(line)?;
    }
    Ok(lines.into_any())
}
