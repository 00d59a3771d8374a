//! Passes pyo3's view of the interpreter on as cfg flags (`Py_3_14`, `Py_LIMITED_API`,
//! `Py_GIL_DISABLED`).

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
