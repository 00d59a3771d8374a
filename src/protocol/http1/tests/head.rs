//! Heads as clients send them: what is read, what is dropped, what stays.

use super::{head, status};
use crate::http::BodyFraming;

#[test]
fn a_small_get() {
    let seen = head("GET /a/b?c=d&e HTTP/1.1\r\nHost: example.org:8080\r\n\r\n");
    assert_eq!((seen.method.as_str(), seen.version), ("GET", "HTTP/1.1"));
    assert_eq!(seen.target, "/a/b?c=d&e");
    assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/a/b", "c=d&e"));
    assert_eq!(seen.host.as_deref(), Some("example.org:8080"));
    assert_eq!(seen.framing, BodyFraming::Empty);
    assert!(seen.keep_alive && !seen.expect_continue);
    assert_eq!(seen.head_bytes, "GET /a/b?c=d&e HTTP/1.1\r\nHost: example.org:8080\r\n\r\n".len());
}

#[test]
fn http_1_0_needs_neither_host_nor_fields() {
    let seen = head("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((seen.host, seen.version, seen.keep_alive), (None, "HTTP/1.0", false));
    assert!(seen.fields.is_empty());
}

#[test]
fn empty_lines_before_the_request_line_are_skipped_and_counted() {
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in 0..=8 {
        let text = "\r\n".repeat(lines) + plain;
        assert_eq!(head(&text).head_bytes, text.len());
    }
    assert_eq!(status(("\r\n".repeat(9) + plain).as_bytes()), 400);
}

#[test]
fn what_follows_the_head_is_left_alone() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for after in ["\n", "\0\0", "GET", "GET / HTTP/9.9\r\n\r\n", "\r\n\r\n\r\n"] {
        let seen = head(&format!("{text}{after}"));
        assert_eq!(seen.head_bytes, text.len());
    }
}

#[test]
fn names_with_underscore_and_proxy_are_dropped_before_they_mean_anything() {
    let seen = head(concat!(
        "POST / HTTP/1.1\r\nHost: a\r\nX_Real: no\r\nX-Real: yes\r\nPROXY: http://evil\r\n",
        "Content_Length: 5\r\ncontent-length: 0\r\nTransfer_Encoding: chunked\r\n",
        "Host_: b\r\n_: x\r\nProxy-Connection: stays\r\n\r\n",
    ));
    let names: Vec<_> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Real", "content-length", "Proxy-Connection"]);
    assert_eq!(seen.framing, BodyFraming::Length(0));
}

#[test]
fn values_are_trimmed_and_otherwise_kept() {
    let seen =
        head("GET / HTTP/1.1\r\nHost:a\r\nA: \t x  y \t \r\nB:\r\nC: \t \r\nD:\x7e\"\\\r\n\r\n");
    let values: Vec<_> = seen.fields.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["a", "x  y", "", "", "~\"\\"]);
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nA: \x80\xe9\xff\r\n\r\n";
    let super::Parsed::Head(seen) = super::verdict(bytes, &super::HeadLimits::DEFAULT) else {
        panic!("obs-text is legal in a value (RFC 9110 §5.5)");
    };
    assert_eq!(seen.fields[1].1, "\u{80}\u{e9}\u{ff}");
}

#[test]
fn each_byte_is_legal_in_names_values_and_targets_as_the_rfc_says() {
    // At several offsets, since the tokenizer reads 8, 16 or 32 bytes at a time.
    for byte in 0..=255u8 {
        for before in [0, 1, 7, 8, 15, 16, 31, 32, 40] {
            let accepted = |prefix: &str, suffix: &str| {
                let mut bytes = prefix.as_bytes().to_vec();
                bytes.extend(std::iter::repeat_n(b'a', before));
                bytes.push(byte);
                bytes.extend(std::iter::repeat_n(b'a', 40));
                bytes.extend_from_slice(suffix.as_bytes());
                let mut scan = super::HeadScan::default();
                let verdict = super::step(&bytes, &mut scan, &super::HeadLimits::DEFAULT);
                matches!(verdict, super::Parsed::Head(_))
            };
            let value = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
            assert_eq!(
                accepted("GET / HTTP/1.1\r\nHost: a\r\nX: b", "\r\n\r\n"),
                value,
                "{byte:#x}"
            );
            let name = crate::http::syntax::is_token_byte(byte) || (byte == b':');
            assert_eq!(
                accepted("GET / HTTP/1.1\r\nHost: a\r\nX", ": b\r\n\r\n"),
                name,
                "{byte:#x} in a name"
            );
            // Alone, a byte from 0x80 is not UTF-8.
            let target = matches!(byte, b'!'..=b'~') && byte != b'#';
            assert_eq!(
                accepted("GET /", " HTTP/1.1\r\nHost: a\r\n\r\n"),
                target,
                "{byte:#x} in a target"
            );
        }
    }
}

#[test]
fn a_tls_hello_is_refused_at_its_first_byte() {
    assert_eq!(status(b"\x16"), 400);
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400);
}

#[test]
fn methods_are_tokens_of_bounded_length() {
    for method in ["get", "M-SEARCH", "!#$%&'*+-.^_`|~09", &"M".repeat(32)] {
        assert_eq!(head(&format!("{method} / HTTP/1.0\r\n\r\n")).method, method);
    }
    assert_eq!(status(format!("{} / HTTP/1.0\r\n\r\n", "M".repeat(33)).as_bytes()), 501);
    assert_eq!(status("M".repeat(33).as_bytes()), 501);
    for line in ["G(T / HTTP/1.1", " / HTTP/1.1", "GET\t/ HTTP/1.1", "\"GET\" / HTTP/1.1", "GET:"] {
        assert_eq!(status(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()), 400, "{line}");
    }
}

#[test]
fn versions_are_1_0_and_1_1() {
    let check = |version: &str, expected: u16| {
        let text = format!("GET / {version}\r\nHost: a\r\n\r\n");
        assert_eq!(status(text.as_bytes()), expected, "{version:?}");
    };
    for other in ["HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        check(other, 505);
    }
    for malformed in [
        "http/1.1",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/11",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.1 ",
        "HTTP /1.1",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTTP/a.b",
        "",
        " HTTP/1.1",
        "x HTTP/1.1",
        "x HTTP/2.0",
        "ICY",
    ] {
        check(malformed, 400);
    }
}
