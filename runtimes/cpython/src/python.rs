//! The raw calls into the interpreter that the hot path needs, each behind a safe function.
//!
//! Where it stands in the walk of a request: below `environ`, `start_response`, `input` and
//! `response`. pyo3's own types carry ownership (`Bound`, `Py`: their moves and drops cost what a C
//! programmer's INCREF and DECREF cost while attached); pyo3's call trampolines and conversions are
//! not used here.
//!
//! Two builds share this file. The full API reads and writes string bodies in place; the limited
//! API (feature `abi3`) goes through the functions that every CPython since 3.9 exports.
//!
//! Invariant: a function here fails only through its `PyResult`; no success path asks
//! `PyErr_Occurred`.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// `METH_FASTCALL`. CPython 3.9 has this convention with the same value and signature, but names it
/// in the limited API only from 3.10 on.
const METH_FASTCALL: c_int = 0x0080;

/// Signature of a `METH_FASTCALL` method.
pub type FastFunction = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
) -> *mut ffi::PyObject;

/// Signature of a `METH_FASTCALL | METH_KEYWORDS` function.
pub type FastKeywordsFunction = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// The token inside a function that the interpreter called.
///
/// # Safety
/// The calling thread holds an attached thread state, as it does whenever the interpreter calls a
/// method or a slot of ours, and keeps it for `'py`.
#[inline]
pub unsafe fn attached<'py>() -> Python<'py> {
    // SAFETY: the caller's promise.
    unsafe { Python::assume_attached() }
}

/// Hands a result back to the interpreter: a new reference, or null with the exception set.
#[inline]
pub fn hand_back(py: Python<'_>, result: PyResult<Bound<'_, PyAny>>) -> *mut ffi::PyObject {
    match result {
        Ok(object) => object.into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

/// A new `str` from latin-1 bytes. `ascii` must be exact: true if and only if no byte is above 0x7F
/// (the exchange's record writer computes it).
#[inline]
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8], ascii: bool) -> PyResult<Bound<'py, PyAny>> {
    debug_assert_eq!(ascii, bytes.is_ascii());
    let length = bytes.len() as ffi::Py_ssize_t;
    // Empty and one-character strings are the interpreter's singletons; DecodeLatin1 returns those.
    #[cfg(not(Py_LIMITED_API))]
    if ascii && bytes.len() > 1 {
        // SAFETY: PyUnicode_New returns null or a fresh compact ASCII string of `length` bytes that
        // nobody else has seen yet, so its body may be written; `bytes` has exactly that length.
        return unsafe {
            let text = Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_New(length, 127))?;
            let body = ffi::PyUnicode_1BYTE_DATA(text.as_ptr());
            ptr::copy_nonoverlapping(bytes.as_ptr(), body, bytes.len());
            Ok(text)
        };
    }
    // SAFETY: pointer and length come from one slice; a null `errors` means strict, which latin-1
    // never uses.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), length, ptr::null());
        Bound::from_owned_ptr_or_err(py, text)
    }
}

/// Calls `read` with the latin-1 bytes of a `str` (a subclass too). Err(UnicodeEncodeError) for
/// characters above U+00FF; the object must be a `str`.
#[inline]
pub fn with_latin1<R>(text: &Bound<'_, PyAny>, read: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    assert_is_text(text);
    match ascii_body(text) {
        Some(bytes) => Ok(read(bytes)),
        None => {
            // SAFETY: `text` is a str; the result is a new bytes object or null with an exception.
            let bytes = unsafe {
                let bytes = ffi::PyUnicode_AsLatin1String(text.as_ptr());
                Bound::from_owned_ptr_or_err(text.py(), bytes)?
            };
            Ok(read(bytes_body(&bytes)))
        }
    }
}

/// The body of an ASCII `str`, or None for any other.
#[cfg(all(not(Py_LIMITED_API), not(Py_3_14)))]
#[inline]
fn ascii_body<'a>(text: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    // SAFETY: with_latin1 checked that this is a str. A compact ASCII string keeps its immutable
    // body right behind PyASCIIObject, `length` bytes long, for as long as the object lives, which
    // the borrow ensures.
    unsafe {
        let text = text.as_ptr();
        if ffi::PyUnicode_IS_COMPACT_ASCII(text) == 0 {
            return None;
        }
        let header = text.cast::<ffi::PyASCIIObject>();
        Some(std::slice::from_raw_parts(header.add(1).cast::<u8>(), (*header).length as usize))
    }
}

