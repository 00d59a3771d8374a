//! The uwsgi protocol, as nginx's `uwsgi_pass` speaks it to a server.
//!
//! Place in the walk of a request: step 2, on listeners bound as `uwsgi://`. `connection/` calls
//! [`parse_packet`], answers a ping by [`PONG`], else calls [`request_head`] and reads a body of
//! CONTENT_LENGTH bytes, which follows the packet unframed.
//!
//! Wire format (uWSGI documentation, "The uwsgi protocol"):
//! ```text
//! packet   = modifier1 (u8)  datasize (u16 LE)  modifier2 (u8)  datasize bytes of variables
//! variable = key length (u16 LE, not 0)  key  value length (u16 LE, may be 0)  value
//! ```
//! so a packet has at most 4 + 65,535 bytes, and every legal one is accepted.
//!
//! Served: modifier1 0 (WSGI), 30 (WSGI with SCRIPT_NAME cut from PATH_INFO) and 100 (ping). Any
//! other is closed without an answer: some of them evaluate code, reload or stop a uWSGI server,
//! and what sends them is no web server that could read an answer.
//!
//! Invariants:
//! * a [`Packet`] is checked whole before it is returned, so walking its variables cannot fail;
//! * no `UWSGI_*` variable is obeyed or passed on, nor any key that is the server's own to set.

mod packet;
mod request;

pub use packet::{
    MODIFIER_MANAGE_PATH_INFO, MODIFIER_PING, MODIFIER_WSGI, PACKET_BYTES_MAX, PONG, Packet,
    Variables, parse_packet,
};
pub use request::{
    Repeat, RequestHead, is_passed_on, is_variable_passed_on, path_after_script_name, repeat_rule,
    request_head,
};

#[cfg(test)]
mod tests;
