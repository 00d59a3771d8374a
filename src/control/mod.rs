//! The seam for a control socket, status and metrics exposition: nothing is here yet.
//!
//! It will stand beside the walk of a request: it reads what the supervisor and the loops' counters
//! know, and asks the supervisor to act, by events of the same queue that signals use. It will not
//! hold state of its own.
