//! Request targets, Host in full, and percent-decoding.

use super::super::percent_decode;
use super::{head, status, text};

#[test]
fn the_forms_of_a_target() {
    let check = |method: &str, target: &str, expected: Result<(&str, &str, &str), u16>| {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: from.field\r\n\r\n");
        match expected {
            Ok((path, query, host)) => {
                let seen = head(&bytes);
                assert_eq!(seen.target, text(target.as_bytes()));
                assert_eq!((seen.path.as_str(), seen.query.as_str()), (path, query), "{target}");
                assert_eq!(seen.host.as_deref(), Some(host), "{target}");
                assert_eq!(seen.fields[0], ("Host".to_string(), host.to_string()));
            }
            Err(code) => assert_eq!(status(bytes.as_bytes()), code, "{method} {target}"),
        }
    };
    let field = "from.field";
    check("GET", "/", Ok(("/", "", field)));
    check("GET", "//a//b/../c", Ok(("//a//b/../c", "", field)));
    check("GET", "/a?", Ok(("/a", "", field)));
    check("GET", "/a?b?c", Ok(("/a", "b?c", field)));
    check("GET", "/?a=http://x/", Ok(("/", "a=http://x/", field)));
    check("GET", "/a%2Fb%", Ok(("/a%2Fb%", "", field)));
    check("GET", "/a{b}|c\"<>^`", Ok(("/a{b}|c\"<>^`", "", field)));
    check("GET", "/caf\u{e9}", Ok(("/caf\u{c3}\u{a9}", "", field)));
    check("OPTIONS", "*", Ok(("*", "", field)));
    check("OPTIONS", "/a", Ok(("/a", "", field)));
    check("GET", "http://a", Ok(("/", "", "a")));
    check("GET", "HTTP://a:80/b?c", Ok(("/b", "c", "a:80")));
    check("GET", "https://[::1]:443?c", Ok(("/", "c", "[::1]:443")));
    check("OPTIONS", "http://a", Ok(("*", "", "a")));
    check("OPTIONS", "http://a/", Ok(("/", "", "a")));
    check("OPTIONS", "http://a?b", Ok(("/", "b", "a")));
    for target in [
        "*",
        "**",
        "a",
        "a/b",
        "a:80",
        "?a",
        "/a#b",
        "/#",
        "#",
        "http:/a",
        "http:a",
        "http://",
        "http:///a",
        "http://?a",
        "http://u@a/",
        "http://u:p@a/",
        "http://a b/",
        "http://a:b/",
        "http://a:99999/",
        "http://[::1/",
        "http://[::1]x/",
        "http://a\\b/",
        "http://a/#b",
        "ftp://a/",
        "file:///a",
        "javascript:0",
        "://a",
        "/\u{7f}",
        "/\t",
    ] {
        check("GET", target, Err(400));
    }
    check("POST", "*", Err(400));
    check("OPTIONS", "**", Err(400));
    check("OPTIONS", "*?a", Err(400));
    check("CONNECT", "a:443", Err(501));
    check("CONNECT", "/", Err(501));
}

#[test]
fn host_is_checked_in_full() {
    let check = |value: &str, expected: bool| {
        let text = format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
        if expected {
            assert_eq!(head(&text).host.as_deref(), Some(value), "{value}");
        } else {
            assert_eq!(status(text.as_bytes()), 400, "{value}");
            assert_eq!(status(text.replace("1.1", "1.0").as_bytes()), 400, "{value}");
        }
    };
    for value in [
        "a",
        "example.org",
        "EXAMPLE.org.",
        "a-b_c~d",
        "127.0.0.1",
        "127.0.0.1:8000",
        "a:",
        "a:0",
        "a:65535",
        "a:00080",
        "xn--bcher-kva.example",
        "a%20b",
        "a!$&'()*+,;=",
        "[::]",
        "[::1]",
        "[::1]:80",
        "[::1]:",
        "[2001:db8::ff00:42:8329]",
        "[::ffff:192.0.2.1]:1",
        "999.999.1.1",
    ] {
        check(value, true);
    }
    for value in [
        "",
        ":80",
        "a b",
        "a, b",
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "u:p@b",
        "a:b",
        "a:-1",
        "a:+1",
        "a:65536",
        "a:8 0",
        "a:80:80",
        "a:99999999999999999999",
        "[",
        "[]",
        "]",
        "[::1",
        "::1",
        "[::1]a",
        "[::1]80",
        "[::1]]",
        "[[::1]]",
        "[v1.a]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[12345::]",
        "[:::]",
        "[127.0.0.1]",
        "[::1 ]",
        "a%",
        "a%2",
        "a%zz",
        "a%2g",
        "a\\b",
        "<a>",
        "\"a\"",
        "a{b}",
        "a|b",
        "a^b",
        "a`b",
        "caf\u{e9}",
        "http://a",
    ] {
        check(value, false);
    }
}

#[test]
fn http_1_1_has_exactly_one_host() {
    assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"GET / HTTP/1.1\r\nX-Host: a\r\n\r\n"), 400);
    assert_eq!(status(b"GET http://a/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status(b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), 400);
    assert_eq!(status(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
    assert_eq!(status(b"GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
    assert_eq!(head("GET http://a/ HTTP/1.0\r\n\r\n").host.as_deref(), Some("a"));
}

#[test]
fn percent_decoding() {
    let check = |path: &[u8], expected: Result<&[u8], u16>| {
        let mut out = vec![0xAA; path.len()];
        let decoded = percent_decode(path, &mut out).map_err(|rejection| rejection.status);
        assert_eq!(decoded, expected, "{}", path.escape_ascii());
    };
    check(b"", Ok(b""));
    check(b"*", Ok(b"*"));
    check(b"/plain", Ok(b"/plain"));
    check(b"/a%20b%2Fc%2f", Ok(b"/a b/c/"));
    check(b"%41%zz", Err(400));
    check(b"/%e9%C3%A9%ff", Ok(b"/\xe9\xc3\xa9\xff"));
    check(b"/a+b", Ok(b"/a+b"));
    check(b"/%25%32%35", Ok(b"/%25"));
    check(b"/%0d%0a%09", Ok(b"/\r\n\t"));
    for malformed in
        [&b"%"[..], b"/%", b"/%4", b"/%4g", b"/%g4", b"/% 1", b"/%%41", b"/%+1", b"/%u0041"]
    {
        check(malformed, Err(400));
    }
    check(b"/a%00b", Err(400));
    for bytes in 0..6 {
        let mut out = [0; 6];
        assert_eq!(percent_decode(b"ab%63def", &mut out[..bytes]).unwrap_err().status, 414);
    }
    assert_eq!(percent_decode(b"ab%63def", &mut [0; 6]), Ok(&b"abcdef"[..]));
}
