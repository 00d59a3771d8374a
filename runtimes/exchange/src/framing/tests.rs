//! The framing table, row by row, and what is refused. Pure: `cargo miri test framing` can run it.

use super::*;

type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

const RING: usize = 64 * 1024;
const DATE: &[u8; DATE_BYTES] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn circumstances(protocol: Protocol) -> Circumstances {
    Circumstances { protocol, head_method: false, keep_alive: true, closing: false }
}

/// Builds a head and gives it with its framing.
fn head(
    status: &[u8],
    fields: Fields<'_>,
    circumstances: Circumstances,
    stated: Option<u64>,
) -> (String, Statement, Body) {
    let mut staged = StagedHead::default();
    staged.begin(status).unwrap();
    for (name, value) in fields {
        staged.field(name, value, RING).unwrap();
    }
    let (statement, body) = staged.complete(circumstances, stated, DATE);
    let text = String::from_utf8(staged.bytes().to_vec()).unwrap();
    assert_eq!(statement.head_bytes as usize, text.len());
    assert!(text.ends_with("\r\n\r\n"));
    (text, statement, body)
}

/// One row: who asks, what was answered; what must and must not be in the head; what follows.
#[track_caller]
fn check(
    (protocol, head_method): (Protocol, bool),
    (status, fields, stated): (&str, Fields<'_>, Option<u64>),
    has: &[&str],
    has_not: &[&str],
    expected: (StatedBody, bool, Body),
) {
    let circumstances = Circumstances { head_method, ..circumstances(protocol) };
    let (text, statement, body) = head(status.as_bytes(), fields, circumstances, stated);
    for has in has {
        assert_eq!(text.matches(has).count(), 1, "{has} in {text}");
    }
    for has_not in has_not {
        assert!(!text.contains(has_not), "{has_not} in {text}");
    }
    assert_eq!((statement.body, statement.keep_alive, body), expected, "{text}");
}

const LENGTH: &str = "Content-Length: ";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const FIVE: Fields<'static> = &[(b"Content-Length", b"5")];

#[test]
fn bodies_are_framed_by_the_table() {
    use Protocol::{Http10, Http11, Uwsgi};
    use StatedBody::{Chunked, Length, UntilClose};
    let sent = Body::Sent;
    check(
        (Http11, false),
        ("200 OK", FIVE, None),
        &["Content-Length: 5\r\n"],
        &[CHUNKED, "Connection"],
        (Length(5), true, sent),
    );
    check(
        (Http11, false),
        ("200 OK", FIVE, Some(9)),
        &["Content-Length: 5\r\n"],
        &[CHUNKED],
        (Length(5), true, sent),
    );
    check(
        (Http11, false),
        ("200 OK", &[], Some(9)),
        &["Content-Length: 9\r\n"],
        &[CHUNKED],
        (Length(9), true, sent),
    );
    check(
        (Http11, false),
        ("200 OK", &[], Some(0)),
        &["Content-Length: 0\r\n"],
        &[CHUNKED],
        (Length(0), true, sent),
    );
    check(
        (Http11, false),
        ("200 OK", &[], None),
        &[CHUNKED],
        &[LENGTH, "Connection"],
        (Chunked, true, sent),
    );
    check(
        (Http10, false),
        ("200 OK", &[], None),
        &[],
        &[LENGTH, CHUNKED, "Connection"],
        (UntilClose, false, sent),
    );
    check(
        (Http10, false),
        ("200 OK", FIVE, None),
        &["Connection: keep-alive\r\n"],
        &[CHUNKED],
        (Length(5), true, sent),
    );
    check(
        (Uwsgi, false),
        ("200 OK", &[], None),
        &["HTTP/1.1 200 OK\r\n"],
        &[LENGTH, CHUNKED, "Connection"],
        (UntilClose, false, sent),
    );
    check(
        (Uwsgi, false),
        ("200 OK", &[], Some(7)),
        &["Content-Length: 7\r\n"],
        &[CHUNKED, "Connection"],
        (Length(7), false, sent),
    );
}

#[test]
fn heads_without_body_keep_or_drop_the_length() {
    use Protocol::{Http10, Http11, Uwsgi};
    let none = (StatedBody::Length(0), true, Body::Swallowed);
    let closed = (StatedBody::Length(0), false, Body::Swallowed);
    check((Http11, true), ("200 OK", FIVE, None), &["Content-Length: 5\r\n"], &[CHUNKED], none);
    check((Http11, true), ("200 OK", &[], Some(4)), &[], &[LENGTH, CHUNKED], none);
    check(
        (Http11, false),
        ("304 Not Modified", FIVE, None),
        &["Content-Length: 5\r\n"],
        &[CHUNKED],
        none,
    );
    check((Http11, false), ("304 Not Modified", &[], Some(0)), &[], &[LENGTH, CHUNKED], none);
    check((Http11, false), ("204 No Content", FIVE, None), &[], &[LENGTH, CHUNKED], none);
    check((Http11, false), ("204 No Content", &[], Some(3)), &[], &[LENGTH, CHUNKED], none);
    check(
        (Http11, false),
        ("103 Early Hints", FIVE, None),
        &["Connection: close"],
        &[LENGTH, CHUNKED],
        closed,
    );
    check((Http10, true), ("200 OK", &[], None), &["Connection: keep-alive"], &[LENGTH], none);
    check(
        (Uwsgi, true),
        ("200 OK", FIVE, None),
        &["Content-Length: 5\r\n"],
        &["Connection"],
        closed,
    );
}

#[test]
fn a_dropped_length_leaves_its_neighbours() {
    let fields: Fields<'_> = &[(b"A", b"1"), (b"content-length", b"5"), (b"B", b"2")];
    let (text, ..) = head(b"204 No Content", fields, circumstances(Protocol::Http11), None);
    assert!(text.starts_with("HTTP/1.1 204 No Content\r\nA: 1\r\nB: 2\r\n"), "{text}");
}

#[test]
fn the_connection_closes_when_either_side_wants_it() {
    for (keep_alive, closing) in [(false, false), (true, true), (false, true)] {
        let circumstances =
            Circumstances { keep_alive, closing, ..circumstances(Protocol::Http11) };
        let (text, statement, _) = head(b"200 OK", FIVE, circumstances, None);
        assert!(text.contains("Connection: close\r\n") && !statement.keep_alive);
        let circumstances = Circumstances { protocol: Protocol::Http10, ..circumstances };
        let (text, statement, _) = head(b"200 OK", FIVE, circumstances, None);
        assert!(!text.contains("Connection") && !statement.keep_alive);
    }
}

#[test]
fn date_and_server_are_added_once() {
    let (text, ..) = head(b"200 OK", &[], circumstances(Protocol::Http11), Some(0));
    assert!(text.contains("Server: ringhorn\r\n"));
    assert!(text.contains("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"));
    let fields: Fields<'_> = &[(b"date", b"mine"), (b"SERVER", b"me")];
    let (text, ..) = head(b"200 OK", fields, circumstances(Protocol::Http11), Some(0));
    assert!(!text.contains("ringhorn") && !text.contains("1994"), "{text}");
}

#[test]
fn statuses_are_checked() {
    let mut staged = StagedHead::default();
    for good in ["200 OK", "200", "200 ", "999 \u{e9}", "100 Continue", "404 Not\tFound"] {
        assert_eq!(staged.begin(good.as_bytes()), Ok(()), "{good}");
    }
    for bad in [
        "",
        "2",
        "20",
        "099 No",
        "20x OK",
        "2000 OK",
        "200OK",
        "200\tOK",
        "200 A\r\nB: c",
        "200 \0",
        " 200 OK",
        "200 \x7f",
    ] {
        assert_eq!(staged.begin(bad.as_bytes()), Err(HeadError::Status), "{bad:?}");
        assert!(!staged.has_status());
    }
}

#[test]
fn fields_are_checked() {
    let check = |name: &str, value: &str, expected| {
        let mut staged = StagedHead::default();
        staged.begin(b"200 OK").unwrap();
        assert_eq!(
            staged.field(name.as_bytes(), value.as_bytes(), RING),
            expected,
            "{name}: {value}"
        );
    };
    for (name, value) in
        [("X-Shop", "a b\tc"), ("x", ""), ("!#$%&'*+-.^_`|~", "\u{ff}"), ("Content-Length", " 12 ")]
    {
        check(name, value, Ok(()));
    }
    for name in ["", "a b", "a:", "a\r", "\u{e9}", "a\0", "(a)"] {
        check(name, "v", Err(HeadError::Name));
    }
    for value in ["a\r\nB: c", "a\nb", "a\0", "\x1b", "\x7f"] {
        check("A", value, Err(HeadError::Value));
    }
    for name in [
        "Connection",
        "keep-alive",
        "TE",
        "Trailer",
        "Trailers",
        "Transfer-Encoding",
        "UPGRADE",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
    ] {
        check(name, "v", Err(HeadError::HopByHop));
    }
    for value in
        ["", "-1", "+1", "1x", "0x1", "1,1", "99999999999999999999", "9999999999999999999", "1 1"]
    {
        check("Content-Length", value, Err(HeadError::ContentLength));
    }
}

#[test]
fn a_repeated_length_and_a_field_before_the_status_are_refused() {
    let mut staged = StagedHead::default();
    assert_eq!(staged.field(b"A", b"b", RING), Err(HeadError::NoHead));
    staged.begin(b"200 OK").unwrap();
    staged.field(b"Content-Length", b"5", RING).unwrap();
    assert_eq!(staged.field(b"content-length", b"5", RING), Err(HeadError::ContentLength));
}

#[test]
fn a_head_is_bounded_by_the_ring() {
    let mut staged = StagedHead::default();
    staged.begin(b"200 OK").unwrap();
    let most = RING - ADDED_BYTES_MAX - FIRST_BODY_BYTES_MIN - staged.bytes().len() - 5;
    assert_eq!(staged.field(b"A", &vec![b'v'; most + 1], RING), Err(HeadError::TooLarge));
    assert_eq!(staged.field(b"A", &vec![b'v'; most], RING), Ok(()));
    let (statement, _) = staged.complete(circumstances(Protocol::Http11), None, DATE);
    assert!(statement.head_bytes as usize <= RING - FIRST_BODY_BYTES_MIN);
}

#[test]
fn no_combination_adds_more_than_it_may() {
    for protocol in [Protocol::Http10, Protocol::Http11, Protocol::Uwsgi] {
        for stated in [None, Some(u64::MAX / 4)] {
            for keep_alive in [false, true] {
                let circumstances = Circumstances { keep_alive, ..circumstances(protocol) };
                let (text, ..) = head(b"200 OK", &[], circumstances, stated);
                assert!(text.len() - "HTTP/1.1 200 OK\r\n".len() <= ADDED_BYTES_MAX);
            }
        }
    }
}

#[test]
fn chunk_lines_are_shortest_hexadecimal() {
    for size in [1, 9, 10, 15, 16, 255, 256, 4095, 65_535, 0xffff_ffff] {
        let mut line = [0; CHUNK_BYTES_MAX];
        let length = chunk_line(size, &mut line);
        assert_eq!(line[..length], *format!("{size:x}\r\n").as_bytes());
    }
}

#[test]
fn dates_are_fixdates() {
    for (seconds, expected) in [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
        (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
        (1_767_225_599, "Wed, 31 Dec 2025 23:59:59 GMT"),
        (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
    ] {
        assert_eq!(std::str::from_utf8(&format_date(seconds)).unwrap(), expected);
    }
}
