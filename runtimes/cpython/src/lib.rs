//! Ringhorn's CPython runtime: the native module `_ringhorn` that a worker process loads.
//!
//! Where it stands in the walk of a request: the whole of the interpreter's side. `worker` is the
//! process (hand-shake, seats, end), `interrupt` what reaches into a request from outside, `seat`
//! one thread's loop, `environ`, `request`, `input`, `start_response`, `response` and
//! `file_wrapper` one request, `python` and `bytes_maker` the raw calls beneath them.
//!
//! One source, two builds: the full API of one CPython version, and (feature `abi3`) the limited
//! API that every CPython from 3.9 on loads. Neither links libpython: the symbols are the
//! interpreter's own.
//!
//! The allocator is the process's own. The hot path allocates nothing but Python objects, and a
//! second allocator cost every worker 5 MiB (docs/cpython.md).
//!
//! Invariants: nothing here waits while holding the GIL; no Python object refers to shared memory;
//! in a forked child of the application every entry refuses. `unsafe` is allowed only in the files
//! that talk to the interpreter (`python`, `bytes_maker`, `request`, `input`, `start_response`,
//! `file_wrapper`), in `system`, and in `title` (the memory of the arguments).
#![deny(unsafe_code)]

mod bytes_maker;
mod environ;
mod file_wrapper;
mod fork_server;
mod input;
mod interrupt;
mod python;
mod request;
mod response;
mod seat;
mod start_response;
mod system;
mod title;
mod worker;

use pyo3::prelude::*;

#[pymodule]
fn _ringhorn(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    request::Request::make_type(py)?;
    module.add("FileWrapper", file_wrapper::make_type(py)?)?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("LAYOUT_HASH", ringhorn_exchange::LAYOUT_HASH)?;
    module.add_class::<worker::Worker>()?;
    module.add_class::<fork_server::ForkServer>()?;
    module.add_function(wrap_pyfunction!(worker::connect, module)?)
}