/// The body of an ASCII `str`, or None for any other.
#[cfg(any(Py_LIMITED_API, Py_3_14))]
#[inline]
fn ascii_body<'a>(text: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    let as_utf8 = as_utf8()?;
    let mut size: ffi::Py_ssize_t = 0;
    // SAFETY: with_latin1 checked that this is a str. For ASCII the returned pointer is the
    // string's own body; for others a UTF-8 form that the object keeps. Both live and stay
    // unchanged as long as the object.
    unsafe {
        let body = as_utf8(text.as_ptr(), &mut size);
        if body.is_null() {
            // A lone surrogate: AsLatin1String will say so in its own words.
            ffi::PyErr_Clear();
            return None;
        }
        // One byte a character is ASCII; every other character takes more in UTF-8.
        (size == ffi::PyUnicode_GetLength(text.as_ptr()))
            .then(|| std::slice::from_raw_parts(body.cast::<u8>(), size as usize))
    }
}

/// `PyUnicode_AsUTF8AndSize`.
#[cfg(any(Py_LIMITED_API, Py_3_14))]
type AsUtf8 =
    unsafe extern "C" fn(*mut ffi::PyObject, *mut ffi::Py_ssize_t) -> *const std::ffi::c_char;

#[cfg(all(not(Py_LIMITED_API), Py_3_14))]
#[inline]
fn as_utf8() -> Option<AsUtf8> {
    Some(ffi::PyUnicode_AsUTF8AndSize)
}

/// The limited API has the function from 3.10 on: there it is looked up, once. On 3.9 strings are
/// read by way of a copy.
#[cfg(Py_LIMITED_API)]
#[inline]
fn as_utf8() -> Option<AsUtf8> {
    static FOUND: std::sync::OnceLock<Option<AsUtf8>> = std::sync::OnceLock::new();
    *FOUND.get_or_init(find_as_utf8)
}

#[cfg(Py_LIMITED_API)]
#[cold]
fn find_as_utf8() -> Option<AsUtf8> {
    union Symbol {
        address: *mut c_void,
        function: AsUtf8,
    }
    // SAFETY: a static text. Both calls only look.
    let (version, address) = unsafe {
        let name = c"PyUnicode_AsUTF8AndSize".as_ptr();
        (CStr::from_ptr(ffi::Py_GetVersion()), libc::dlsym(libc::RTLD_DEFAULT, name))
    };
    if address.is_null() || version.to_bytes().starts_with(b"3.9.") {
        return None;
    }
    // SAFETY: not null, and in every CPython from 3.10 on a function of this signature (stable
    // ABI).
    Some(unsafe { Symbol { address }.function })
}

#[inline]
fn assert_is_text(text: &Bound<'_, PyAny>) {
    assert!(is_text(text), "callers check that the object is a str");
}

/// Whether the object is a `str` or of a subclass.
#[inline]
pub fn is_text(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: reads the type flags of a live object.
    unsafe { ffi::PyUnicode_Check(object.as_ptr()) != 0 }
}

/// Whether the object's type is `str` itself.
#[inline]
pub fn is_exact_text(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: reads the type of a live object.
    unsafe { ffi::PyUnicode_CheckExact(object.as_ptr()) != 0 }
}

/// Whether the object is `bytes` or of a subclass.
#[inline]
pub fn is_bytes(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: reads the type flags of a live object.
    unsafe { ffi::PyBytes_Check(object.as_ptr()) != 0 }
}

/// Whether the object's type is `bytes` itself.
#[inline]
pub fn is_exact_bytes(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: reads the type of a live object.
    unsafe { ffi::PyBytes_CheckExact(object.as_ptr()) != 0 }
}

/// The body of a `bytes` object (a subclass too), which never changes while the object lives.
#[inline]
pub fn bytes_body<'a>(bytes: &'a Bound<'_, PyAny>) -> &'a [u8] {
    assert!(is_bytes(bytes), "callers check that the object is bytes");
    // SAFETY: checked in the line above; a bytes body is immutable and as long as PyBytes_Size
    // says.
    unsafe {
        let size = ffi::PyBytes_Size(bytes.as_ptr()) as usize;
        let body = ffi::PyBytes_AsString(bytes.as_ptr()).cast::<u8>();
        std::slice::from_raw_parts(body, size)
    }
}

/// What the result of an application may be, as far as a shortcut cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Exactly `list`.
    List,
    /// Exactly `tuple`.
    Tuple,
    /// Exactly `bytes`.
    Bytes,
    /// Anything else.
    Other,
}

