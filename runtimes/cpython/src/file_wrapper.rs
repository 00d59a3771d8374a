//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling").
//!
//! Where it stands in the walk of a request: made by the application, recognised by `response` when
//! it is exactly the object the application returned; anywhere else (wrapped by middleware) it is
//! an ordinary iterable of blocks.
//!
//! Contract: nothing is read before the object is returned or iterated; transmission starts at the
//! file object's own position; `close` exists if and only if the wrapped object has one.
//!
//! How it is sent: a regular file behind a buffered or raw reader of `io` is read with `pread` from
//! that position, without the GIL; anything else by its own `read`. Both go through the response
//! ring.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::python;
use crate::request::Request;
use crate::start_response::{Put, Sent, put, send_bytes};

/// PEP 3333 leaves the default block size to the server; this is what `io` reads well.
const BLOCK_BYTES: isize = 64 * 1024;

/// The Python object's memory.
#[repr(C)]
struct WrapperObject {
    base: ffi::PyObject,
    /// The wrapped file-like object; owned; null only while it is being made or cleared.
    file: *mut ffi::PyObject,
    /// How many bytes one read asks for; at least 1.
    block_bytes: isize,
}

struct WrapperType(NonNull<ffi::PyTypeObject>);
// SAFETY: a pointer to a type that lives as long as the process.
unsafe impl Send for WrapperType {}
// SAFETY: as above; never written again.
unsafe impl Sync for WrapperType {}

static TYPE: OnceLock<WrapperType> = OnceLock::new();

const NAME: &CStr = c"ringhorn.FileWrapper";

