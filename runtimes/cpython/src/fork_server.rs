//! A fork server (`--preload`): talks to the server, watches the workers it forked.
//!
//! Not on the walk of a request. The fork itself is Python's (`_preload.py` calls `os.fork`), so
//! that the application's at-fork hooks run, once a worker. Here is what surrounds it: requests for
//! workers come in, each with the worker's control socket; out go the child's process id with a
//! pidfd, and, when it ended, how.
//!
//! Invariants: no segment is attached and no thread runs here, so a child starts as a worker does.
//! A child is reaped only after the server was told of its end: until then its number is its own.
//! While it waits, the interpreter's lock is free and nothing of Python runs here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use ringhorn_exchange::control::{
    ControlSocket, Ended, Failed, ForkFailed, Forked, FromWorker, Ready, Received, Setup, ToWorker,
};

use crate::system;
use crate::worker::{settings, to_python};

/// A fork server after the hand-shake.
#[pyclass(frozen, module = "_ringhorn")]
pub struct ForkServer {
    setup: Box<Setup>,
    /// Never locked over a fork: that is called from the one thread that comes here.
    parts: Mutex<Option<Parts>>,
}

/// What a forked worker lets go of.
struct Parts {
    control: ControlSocket,
    /// By number.
    children: BTreeMap<u32, Child>,
}

struct Child {
    pid: u32,
    pidfd: OwnedFd,
}

/// What there is to do.
enum Asked {
    Fork(u32, OwnedFd),
    Nothing,
    Leave,
}

impl ForkServer {
    /// Takes over what the hand-shake left.
    pub fn new(control: ControlSocket, setup: Box<Setup>) -> ForkServer {
        let parts = Parts { control, children: BTreeMap::new() };
        ForkServer { setup, parts: Mutex::new(Some(parts)) }
    }

    fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, py: Python<'_>, message: &FromWorker, pidfd: Option<&OwnedFd>) -> PyResult<()> {
        py.detach(|| {
            let parts = self.parts();
            let Some(parts) = parts.as_ref() else { return Ok(()) };
            let descriptors: Vec<_> = pidfd.into_iter().map(AsFd::as_fd).collect();
            parts.control.send(message, &descriptors)
        })
        .map_err(to_python)
    }
}

#[pymethods]
impl ForkServer {
    /// The settings that Python code acts on.
    fn setup<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        settings(py, &self.setup)
    }

    /// Tells the server that the application cannot be loaded. The caller ends the process.
    fn failed(&self, py: Python<'_>, exit_code: i32, text: String) {
        // The server may be gone; then nobody is left to be told, and stderr has the text too.
        let _unheard = self.send(py, &FromWorker::Failed(Failed { exit_code, text }), None);
    }

    /// Tells the server that the application is loaded.
    fn ready(&self, py: Python<'_>) -> PyResult<()> {
        let ready = Ready { threads: 0, one_lock: true };
        self.send(py, &FromWorker::Ready(ready), None)
    }

    /// Waits until a worker is to be forked; returns its number and the descriptor of its control
    /// socket, which the caller closes. None: the server wants no more of this process, or is gone.
    fn next(&self, py: Python<'_>) -> PyResult<Option<(u32, i32)>> {
        loop {
            let asked = py.detach(|| match self.parts().as_mut() {
                Some(parts) => parts.wait(),
                None => Ok(Asked::Leave),
            });
            match asked {
                Ok(Asked::Fork(worker, control)) => {
                    return Ok(Some((worker, control.into_raw_fd())));
                }
                Ok(Asked::Nothing) => {}
                Ok(Asked::Leave) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
                Err(error) => return Err(PyOSError::new_err(error.to_string())),
            }
        }
    }

    /// Tells the server of a child that was just forked, and watches it.
    fn forked(&self, py: Python<'_>, worker: u32, pid: u32) -> PyResult<()> {
        let pidfd = match system::pidfd_open(pid) {
            Ok(pidfd) => pidfd,
            // Without it the server could not watch it: it closes the worker's socket, which ends
            // the child.
            Err(error) => return self.fork_failed(py, worker, format!("pidfd_open: {error}")),
        };
        self.send(py, &FromWorker::Forked(Forked { worker, pid }), Some(&pidfd))?;
        if let Some(parts) = self.parts().as_mut() {
            parts.children.insert(worker, Child { pid, pidfd });
        }
        Ok(())
    }

    /// Tells the server that it gets no such worker.
    fn fork_failed(&self, py: Python<'_>, worker: u32, text: String) -> PyResult<()> {
        self.send(py, &FromWorker::ForkFailed(ForkFailed { worker, text }), None)
    }

    /// In a forked child: lets go of what is its parent's.
    fn leave(&self) -> PyResult<()> {
        match self.parts().take() {
            Some(_parents) => Ok(()),
            None => Err(PyRuntimeError::new_err("this process has left its fork server before")),
        }
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, "<ringhorn fork server>")
    }
}

impl Parts {
    /// Waits for a message or the end of a child.
    fn wait(&mut self) -> io::Result<Asked> {
        let children = self.children.values().map(|child| child.pidfd.as_fd());
        let all: Vec<_> = std::iter::once(self.control.as_fd()).chain(children).collect();
        let ready = system::wait_for_any(&all)?;
        let numbers: Vec<u32> = self.children.keys().copied().collect();
        for (worker, _) in numbers.into_iter().zip(&ready[1..]).filter(|(_, ended)| **ended) {
            self.tell_of_end(worker);
        }
        if !ready[0] {
            return Ok(Asked::Nothing);
        }
        match self.control.receive::<ToWorker>() {
            Ok(Received::Message(ToWorker::Fork(fork), descriptors)) => {
                let mut descriptors = descriptors.into_iter();
                let control = descriptors.next();
                // A server of the same build sends one.
                Ok(control.map_or(Asked::Leave, |control| Asked::Fork(fork.worker, control)))
            }
            // It runs no requests and has its set-up.
            Ok(Received::Message(ToWorker::Setup(_) | ToWorker::Interrupt(_), _))
            | Ok(Received::Nothing) => Ok(Asked::Nothing),
            Ok(Received::Message(ToWorker::Stop(_), _) | Received::Closed) | Err(_) => {
                Ok(Asked::Leave)
            }
        }
    }

    fn tell_of_end(&mut self, worker: u32) {
        let Some(child) = self.children.remove(&worker) else { return };
        let status = system::status_of(child.pid);
        // If the server is gone, so will be this process at the next message.
        let _unheard = self.control.send(&FromWorker::Ended(Ended { worker, status }), &[]);
        system::reap(child.pid);
    }
}