/// Looks at an object's type once.
#[inline]
pub fn shape(object: &Bound<'_, PyAny>) -> Shape {
    let object = object.as_ptr();
    // SAFETY: each line reads the type of a live object.
    unsafe {
        if ffi::PyList_CheckExact(object) != 0 {
            Shape::List
        } else if ffi::PyTuple_CheckExact(object) != 0 {
            Shape::Tuple
        } else if ffi::PyBytes_CheckExact(object) != 0 {
            Shape::Bytes
        } else {
            Shape::Other
        }
    }
}

/// Number of items of an exact list or tuple.
#[inline]
pub fn sequence_length(sequence: &Bound<'_, PyAny>, shape: Shape) -> usize {
    // SAFETY: both functions check the type themselves and return -1 with an exception for another.
    let length = unsafe {
        match shape {
            Shape::List => ffi::PyList_Size(sequence.as_ptr()),
            _ => ffi::PyTuple_Size(sequence.as_ptr()),
        }
    };
    debug_assert!(length >= 0, "the shape is the object's own");
    length.max(0) as usize
}

/// Item `index` of an exact list or tuple, as a reference of its own (a list may be changed by the
/// code that runs between two looks); None past the end.
#[inline]
pub fn sequence_item<'py>(
    sequence: &Bound<'py, PyAny>,
    shape: Shape,
    index: usize,
) -> Option<Bound<'py, PyAny>> {
    if index >= sequence_length(sequence, shape) {
        return None;
    }
    let py = sequence.py();
    // Without a GIL the item may go away between the look and the INCREF: ask for a counted one.
    #[cfg(Py_GIL_DISABLED)]
    if shape == Shape::List {
        // SAFETY: an exact list; null with IndexError when it shrank meanwhile.
        return unsafe {
            let item = ffi::PyList_GetItemRef(sequence.as_ptr(), index as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_opt(py, item).or_else(|| {
                ffi::PyErr_Clear();
                None
            })
        };
    }
    // SAFETY: the index is in range and the GIL is held, so the borrowed item is alive when it is
    // counted.
    unsafe {
        let item = match shape {
            Shape::List => ffi::PyList_GetItem(sequence.as_ptr(), index as ffi::Py_ssize_t),
            _ => ffi::PyTuple_GetItem(sequence.as_ptr(), index as ffi::Py_ssize_t),
        };
        Bound::from_borrowed_ptr_or_opt(py, item)
    }
}

/// `dict[key] = value`.
#[inline]
pub fn dict_set(
    dict: &Bound<'_, PyDict>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // SAFETY: three live objects, the first a dict.
    if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(dict.py()))
    }
}

