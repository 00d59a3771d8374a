//! A `bytes` object that is filled piece by piece.
//!
//! Where it stands in the walk of a request: under `input`, which copies body bytes from the ring
//! straight into the object that it returns.
//!
//! Invariant: until it is frozen the object has one reference, ours, so its body may be written.
#![allow(unsafe_code)]

#[cfg(not(Py_LIMITED_API))]
use std::ffi::c_int;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

#[cfg(not(Py_LIMITED_API))]
unsafe extern "C" {
    // Documented, but private in pyo3-ffi.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// A `bytes` object under construction: written through a slice, then frozen. Nobody else sees it
/// before.
pub struct BytesMaker<'py> {
    py: Python<'py>,
    /// Owned; null after a failed resize.
    object: *mut ffi::PyObject,
    capacity: usize,
    filled: usize,
}

impl<'py> BytesMaker<'py> {
    /// Room for `capacity` bytes.
    pub fn new(py: Python<'py>, capacity: usize) -> PyResult<Self> {
        // CPython's empty bytes object is shared: never ask for room 0.
        let capacity = capacity.max(1);
        // SAFETY: a null source means "uninitialised, to be filled by the caller".
        let object =
            unsafe { ffi::PyBytes_FromStringAndSize(ptr::null(), capacity as ffi::Py_ssize_t) };
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        Ok(BytesMaker { py, object, capacity, filled: 0 })
    }

    fn body(&self) -> *mut u8 {
        // SAFETY: the object is a bytes object of ours alone.
        unsafe { ffi::PyBytes_AsString(self.object).cast::<u8>() }
    }

    /// Bytes written so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.filled
    }

    /// Appends bytes, which must fit.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "callers look for room first");
        // SAFETY: checked in the line above; the body is ours alone, so it does not overlap the
        // source, and writing needs no initialised memory.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.body().add(self.filled), bytes.len());
        }
        self.filled += bytes.len();
    }

    /// Makes room for `capacity` bytes in all.
    pub fn grow(&mut self, capacity: usize) -> PyResult<()> {
        assert!(capacity >= self.filled, "growing never loses bytes");
        self.resize(capacity)
    }

    #[cfg(not(Py_LIMITED_API))]
    fn resize(&mut self, capacity: usize) -> PyResult<()> {
        // SAFETY: the object has one reference, ours; on failure it is freed and the pointer set to
        // null.
        if unsafe { _PyBytes_Resize(&mut self.object, capacity as ffi::Py_ssize_t) } != 0 {
            self.capacity = 0;
            self.filled = 0;
            return Err(PyErr::fetch(self.py));
        }
        self.capacity = capacity;
        Ok(())
    }

    /// The limited API cannot resize: the bytes move to an object of the new size.
    #[cfg(Py_LIMITED_API)]
    fn resize(&mut self, capacity: usize) -> PyResult<()> {
        let mut other = BytesMaker::new(self.py, capacity)?;
        // SAFETY: the first `filled` bytes of the body were written, and nobody changes them
        // meanwhile.
        other.push(unsafe { std::slice::from_raw_parts(self.body(), self.filled) });
        *self = other;
        Ok(())
    }

    /// The finished object, exactly as long as what was written.
    pub fn freeze(mut self) -> PyResult<Bound<'py, PyAny>> {
        if self.filled == 0 {
            return Ok(PyBytes::new(self.py, b"").into_any());
        }
        if self.filled < self.capacity {
            self.resize(self.filled)?;
        }
        let object = std::mem::replace(&mut self.object, ptr::null_mut());
        // SAFETY: an owned bytes object, given away here.
        Ok(unsafe { Bound::from_owned_ptr(self.py, object) })
    }
}

impl Drop for BytesMaker<'_> {
    fn drop(&mut self) {
        // SAFETY: null (given away or freed) or our only reference; the token proves we are
        // attached.
        unsafe { ffi::Py_XDECREF(self.object) };
    }
}
