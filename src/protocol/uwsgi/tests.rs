//! Tests of the uwsgi codec: hand-made packets, every split, and the golden cases.

use super::*;
use crate::http::Rejection;
use crate::protocol::{Parsed, golden};

/// A well-formed packet.
fn packet(modifier1: u8, variables: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for text in variables.iter().flat_map(|(key, value)| [key, value]) {
        body.extend_from_slice(&(text.len() as u16).to_le_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut bytes = vec![modifier1];
    bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&body);
    bytes
}

/// The packet in `bytes`, after feeding it at every split.
#[track_caller]
fn parsed(bytes: &[u8]) -> Packet<'_> {
    let Parsed::Head(found) = parse_packet(bytes) else { panic!("{:?}", parse_packet(bytes)) };
    for end in 0..found.consumed {
        assert_eq!(parse_packet(&bytes[..end]), Parsed::Partial, "the first {end} bytes");
    }
    let mut longer = bytes.to_vec();
    longer.extend_from_slice(b"body and more");
    let Parsed::Head(again) = parse_packet(&longer) else { panic!("with a body behind it") };
    assert_eq!(again.consumed, found.consumed);
    assert!(again.variables().eq(found.variables()));
    found
}

const GET: [(&str, &str); 3] =
    [("QUERY_STRING", ""), ("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "")];

#[test]
fn a_request_as_nginx_sends_it() {
    let bytes = packet(
        0,
        &[
            ("QUERY_STRING", "a=b"),
            ("REQUEST_METHOD", "POST"),
            ("CONTENT_TYPE", "text/plain"),
            ("CONTENT_LENGTH", "12"),
            ("REQUEST_URI", "/x%20y?a=b"),
            ("PATH_INFO", "/x y"),
            ("DOCUMENT_ROOT", "/srv"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("REQUEST_SCHEME", "https"),
            ("HTTPS", "on"),
            ("REMOTE_ADDR", "192.0.2.1"),
            ("REMOTE_PORT", "4711"),
            ("SERVER_PORT", "443"),
            ("SERVER_NAME", "example.org"),
            ("HTTP_HOST", "example.org"),
            ("HTTP_TRANSFER_ENCODING", "chunked"),
            ("HTTP_CONTENT_TYPE", "text/plain"),
            ("HTTP_X_FORWARDED_FOR", "203.0.113.9"),
        ],
    );
    let packet = parsed(&bytes);
    assert_eq!((packet.modifier1, packet.consumed), (MODIFIER_WSGI, bytes.len()));
    assert_eq!(packet.variables().count(), 18);
    assert_eq!(packet.passed_on().count(), 16);
    let head = request_head(&packet).unwrap();
    assert_eq!(head.method, b"POST");
    assert!(!head.is_head());
    assert_eq!(head.content_length, Some(12));
    assert_eq!(head.request_uri, Some(&b"/x%20y?a=b"[..]));
    assert_eq!(head.protocol, Some(&b"HTTP/1.1"[..]));
    assert_eq!(head.path_info, Some(&b"/x y"[..]));
    assert_eq!(head.query, Some(&b"a=b"[..]));
    assert_eq!(head.remote_addr, Some(&b"192.0.2.1"[..]));
    assert_eq!(head.host, Some(&b"example.org"[..]));
    assert_eq!(head.script_name, None);
    assert!(head.is_https);
}

#[test]
fn an_empty_content_length_and_type_are_absent() {
    let bytes = packet(0, &[&GET[..], &[("CONTENT_TYPE", ""), ("HTTP_X", "")]].concat());
    let packet = parsed(&bytes);
    assert_eq!(request_head(&packet).unwrap().content_length, None);
    let keys: Vec<&[u8]> = packet.passed_on().map(|(key, _)| key).collect();
    assert_eq!(keys, [&b"QUERY_STRING"[..], b"REQUEST_METHOD", b"HTTP_X"]);
}

#[test]
fn a_ping_is_four_bytes_and_so_is_its_answer() {
    let packet = parsed(&[100, 0, 0, 0]);
    assert!(packet.is_ping());
    assert_eq!(packet.consumed, 4);
    assert_eq!(PONG, [100, 0, 0, 1]);
    for bytes in [[100, 0, 0, 1], [100, 1, 0, 0], [100, 0, 1, 0]] {
        let Parsed::Reject(rejection) = parse_packet(&bytes) else { panic!("{bytes:?}") };
        assert!(rejection.is_silent());
    }
}

#[test]
fn other_modifiers_are_closed_at_their_first_byte() {
    for modifier1 in 0..=255u8 {
        let verdict = parse_packet(std::slice::from_ref(&modifier1));
        match modifier1 {
            0 | 30 | 100 => assert_eq!(verdict, Parsed::Partial),
            _ => assert!(matches!(verdict, Parsed::Reject(r) if r.is_silent()), "{modifier1}"),
        }
    }
}

#[test]
fn the_largest_packet_is_accepted() {
    let key_and_lengths = 2 + "REQUEST_METHOD".len() + 2 + "GET".len() + 2 + "BIG".len() + 2;
    let value = "v".repeat(65_535 - key_and_lengths);
    let bytes = packet(0, &[("REQUEST_METHOD", "GET"), ("BIG", &value)]);
    assert_eq!(bytes.len(), PACKET_BYTES_MAX);
    let Parsed::Head(packet) = parse_packet(&bytes) else { panic!() };
    assert_eq!(packet.consumed, PACKET_BYTES_MAX);
    assert_eq!(packet.variables().nth(1), Some((&b"BIG"[..], value.as_bytes())));
    assert_eq!(parse_packet(&bytes[..PACKET_BYTES_MAX - 1]), Parsed::Partial);
}

#[test]
fn the_last_of_a_repeated_variable_counts_and_lengths_must_agree() {
    let head = |extra: &[(&str, &str)]| -> Result<(Vec<u8>, Option<u64>), Rejection> {
        let bytes = packet(0, &[&GET[..], extra].concat());
        let packet = parsed(&bytes);
        request_head(&packet).map(|h| (h.path_info.unwrap_or(b"").to_vec(), h.content_length))
    };
    let path = head(&[("PATH_INFO", "/first"), ("PATH_INFO", "/second")]);
    assert_eq!(path.unwrap().0, b"/second");
    let length = |values: &[&str]| {
        let pairs: Vec<_> = values.iter().map(|value| ("CONTENT_LENGTH", *value)).collect();
        head(&pairs).map(|found| found.1).map_err(|rejection| rejection.status)
    };
    assert_eq!(length(&["5"]), Ok(Some(5)));
    assert_eq!(length(&["5", "5"]), Ok(Some(5)));
    assert_eq!(length(&["5", "", "05"]), Ok(Some(5)));
    assert_eq!(length(&["5", "6"]), Err(400));
    assert_eq!(length(&["9223372036854775807"]), Ok(Some(i64::MAX as u64)));
    assert_eq!(length(&["9223372036854775808"]), Err(400));
    for malformed in ["-1", "+1", "1,1", "1 ", "0x5", "five", "99999999999999999999"] {
        assert_eq!(length(&[malformed]), Err(400), "{malformed}");
    }
}

#[test]
fn methods_are_tokens() {
    let status = |method: &str| {
        let bytes = packet(0, &[("REQUEST_METHOD", method)]);
        request_head(&parsed(&bytes)).map(|_| ()).map_err(|rejection| rejection.status)
    };
    assert_eq!(status("GET"), Ok(()));
    assert_eq!(status("M-SEARCH"), Ok(()));
    assert_eq!(status(&"M".repeat(32)), Ok(()));
    assert_eq!(status(&"M".repeat(33)), Err(501));
    for malformed in ["", "GE T", "GET\r\n", "G(T", "G\u{e9}T"] {
        assert_eq!(status(malformed), Err(400), "{malformed:?}");
    }
}

#[test]
fn modifier_30_cuts_script_name_at_a_segment_only() {
    let check = |script_name: &str, path_info: &str, expected: &str| {
        let cut = path_after_script_name(script_name.as_bytes(), path_info.as_bytes());
        assert_eq!(cut, expected.as_bytes(), "{script_name} from {path_info}");
        let pairs =
            [("REQUEST_METHOD", "GET"), ("PATH_INFO", path_info), ("SCRIPT_NAME", script_name)];
        let (managed, plain) = (packet(30, &pairs), packet(0, &pairs));
        let path = |bytes: &[u8]| {
            request_head(&parsed(bytes)).unwrap().path_info.map(<[u8]>::to_vec).unwrap()
        };
        assert_eq!(path(&managed), expected.as_bytes());
        assert_eq!(path(&plain), path_info.as_bytes());
    };
    check("/app", "/app/x", "/x");
    check("/app", "/app", "");
    check("/app", "/app/", "/");
    check("/app", "/apple", "/apple");
    check("/app", "/ap", "/ap");
    check("/app", "/other/app", "/other/app");
    check("", "/app", "/app");
    check("/", "/app", "/app");
    check("/app/", "/app/x", "/app/x");
    check("/app", "", "");
}

#[test]
fn keys_of_the_server_and_of_uwsgi_are_not_passed_on() {
    let check =
        |key: &str, expected: bool| assert_eq!(is_passed_on(key.as_bytes()), expected, "{key}");
    for key in [
        "HTTP_TRANSFER_ENCODING",
        "HTTP_CONTENT_LENGTH",
        "HTTP_CONTENT_TYPE",
        "HTTP_PROXY",
        "UWSGI_FILE",
        "UWSGI_",
        "wsgi.input",
        "wsgi.url_scheme",
        "uwsgi.version",
        "ringhorn.request_id",
    ] {
        check(key, false);
    }
    for key in [
        "HTTP_PROXY_CONNECTION",
        "HTTP_CONTENT_LANGUAGE",
        "CONTENT_LENGTH",
        "UWSGI",
        "REMOTE_USER",
        "wsgi",
        "HTTP_COOKIE",
        "X",
    ] {
        check(key, true);
    }
}

#[test]
fn fields_are_joined_and_other_keys_replaced() {
    assert_eq!(repeat_rule(b"HTTP_COOKIE"), Repeat::JoinBySemicolon);
    assert_eq!(repeat_rule(b"HTTP_ACCEPT"), Repeat::JoinByComma);
    assert_eq!(repeat_rule(b"PATH_INFO"), Repeat::LastCounts);
    assert_eq!(repeat_rule(b"REMOTE_USER"), Repeat::LastCounts);
}

#[test]
fn golden_cases() {
    let mut refused = 0;
    for case in golden::read("uwsgi") {
        let verdict = |bytes: &[u8]| match parse_packet(bytes) {
            Parsed::Partial => "partial".to_string(),
            Parsed::Reject(rejection) if rejection.is_silent() => "close".to_string(),
            Parsed::Reject(rejection) => rejection.status.to_string(),
            Parsed::Head(packet) if packet.is_ping() => "pong".to_string(),
            Parsed::Head(packet) => match request_head(&packet) {
                Ok(head) => {
                    let wanted = head.content_length.unwrap_or(0);
                    let there = (bytes.len() - packet.consumed) as u64;
                    if there < wanted { "partial".to_string() } else { "200".to_string() }
                }
                Err(rejection) => rejection.status.to_string(),
            },
        };
        assert_eq!(verdict(&case.bytes), case.expect.join(" "), "{}", case.name);
        // However the bytes are cut, nothing but `partial` comes before the verdict.
        let ends = (0..case.bytes.len()).filter(|end| *end < 600 || end % 997 == 0);
        let mut earlier = ends.map(|end| verdict(&case.bytes[..end])).filter(|v| v != "partial");
        if let Some(early) = earlier.next() {
            assert_eq!(early, verdict(&case.bytes), "{}", case.name);
        }
        refused += usize::from(!matches!(case.expect[0].as_str(), "200" | "pong"));
    }
    assert!(refused >= 60, "{refused} malformed cases");
}
