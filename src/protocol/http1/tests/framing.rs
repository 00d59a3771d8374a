//! Where the body ends, who keeps the connection, and fields that stand once.

use super::{head, status};
use crate::http::BodyFraming::{self, Chunked, Empty, Length};

/// A POST with these further field lines.
fn post(version: &str, lines: &[&str]) -> String {
    let mut text = format!("POST / {version}\r\nHost: a\r\n");
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text + "\r\n"
}

#[test]
fn framing_is_one_thing_or_the_request_is_refused() {
    let check = |lines: &[&str], expected: Result<BodyFraming, u16>| {
        let text = post("HTTP/1.1", lines);
        match expected {
            Ok(framing) => assert_eq!(head(&text).framing, framing, "{lines:?}"),
            Err(code) => assert_eq!(status(text.as_bytes()), code, "{lines:?}"),
        }
    };
    check(&[], Ok(Empty));
    check(&["Content-Length: 0"], Ok(Length(0)));
    check(&["content-LENGTH:  12 \t"], Ok(Length(12)));
    check(&["Content-Length: 0012"], Ok(Length(12)));
    check(&["Content-Length: 9223372036854775807"], Ok(Length(i64::MAX as u64)));
    check(&["Content-Length: 9223372036854775808"], Err(400));
    check(&["Content-Length: 18446744073709551621"], Err(400));
    for value in ["", "-1", "+1", "1,1", "1, 1", "1 1", "0x10", "1.0", "1e3", "a", "1;", "\"1\""] {
        check(&[&format!("Content-Length: {value}")], Err(400));
    }
    check(&["Content-Length: 1", "Content-Length: 1"], Err(400));
    check(&["Content-Length: 1", "content-length: 2"], Err(400));
    check(&["Transfer-Encoding: chunked"], Ok(Chunked));
    check(&["transfer-encoding:\t ChUnKeD "], Ok(Chunked));
    for value in ["gzip", "identity", "gzip, chunked", "xchunked", "chunked-x"] {
        check(&[&format!("Transfer-Encoding: {value}")], Err(501));
    }
    for value in [
        "",
        ",",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "chunked, gzip",
        "chunked;q=1",
        "\"chunked\"",
        "chun ked",
        "chunked\t\tx",
        "chunked, identity",
        "gzip,,chunked",
        "gzip;q=1",
        "chunked\u{b5}",
    ] {
        check(&[&format!("Transfer-Encoding: {value}")], Err(400));
    }
    check(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], Err(400));
    check(&["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], Err(400));
    check(&["Content-Length: 5", "Transfer-Encoding: chunked"], Err(400));
    check(&["Transfer-Encoding: chunked", "Content-Length: 5"], Err(400));
    check(&["Transfer-Encoding: gzip", "Content-Length: 0"], Err(400));
}

#[test]
fn transfer_encoding_is_refused_in_http_1_0() {
    for value in ["chunked", "gzip"] {
        let line = format!("Transfer-Encoding: {value}");
        assert_eq!(status(post("HTTP/1.0", &[&line]).as_bytes()), 400);
        let lines = [line.as_str(), "Connection: keep-alive"];
        assert_eq!(status(post("HTTP/1.0", &lines).as_bytes()), 400);
    }
}

#[test]
fn connection_is_a_list_of_tokens_and_close_wins() {
    let check = |version: &str, lines: &[&str], expected: bool| {
        assert_eq!(head(&post(version, lines)).keep_alive, expected, "{version} {lines:?}");
    };
    check("HTTP/1.1", &[], true);
    check("HTTP/1.1", &["Connection: close"], false);
    check("HTTP/1.1", &["Connection: CLOSE"], false);
    check("HTTP/1.1", &["Connection: keep-alive, Close"], false);
    check("HTTP/1.1", &["Connection: upgrade ,\tclose"], false);
    check("HTTP/1.1", &["Connection: close", "Connection: keep-alive"], false);
    check("HTTP/1.1", &["Connection: x", "connection: close"], false);
    check("HTTP/1.1", &["Connection: keep-alive"], true);
    check("HTTP/1.1", &["Connection: closed, xclose, clos"], true);
    check("HTTP/1.1", &["Connection:"], true);
    check("HTTP/1.0", &[], false);
    check("HTTP/1.0", &["Connection: Keep-Alive"], true);
    check("HTTP/1.0", &["Connection: te, keep-alive"], true);
    check("HTTP/1.0", &["Connection: keep-alive, close"], false);
    check("HTTP/1.0", &["Connection: keep-alives"], false);
}

#[test]
fn expect_is_100_continue_or_417() {
    let expects = |version: &str, lines: &[&str]| head(&post(version, lines)).expect_continue;
    assert!(expects("HTTP/1.1", &["Content-Length: 1", "Expect: 100-Continue"]));
    assert!(expects("HTTP/1.1", &["Expect: 100-continue", "Transfer-Encoding: chunked"]));
    assert!(expects("HTTP/1.1", &["Content-Length: 1", "Expect: ,100-continue, 100-continue"]));
    // Without a body there is nothing to wait for (RFC 9110 §10.1.1).
    assert!(!expects("HTTP/1.1", &["Expect: 100-continue"]));
    assert!(!expects("HTTP/1.1", &["Expect: 100-continue", "Content-Length: 0"]));
    assert!(!expects("HTTP/1.1", &["Content-Length: 1", "Expect:"]));
    assert!(!expects("HTTP/1.0", &["Content-Length: 1", "Expect: 100-continue"]));
    assert!(!expects("HTTP/1.0", &["Content-Length: 1", "Expect: the-impossible"]));
    for value in ["200-ok", "100-continue, x", "100-continue; q=1", "100"] {
        let line = format!("Expect: {value}");
        assert_eq!(status(post("HTTP/1.1", &[&line]).as_bytes()), 417, "{value}");
    }
}

#[test]
fn fields_that_stand_once_are_refused_twice() {
    for name in [
        "Host",
        "Content-Length",
        "Content-Type",
        "Authorization",
        "Proxy-Authorization",
        "Content-Range",
        "Range",
        "If-Range",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "Max-Forwards",
        "User-Agent",
        "Referer",
        "From",
        "Date",
    ] {
        let lines =
            format!("GET / HTTP/1.0\r\n{name}: 1\r\nX: y\r\n{}: 1\r\n\r\n", name.to_uppercase());
        assert_eq!(status(lines.as_bytes()), 400, "{name}");
    }
    for name in ["Accept", "Cookie", "X-Forwarded-For", "If-None-Match", "Via", "Forwarded"] {
        let seen = head(&format!("GET / HTTP/1.0\r\n{name}: 1\r\n{name}: 2\r\n\r\n"));
        assert_eq!(seen.fields.len(), 2, "{name}");
    }
}

#[test]
fn a_line_is_not_folded_and_ends_in_crlf() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(status(text.as_bytes()), 400, "{text:?}");
    }
}
