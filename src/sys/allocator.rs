//! The allocator's way to give free memory back to the system.
//!
//! Where it stands in the walk of a request: beside it, when an event loop has fallen idle after a
//! burst. mimalloc returns free pages as a side effect of later calls, and an idle thread makes
//! none.

/// Returns the calling thread's free memory to the system.
pub fn give_back() {
    // SAFETY: no arguments that could be wrong; any thread may call it at any time (mimalloc.h).
    unsafe { libmimalloc_sys::mi_collect(true) }
}