/// Makes the type; once, when the module is loaded.
pub fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let slots = vec![
        python::slot(ffi::Py_tp_new, new as *mut c_void),
        python::slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        python::slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        python::slot(ffi::Py_tp_clear, clear as *mut c_void),
        python::slot(ffi::Py_tp_getattro, attribute as *mut c_void),
        python::slot(ffi::Py_tp_iter, iterate as *mut c_void),
        python::slot(ffi::Py_tp_iternext, next_block as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC;
    // SAFETY: the size is that of the object the slots expect, and each slot holds its own
    // signature.
    let made = unsafe {
        python::make_type(py, NAME, size_of::<WrapperObject>(), flags, Vec::new(), slots)?
    };
    let pointer = NonNull::new(made.clone().into_ptr().cast())
        .ok_or_else(|| PyRuntimeError::new_err("no type for wsgi.file_wrapper"))?;
    TYPE.get_or_init(|| WrapperType(pointer));
    Ok(made)
}

/// Whether the object is exactly a wrapper of ours.
#[inline]
pub fn is_wrapper(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: reads a live object's type.
    TYPE.get().is_some_and(|kind| unsafe { ffi::Py_TYPE(object.as_ptr()) } == kind.0.as_ptr())
}

/// Sends a wrapper that the application returned.
pub fn send(request: &Request<'_>, wrapper: &Bound<'_, PyAny>) -> PyResult<Sent> {
    let (file, block_bytes) = parts(wrapper)?;
    if let Some(span) = Span::of(&file)? {
        return send_span(request, span);
    }
    if request.with(|_, live| Ok(live.is_bodiless()))? {
        return Ok(Sent::Whole);
    }
    loop {
        let block = file.call_method1("read", (block_bytes,))?;
        let bytes = expect_bytes(&block)?;
        if bytes.is_empty() {
            return Ok(Sent::Whole);
        }
        let sent = send_bytes(request, bytes, true)?;
        if sent != Sent::Whole || request.with(|_, live| Ok(live.is_full()))? {
            return Ok(sent);
        }
    }
}

fn expect_bytes<'a>(block: &'a Bound<'_, PyAny>) -> PyResult<&'a [u8]> {
    if python::is_bytes(block) {
        Ok(python::bytes_body(block))
    } else {
        Err(PyTypeError::new_err("wsgi.file_wrapper: the file's read() must return bytes"))
    }
}

/// A part of a regular file.
#[derive(Clone, Copy)]
struct Span {
    descriptor: c_int,
    from: i64,
    bytes: u64,
}

impl Span {
    /// What lies between a real file's position and its end; None for anything that is not one.
    fn of(file: &Bound<'_, PyAny>) -> PyResult<Option<Span>> {
        let io = file.py().import("io")?;
        let kind = file.get_type();
        // Exactly these: a subclass may give out other bytes than its descriptor.
        let exact = ["BufferedReader", "FileIO", "BufferedRandom"]
            .iter()
            .any(|name| io.getattr(*name).is_ok_and(|exact| kind.is(&exact)));
        if !exact {
            return Ok(None);
        }
        if kind.name()? == "BufferedRandom" {
            file.call_method0("flush")?;
        }
        let Ok(descriptor) = file.call_method0("fileno").and_then(|number| number.extract()) else {
            return Ok(None);
        };
        let Some(size) = regular_file_size(descriptor) else { return Ok(None) };
        // Not lseek: a buffered reader has read ahead of its own position.
        let from: i64 = file.call_method0("tell")?.extract()?;
        let bytes = u64::try_from(size - from).unwrap_or(0);
        Ok(Some(Span { descriptor, from, bytes }))
    }
}

fn regular_file_size(descriptor: c_int) -> Option<i64> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the call writes the whole structure when it succeeds, and only then is it read.
    unsafe {
        if libc::fstat(descriptor, status.as_mut_ptr()) != 0 {
            return None;
        }
        let status = status.assume_init();
        (status.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(status.st_size)
    }
}

/// Reads the span piece by piece into the ring. The wrapper holds the file object open meanwhile;
/// only the application could close it under us, which pread then reports.
fn send_span(request: &Request<'_>, span: Span) -> PyResult<Sent> {
    request.with(|_, live| {
        live.require_head()?;
        live.claim.writer().state_length(span.bytes);
        Ok(())
    })?;
    if request.with(|_, live| Ok(live.is_bodiless()))? {
        return Ok(Sent::Whole);
    }
    let mut buffer = vec![0u8; BLOCK_BYTES as usize];
    let (mut at, mut left) = (span.from, span.bytes);
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = {
            let into = &mut buffer[..want];
            request.py().detach(|| read_at(span.descriptor, into, at))?
        };
        if got == 0 {
            // The file shrank: the shortfall is noticed when the response is finished.
            return Ok(Sent::Whole);
        }
        at += got as i64;
        left -= got as u64;
        let mut rest = &buffer[..got];
        loop {
            match request.with(|py, live| Ok(put(py, live, &mut rest, false)))? {
                Put::Waited => request.py().check_signals()?,
                Put::Done(Sent::Whole) => break,
                Put::Done(other) => return Ok(other),
            }
        }
    }
    Ok(Sent::Whole)
}

