//! Knows whether this process is a forked child of the one that attached.
//!
//! The application may fork. The segments are not mapped in the child (`MADV_DONTFORK`), so
//! touching them would kill it; and it holds copies of claims that are its parent's. A handler run
//! by `fork` in the child raises a flag, and every entry of the worker's end refuses when it is up.
//! A fork server (`--preload`) attaches to nothing, so no handler is registered in it and what it
//! forks are workers like any other.
//! `vfork` and `posix_spawn` run no handlers and need none: their children only exec.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Relaxed everywhere: set by the child's only thread before `fork` returns in it.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Whether this process is a forked child: every entry refuses there.
#[inline]
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Registers the handler, once in a process.
///
/// # Errors
/// As `pthread_atfork(3)`.
pub(crate) fn register() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static RESULT: AtomicI32 = AtomicI32::new(0);
    extern "C" fn in_child() {
        FORKED.store(true, Ordering::Relaxed);
    }
    ONCE.call_once(|| {
        // SAFETY: the handler only stores to an atomic, which is safe in a forked child.
        let result = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        RESULT.store(result, Ordering::Relaxed);
    });
    match RESULT.load(Ordering::Relaxed) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
