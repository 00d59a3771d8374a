//! From what the application returned to the bytes in the slot's response ring.
//!
//! Where it stands in the walk of a request: after the call of the application, before the claim is
//! finished.
//!
//! Contract (PEP 3333, "Handling the start_response and the iterable"): empty pieces send nothing;
//! the head leaves with the first non-empty one or at the end; each piece is handed to the event
//! loop before the next is asked for; not a byte past Content-Length, and no more iteration once it
//! is reached; a body of one piece gets a Content-Length; HEAD, 1xx, 204 and 304 have none. An
//! exception before the head has left becomes a 500; after that the response is cut so that it
//! cannot look whole.
//!
//! Invariants: [`deliver`] and [`refuse`] leave the request detached and the claim finished on
//! every path. The application's `close()` is called exactly once on every path of [`deliver`],
//! after the claim was finished, so that the client does not wait for it.

use pyo3::exceptions::{PySystemExit, PyTypeError};
use pyo3::prelude::*;
use ringhorn_exchange::{ResponseEnd, is_forked};

use crate::file_wrapper;
use crate::python::{self, Shape};
use crate::request::{Live, Request};
use crate::seat::Incidents;
use crate::start_response::{Put, Sent, put, send_bytes};
use crate::system::exit_now;

const ERROR_STATUS: &[u8] = b"500 Internal Server Error";
const ERROR_BODY: &[u8] = b"Internal Server Error\n";

/// Sends what the application returned, finishes the claim and closes the result.
pub fn deliver(request: &Request<'_>, result: Bound<'_, PyAny>, incidents: &Incidents<'_, '_>) {
    let shape = python::shape(&result);
    match send(request, &result, shape) {
        Ok(sent) => conclude(request, sent, incidents),
        Err(error) => refuse(request, error, incidents),
    }
    if shape == Shape::Other {
        close(&result, incidents);
    }
}

/// Answers for an application that raised: 500 if nothing has left, else a visible cut.
pub fn refuse(request: &Request<'_>, error: PyErr, incidents: &Incidents<'_, '_>) {
    if is_forked() {
        leave_child(request.py(), error, incidents);
    }
    let Some(mut live) = request.take() else { return };
    let abandoned = live.claim.is_abandoned();
    if !(abandoned && incidents.has_interrupted(&error)) {
        incidents.report("the application raised an exception", Some(error));
    }
    let end = if !abandoned && !live.claim.writer().is_committed() && write_error(&mut live) {
        ResponseEnd::Complete
    } else {
        ResponseEnd::Broken
    };
    live.claim.finish(end);
}

/// Puts a whole 500 into the ring, which is empty: true if it went in.
fn write_error(live: &mut Live) -> bool {
    let writer = live.claim.writer();
    let head = writer
        .begin_head(ERROR_STATUS)
        .and_then(|()| writer.header(b"Content-Type", b"text/plain; charset=utf-8"));
    if head.is_err() {
        return false;
    }
    writer.state_length(ERROR_BODY.len() as u64);
    writer.write(ERROR_BODY) == Ok(ERROR_BODY.len())
}

/// A forked child came back from the application by an exception. It leaves here: the claim is the
/// parent's.
fn leave_child(py: Python<'_>, error: PyErr, incidents: &Incidents<'_, '_>) -> ! {
    let code = match error.value(py).getattr("code") {
        Ok(code) if error.is_instance_of::<PySystemExit>(py) => {
            if code.is_none() {
                0
            } else {
                code.extract().unwrap_or(1)
            }
        }
        _ => {
            incidents.report("a forked child left the application by an exception", Some(error));
            1
        }
    };
    exit_now(code)
}

/// The application has returned all it has: finish, and say so if that was less than it stated.
fn conclude(request: &Request<'_>, sent: Sent, incidents: &Incidents<'_, '_>) {
    if is_forked() {
        exit_now(0);
    }
    let Some(mut live) = request.take() else { return };
    if sent == Sent::Abandoned {
        live.claim.finish(ResponseEnd::Broken);
        return;
    }
    if sent == Sent::PastLength {
        incidents.report("the body is longer than its Content-Length: the rest was dropped", None);
    }
    let short = match live.claim.writer().remaining() {
        Some(missing) if missing > 0 && !live.bodiless => Some(missing),
        _ => None,
    };
    // The writer itself makes a short body a broken one.
    live.claim.finish(ResponseEnd::Complete);
    if let Some(missing) = short {
        let what = format!("the body is {missing} bytes shorter than its Content-Length");
        incidents.report(&what, None);
    }
}