fn read_at(descriptor: c_int, into: &mut [u8], at: i64) -> PyResult<usize> {
    loop {
        // SAFETY: writes at most `into.len()` bytes into `into`; a descriptor that the application
        // closed meanwhile makes the call fail.
        let got = unsafe { libc::pread(descriptor, into.as_mut_ptr().cast(), into.len(), at) };
        if let Ok(got) = usize::try_from(got) {
            return Ok(got);
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
}

fn parts<'py>(wrapper: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, isize)> {
    assert!(is_wrapper(wrapper), "callers check the type");
    // SAFETY: checked in the line above; `file` is null or owned by the wrapper, which `wrapper`
    // keeps alive.
    unsafe {
        let object = wrapper.as_ptr().cast::<WrapperObject>();
        let file = Bound::from_borrowed_ptr_or_opt(wrapper.py(), (*object).file)
            .ok_or_else(|| PyRuntimeError::new_err("the file wrapper was cleared"))?;
        Ok((file, (*object).block_bytes))
    }
}

unsafe extern "C" fn new(
    kind: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with a tuple and a dict or null.
    unsafe {
        let py = python::attached();
        let result = parse(py, arguments, keywords).and_then(|(file, block_bytes)| {
            let object = ffi::PyType_GenericAlloc(kind, 0);
            let bound = Bound::from_owned_ptr_or_err(py, object)?;
            let object = object.cast::<WrapperObject>();
            (*object).block_bytes = block_bytes;
            (*object).file = file.into_ptr();
            Ok(bound)
        });
        python::hand_back(py, result)
    }
}

/// `FileWrapper(filelike, blksize=65536)`; also `block_size`, as PEP 3333's own example calls it.
///
/// # Safety
/// A live tuple and a live dict or null.
unsafe fn parse<'py>(
    py: Python<'py>,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> PyResult<(Bound<'py, PyAny>, isize)> {
    // SAFETY: the caller's promise.
    let (arguments, keywords) = unsafe {
        (Bound::from_borrowed_ptr(py, arguments), Bound::from_borrowed_ptr_or_opt(py, keywords))
    };
    let arguments = arguments.cast::<PyTuple>()?;
    let wrong = || PyTypeError::new_err("file_wrapper takes a file-like object and a block size");
    let named = keywords.as_ref().map_or(Ok(0), |keywords| keywords.len())?;
    if arguments.is_empty() || arguments.len() + named > 2 {
        return Err(wrong());
    }
    let file = arguments.get_item(0)?;
    let mut block = arguments.get_item(1).ok();
    if let Some(keywords) = keywords
        && named == 1
    {
        let given = ["blksize", "block_size", "buffer_size"].iter();
        block = given.filter_map(|name| keywords.get_item(*name).ok()).next();
        if block.is_none() {
            return Err(wrong());
        }
    }
    let block_bytes = match block {
        Some(block) => block.extract::<isize>()?,
        None => BLOCK_BYTES,
    };
    // Not a bound on what is right, only on what is sane: a block is read into memory at once.
    Ok((file, block_bytes.clamp(1, 16 << 20)))
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone. Untracked first, so that the collector cannot see a
    // half-freed object; a heap type's instance holds a reference to its type.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        clear(object);
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(kind.cast());
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live object of ours and its own visitor.
    unsafe {
        let file = (*object.cast::<WrapperObject>()).file;
        if !file.is_null() {
            let result = visit(file, argument);
            if result != 0 {
                return result;
            }
        }
        visit(ffi::Py_TYPE(object).cast(), argument)
    }
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the field is emptied before the reference goes, because its destructor may look at
    // us.
    unsafe {
        let object = object.cast::<WrapperObject>();
        let file = std::mem::replace(&mut (*object).file, ptr::null_mut());
        ffi::Py_XDECREF(file);
    }
    0
}

/// `tp_getattro`: `close` is the wrapped object's own, and missing if that has none.
unsafe extern "C" fn attribute(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with live objects; `file` stays alive through the look-up
    // because a reference is taken.
    unsafe {
        let py = python::attached();
        let text = Bound::from_borrowed_ptr(py, name);
        let is = |wanted: &str| text.eq(wanted).unwrap_or(false);
        let file = (*object.cast::<WrapperObject>()).file;
        if file.is_null() || !(is("close") || is("filelike") || is("blksize")) {
            return ffi::PyObject_GenericGetAttr(object, name);
        }
        let file = Bound::from_borrowed_ptr(py, file);
        if is("close") {
            return ffi::PyObject_GetAttr(file.as_ptr(), name);
        }
        if is("filelike") {
            return file.into_ptr();
        }
        ffi::PyLong_FromSsize_t((*object.cast::<WrapperObject>()).block_bytes)
    }
}

unsafe extern "C" fn iterate(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with a live object.
    unsafe { python::another_reference(object) }
}

unsafe extern "C" fn next_block(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by the interpreter with an object of our type (or of a subclass, which has our
    // layout).
    unsafe {
        let py = python::attached();
        let wrapper = object.cast::<WrapperObject>();
        let Some(file) = Bound::from_borrowed_ptr_or_opt(py, (*wrapper).file) else {
            return ptr::null_mut();
        };
        match file.call_method1("read", ((*wrapper).block_bytes,)) {
            Ok(block) if block.len().is_ok_and(|length| length == 0) => ptr::null_mut(),
            result => python::hand_back(py, result),
        }
    }
}