/// `callable(first, second)`.
#[inline]
pub fn call_two<'py>(
    callable: &Bound<'py, PyAny>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    #[cfg(not(Py_LIMITED_API))]
    // SAFETY: slot 0 is scratch space for the callee, as PY_VECTORCALL_ARGUMENTS_OFFSET allows; the
    // two arguments behind it live through the call.
    unsafe {
        let mut arguments = [ptr::null_mut(), first.as_ptr(), second.as_ptr()];
        let result = ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            arguments.as_mut_ptr().add(1),
            2 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
    #[cfg(Py_LIMITED_API)]
    // SAFETY: live objects, ended by the null that the variadic function looks for. It makes no
    // tuple.
    unsafe {
        let result = ffi::PyObject_CallFunctionObjArgs(
            callable.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            ptr::null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// `next(iterator)`: None at the end.
#[inline]
pub fn next_item<'py>(iterator: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    // SAFETY: PyIter_Next needs an iterator, which PyObject_GetIter made of the application's
    // result. Null without an exception is the end; only then, once a request, is the exception
    // state looked at.
    unsafe {
        let item = ffi::PyIter_Next(iterator.as_ptr());
        match Bound::from_owned_ptr_or_opt(iterator.py(), item) {
            Some(item) => Ok(Some(item)),
            None => PyErr::take(iterator.py()).map_or(Ok(None), Err),
        }
    }
}

/// `iter(object)`.
pub fn iterator<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a live object; a new reference or null with TypeError.
    unsafe { Bound::from_owned_ptr_or_err(object.py(), ffi::PyObject_GetIter(object.as_ptr())) }
}

/// Whether the object supports indexing, as a sequence or a mapping: only then is it worth asking
/// its length.
#[inline]
pub fn has_items(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: both look at a live object's type.
    unsafe {
        ffi::PySequence_Check(object.as_ptr()) != 0 || ffi::PyMapping_Check(object.as_ptr()) != 0
    }
}

/// How many references the object has. Equal to the number we know of means nobody else can reach
/// it.
#[inline]
pub fn reference_count(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: reads a live object's count.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// A function object over `object`: what an application gets as `start_response` and `write`.
pub fn bound_function<'py>(
    object: &Bound<'py, PyAny>,
    method: &'static ffi::PyMethodDef,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the definition is static; the function object keeps a reference to `object`.
    unsafe {
        let function = ffi::PyCFunction_NewEx(
            ptr::from_ref(method).cast_mut(),
            object.as_ptr(),
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(object.py(), function)
    }
}

/// Makes an exception (a class) pending in the thread that has this `threading.get_ident()`: it is
/// raised there as soon as that thread runs Python code again. None takes back what is pending.
pub fn set_async_exception(py: Python<'_>, identifier: u64, class: Option<&Bound<'_, PyAny>>) {
    let class = class.map_or(ptr::null_mut(), |class| class.as_ptr());
    let _attached = py;
    // SAFETY: attached; a live class, of which the interpreter takes a reference of its own, or
    // null. A thread that does not exist is not found. (The parameter is unsigned in C.)
    unsafe { ffi::PyThreadState_SetAsyncExc(identifier as std::ffi::c_long, class) };
}

/// A method definition that lives as long as the process.
pub struct Definition(pub ffi::PyMethodDef);
// SAFETY: holds pointers to static text and functions only, and is never written.
unsafe impl Sync for Definition {}

/// A native function with its calling convention.
pub enum Convention {
    /// `METH_NOARGS`: the second argument is unused.
    NoArguments(ffi::PyCFunction),
    /// `METH_O`: one argument.
    OneArgument(ffi::PyCFunction),
    /// `METH_FASTCALL`: an array and a count.
    Fast(FastFunction),
    /// `METH_FASTCALL | METH_KEYWORDS`: an array, a count and a tuple of names or null.
    FastKeywords(FastKeywordsFunction),
}

/// All conventions in the one field that the interpreter has for them; the flags say which it is.
/// (pyo3-ffi's own union lacks the fast ones under limited API 3.9.)
union AnyConvention {
    plain: ffi::PyCFunction,
    fast: FastFunction,
    fast_keywords: FastKeywordsFunction,
}

/// A method definition whose flags fit its function.
pub const fn method(
    name: &'static CStr,
    function: Convention,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    let (function, flags) = match function {
        Convention::NoArguments(plain) => (AnyConvention { plain }, ffi::METH_NOARGS),
        Convention::OneArgument(plain) => (AnyConvention { plain }, ffi::METH_O),
        Convention::Fast(fast) => (AnyConvention { fast }, METH_FASTCALL),
        Convention::FastKeywords(fast_keywords) => {
            (AnyConvention { fast_keywords }, METH_FASTCALL | ffi::METH_KEYWORDS)
        }
    };
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        // SAFETY: every field is a function pointer, valid as any other as long as it is not
        // called; the interpreter calls it by the convention that the flags name, which is the
        // function's own.
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: unsafe { function.plain } },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// A reference more to the same object.
///
/// # Safety
/// `object` is alive and the thread is attached.
#[inline]
pub unsafe fn another_reference(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe { ffi::Py_INCREF(object) };
    object
}

/// One slot of a type under construction.
pub fn slot(slot: c_int, function: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot { slot, pfunc: function }
}

/// Makes a type of ours. It lives as long as the process: method tables and slots are leaked on
/// purpose.
///
/// # Safety
/// `basic_size` is the size of the `repr(C)` struct (starting with `PyObject`) that the slots
/// expect, and every slot holds a function of its slot's signature.
pub unsafe fn make_type<'py>(
    py: Python<'py>,
    name: &'static CStr,
    basic_size: usize,
    flags: std::ffi::c_ulong,
    methods: Vec<ffi::PyMethodDef>,
    mut slots: Vec<ffi::PyType_Slot>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut methods = methods;
    methods.push(ffi::PyMethodDef::zeroed());
    slots.push(slot(ffi::Py_tp_methods, methods.leak().as_mut_ptr().cast()));
    slots.push(slot(0, ptr::null_mut()));
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: basic_size as c_int,
        itemsize: 0,
        flags: flags as std::ffi::c_uint,
        slots: slots.leak().as_mut_ptr(),
    };
    // SAFETY: the caller's promise; name, methods and slots are static.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec)) }
}
