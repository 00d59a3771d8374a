//! Ringhorn's CPython runtime: the native module `_ringhorn` that a worker process loads.
//!
//! Where it stands in the walk of a request: the whole of the interpreter's side. `worker` is the
//! process (hand-shake, seats, end), `seat` one thread's loop, `environ`, `request`, `input`,
//! `start_response`, `response` and `file_wrapper` one request, `python` the raw calls beneath
//! them.
//!
//! One source, two builds: the full API of one CPython version, and (feature `abi3`) the limited
//! API that every CPython from 3.9 on loads. Neither links libpython: the symbols are the
//! interpreter's own.
//!
//! Invariants: nothing here waits while holding the GIL; no Python object refers to shared memory;
//! in a forked child of the application every entry refuses. `unsafe` is allowed only in the files
//! that talk to the interpreter (`python`, `request`, `input`, `start_response`, `file_wrapper`)
//! and in `system`.
#![deny(unsafe_code)]

mod environ;
mod file_wrapper;
mod input;
mod python;
mod request;
mod response;
mod seat;
mod start_response;
mod system;
mod worker;

use pyo3::prelude::*;

// The module's own buffers (exchange books, templates' bytes); Python objects stay in Python's
// allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule]
fn _ringhorn(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    request::Request::make_type(py)?;
    module.add("FileWrapper", file_wrapper::make_type(py)?)?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("LAYOUT_HASH", ringhorn_exchange::LAYOUT_HASH)?;
    module.add_class::<worker::Worker>()?;
    module.add_function(wrap_pyfunction!(worker::connect, module)?)
}
