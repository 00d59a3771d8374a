//! What the server says of its own health, as bytes.
//!
//! Where it stands in the walk of a request: the loop's answer to a health path, instead of all
//! steps behind the head. Unlike a refusal it keeps the connection if the client wants it kept.

use super::refusal::three_digits;
use crate::http::reason_phrase;

/// What a health answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthAnswer {
    /// 200, 503, or 405 for a method that asks for anything else.
    pub status: u16,
    /// One word, and for 503 why.
    pub text: &'static str,
}

/// What a health answer must fit to.
#[derive(Clone, Copy, Debug)]
pub struct HealthShape {
    /// Over uwsgi no Connection header is sent: the gateway owns the client's connection.
    pub is_uwsgi: bool,
    /// An HTTP/1.0 client keeps its connection only if it is told to (RFC 9112 §9.3).
    pub is_http10: bool,
    /// The request was a HEAD: the head only.
    pub is_head: bool,
    /// The connection stays.
    pub keeps: bool,
}

/// Writes a whole response to `out`; `date` as a Date field says it.
pub fn write_health(out: &mut Vec<u8>, answer: HealthAnswer, shape: HealthShape, date: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&three_digits(answer.status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(answer.status).as_bytes());
    out.extend_from_slice(b"\r\nServer: ringhorn\r\nDate: ");
    out.extend_from_slice(date);
    // An intermediary that answers for us from a cache would hide what is asked for.
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\nContent-Type: text/plain");
    if answer.status == 405 {
        out.extend_from_slice(b"\r\nAllow: GET, HEAD");
    }
    out.extend_from_slice(b"\r\nContent-Length: ");
    out.extend_from_slice((answer.text.len() + 1).to_string().as_bytes());
    if !shape.is_uwsgi && !shape.keeps {
        out.extend_from_slice(b"\r\nConnection: close");
    } else if shape.is_http10 && shape.keeps {
        out.extend_from_slice(b"\r\nConnection: keep-alive");
    }
    out.extend_from_slice(b"\r\n\r\n");
    if !shape.is_head {
        out.extend_from_slice(answer.text.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: HealthShape =
        HealthShape { is_uwsgi: false, is_http10: false, is_head: false, keeps: true };

    fn written(answer: HealthAnswer, shape: HealthShape) -> String {
        let mut out = Vec::new();
        write_health(&mut out, answer, shape, b"Sun, 06 Nov 1994 08:49:37 GMT");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn states_its_length_and_what_becomes_of_the_connection() {
        let answer = HealthAnswer { status: 200, text: "alive" };
        for (shape, connection) in [
            (SHAPE, None),
            (HealthShape { keeps: false, ..SHAPE }, Some("Connection: close")),
            (HealthShape { is_http10: true, ..SHAPE }, Some("Connection: keep-alive")),
            (HealthShape { is_uwsgi: true, keeps: false, ..SHAPE }, None),
        ] {
            let text = written(answer, shape);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, "alive\n");
            assert!(head.contains("\r\nContent-Length: 6"), "{head}");
            let found = head.lines().find(|line| line.starts_with("Connection"));
            assert_eq!(found, connection, "{shape:?}");
        }
    }

    #[test]
    fn a_head_request_gets_the_head_alone() {
        let answer = HealthAnswer { status: 405, text: "405" };
        let text = written(answer, HealthShape { is_head: true, ..SHAPE });
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n") && text.ends_with("4\r\n\r\n"), "{text}");
    }
}