fn send(request: &Request<'_>, result: &Bound<'_, PyAny>, shape: Shape) -> PyResult<Sent> {
    match shape {
        Shape::List | Shape::Tuple => send_sequence(request, result, shape),
        Shape::Bytes => send_only(request, result),
        Shape::Other if file_wrapper::is_wrapper(result) => file_wrapper::send(request, result),
        Shape::Other => send_iterable(request, result),
    }
}

/// A body of one piece: head and body are in the ring before the loop hears of either.
#[inline]
fn send_only(request: &Request<'_>, piece: &Bound<'_, PyAny>) -> PyResult<Sent> {
    let mut bytes = python::bytes_body(piece);
    let first = request.with(|py, live| {
        live.require_head()?;
        let writer = live.claim.writer();
        if !writer.is_committed() {
            writer.state_length(bytes.len() as u64);
        }
        if live.bodiless {
            return Ok(Put::Done(Sent::Whole));
        }
        Ok(put(py, live, &mut bytes, false))
    })?;
    match first {
        Put::Done(sent) => Ok(sent),
        Put::Waited => {
            request.py().check_signals()?;
            send_bytes(request, bytes, false)
        }
    }
}

/// Exactly a list or tuple: all pieces are there, so the length is known and nothing need leave
/// early.
fn send_sequence(request: &Request<'_>, pieces: &Bound<'_, PyAny>, shape: Shape) -> PyResult<Sent> {
    if python::sequence_length(pieces, shape) == 1
        && let Some(piece) = python::sequence_item(pieces, shape, 0)
        && python::is_exact_bytes(&piece)
    {
        return send_only(request, &piece);
    }
    let mut total = 0;
    let mut index = 0;
    while let Some(piece) = python::sequence_item(pieces, shape, index) {
        total += expect_bytes(&piece)?.len() as u64;
        index += 1;
    }
    let bodiless = request.with(|_, live| {
        live.require_head()?;
        let writer = live.claim.writer();
        if !writer.is_committed() {
            writer.state_length(total);
        }
        Ok(live.bodiless)
    })?;
    index = 0;
    while let Some(piece) = python::sequence_item(pieces, shape, index)
        && !bodiless
    {
        let sent = send_bytes(request, expect_bytes(&piece)?, false)?;
        if sent != Sent::Whole {
            return Ok(sent);
        }
        index += 1;
    }
    Ok(Sent::Whole)
}

fn send_iterable(request: &Request<'_>, result: &Bound<'_, PyAny>) -> PyResult<Sent> {
    let iterator = python::iterator(result)?;
    // A length of 1 lets the server state the length of the body (PEP 3333); an iterable need not
    // have one.
    let only_one = !iterator.is(result) && python::has_items(result) && {
        result.len().is_ok_and(|length| length == 1)
    };
    let mut is_first = true;
    while let Some(piece) = python::next_item(&iterator)? {
        let bytes = expect_bytes(&piece)?;
        if bytes.is_empty() {
            continue;
        }
        let is_last = request.with(|_, live| {
            live.require_head()?;
            let bodiless = live.bodiless;
            let writer = live.claim.writer();
            if only_one && is_first && !writer.is_committed() {
                writer.state_length(bytes.len() as u64);
            }
            Ok(bodiless || writer.remaining() == Some(bytes.len() as u64))
        })?;
        is_first = false;
        // The last piece is not announced by itself: the end follows at once.
        let sent = send_bytes(request, bytes, !is_last)?;
        if sent != Sent::Whole || is_last {
            return Ok(sent);
        }
    }
    // An iterable without a non-empty piece may have ended without start_response.
    request.with(|_, live| live.require_head())?;
    Ok(Sent::Whole)
}

#[inline]
fn expect_bytes<'a>(piece: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    if python::is_bytes(piece) {
        return Ok(python::bytes_body(piece));
    }
    let found = piece.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    Err(PyTypeError::new_err(format!(
        "the application's iterable must give bytes, not {found} (PEP 3333)"
    )))
}

/// Calls `close()` if there is one. Its exception costs nobody but itself: the answer has left.
fn close(result: &Bound<'_, PyAny>, incidents: &Incidents<'_, '_>) {
    let outcome = match result.getattr_opt(pyo3::intern!(result.py(), "close")) {
        Ok(Some(method)) => method.call0().map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = outcome
        && !incidents.has_interrupted(&error)
    {
        incidents.report("close() of the application's iterable raised an exception", Some(error));
    }
}
