//! Answers of the server itself: refusals, `100 Continue`, the uwsgi pong.
//!
//! Where it stands in the walk of a request: wherever it ends before an application answered. A
//! refusal always closes its connection (RFC 9112 §9.6: after a framing error nothing behind it can
//! be trusted), states its length, and names no detail that the log does not also have.

use crate::http::{Rejection, reason_phrase};

/// `100 Continue` (RFC 9110 §10.1.1): the head passed the limits and the body is welcome.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Too many requests are waiting; the reason names the bound.
pub fn overloaded(reason: &'static str) -> Rejection {
    Rejection { status: 503, reason }
}

/// What a refusal must fit to.
#[derive(Clone, Copy, Debug)]
pub struct RefusalShape {
    /// Over uwsgi no Connection header is sent: the gateway owns the client's connection.
    pub is_uwsgi: bool,
    /// The request was a HEAD: the head only.
    pub is_head: bool,
}

/// Writes a whole response with `status` to `out`.
pub fn write_refusal(out: &mut Vec<u8>, rejection: Rejection, shape: RefusalShape, id: &[u8]) {
    let phrase = reason_phrase(rejection.status);
    let body_bytes = 4 + phrase.len() + 1;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&three_digits(rejection.status));
    out.push(b' ');
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\nServer: ringhorn\r\nContent-Type: text/plain\r\nContent-Length: ");
    out.extend_from_slice(body_bytes.to_string().as_bytes());
    if rejection.status == 503 {
        // RFC 9110 §10.2.3: when to come back. The queue moves within a second or is hopeless.
        out.extend_from_slice(b"\r\nRetry-After: 1");
    }
    if !id.is_empty() {
        out.extend_from_slice(b"\r\nX-Request-ID: ");
        out.extend_from_slice(id);
    }
    if !shape.is_uwsgi {
        out.extend_from_slice(b"\r\nConnection: close");
    }
    out.extend_from_slice(b"\r\n\r\n");
    if !shape.is_head {
        out.extend_from_slice(&three_digits(rejection.status));
        out.push(b' ');
        out.extend_from_slice(phrase.as_bytes());
        out.push(b'\n');
    }
}

pub(super) fn three_digits(status: u16) -> [u8; 3] {
    let digit = |place: u16| b'0' + (status / place % 10) as u8;
    [digit(100), digit(10), digit(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, shape: RefusalShape) -> String {
        let mut out = Vec::new();
        write_refusal(&mut out, Rejection { status, reason: "x" }, shape, b"");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn states_its_length() {
        let text = refusal(404, RefusalShape { is_uwsgi: false, is_head: false });
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
        assert!(head.ends_with("Connection: close"));
    }

    #[test]
    fn says_when_to_come_back() {
        let shape = RefusalShape { is_uwsgi: true, is_head: true };
        let text = refusal(503, shape);
        assert!(text.contains("Retry-After: 1\r\n"));
        assert!(!text.contains("Connection"));
        assert!(text.ends_with("\r\n\r\n"));
    }
}
