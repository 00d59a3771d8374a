//! Atoms and escaping, as tables.

use std::time::{Duration, SystemTime};

use super::*;
use crate::log::Phases;

fn record(format: &AccessFormat, variables: &[(&str, &str)]) -> AccessRecord {
    let of = |name: &[u8]| {
        let found = variables.iter().find(|(known, _)| known.as_bytes() == name);
        found.map(|(_, value)| value.as_bytes().into())
    };
    AccessRecord {
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400),
        phases: Phases {
            accepted_ns: 1_000_000_000,
            head_ns: 2_000_000_000,
            queued_ns: 2_000_001_000,
            claimed_ns: 2_250_001_000,
            first_byte_ns: 3_000_000_000,
            done_ns: 3_234_567_891,
        },
        remote_addr: "10.1.2.3".into(),
        method: b"GET".as_slice().into(),
        target: b"/a%20b?x=1".as_slice().into(),
        protocol: b"HTTP/1.1".as_slice().into(),
        variables: format.captures().variables.iter().map(|name| of(name)).collect(),
        response_head: Some(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nVary: a\r\nvary:b\r\n\r\n"
                .as_slice()
                .into(),
        ),
        status: 200,
        response_body_bytes: 5,
        request_id: b"abc-1".as_slice().into(),
        worker: 1,
        close_reason: None,
    }
}

fn line(text: &str, variables: &[(&str, &str)], change: impl Fn(&mut AccessRecord)) -> String {
    let format = AccessFormat::compile(text).unwrap();
    let mut record = record(&format, variables);
    change(&mut record);
    let mut out = Vec::new();
    let moment = Moment::new(record.started, 3600);
    format.write(&record, 42, moment, &mut out);
    String::from_utf8(out).unwrap().trim_end_matches('\n').to_owned()
}

#[test]
fn atoms() {
    let variables = [
        ("PATH_INFO", "/a b"),
        ("QUERY_STRING", "x=1"),
        ("HTTP_USER_AGENT", "curl \"8\""),
        ("HTTP_AUTHORIZATION", "Basic YW5uOnNlY3JldA=="),
        ("CONTENT_TYPE", "text/html"),
        ("HTTP_X_ONE", "é\r\n\\"),
        ("MY_VAR", "v"),
    ];
    let check = |text: &str, expected: &str| {
        assert_eq!(line(text, &variables, |_| {}), expected, "{text}");
    };
    check("%(h)s %(l)s %(u)s", "10.1.2.3 - ann");
    check("%(t)s", "[29/Feb/2000:01:00:00 +0100]");
    check("%(r)s|%(m)s|%(H)s", "GET /a%20b?x=1 HTTP/1.1|GET|HTTP/1.1");
    check("%(U)s?%(q)s", "/a b?x=1");
    check("%(s)s %(b)s %(B)s", "200 5 5");
    check("%(f)s \"%(a)s\"", "- \"curl \\x228\\x22\"");
    check("%(T)s %(M)s %(D)s %(L)s", "1 1234 1234567 1.234567");
    check("%(p)s", "<42>");
    check("%({Content-Type}i)s %({x-one}i)s", "text/html \\xC3\\xA9\\x0D\\x0A\\x5C");
    check("%({content-type}o)s %({Vary}o)s %({none}o)s", "text/plain a, b -");
    check("%({MY_VAR}e)s %({OTHER}e)s", "v -");
    check("%(request_id)s %(queue_wait)s %(first_byte)s", "abc-1 0.250000 1.000000");
    check("%(close_reason)s", "-");
    check("100%% %(T)d é", "100% 1 é");
}

#[test]
fn what_is_missing_is_a_dash() {
    let empty = |record: &mut AccessRecord| {
        record.remote_addr = "".into();
        record.method = Box::default();
        record.target = Box::default();
        record.protocol = Box::default();
        record.response_head = None;
        record.status = 0;
        record.response_body_bytes = 0;
        record.request_id = Box::default();
        record.phases = Phases::default();
        record.close_reason = Some("client-closed");
    };
    let text = "%(h)s %(r)s %(m)s %(s)s %(b)s %(u)s %({a}o)s %(request_id)s %(first_byte)s \
                %(queue_wait)s %(close_reason)s";
    assert_eq!(line(text, &[], empty), "- - - 0 - - - - - 0.000000 client-closed");
}

#[test]
fn a_line_cannot_be_broken() {
    let line =
        line("%(r)s", &[], |record| record.target = b"/\r\n\x00\"\x7f\xff".as_slice().into());
    assert_eq!(line, "GET /\\x0D\\x0A\\x00\\x22\\x7F\\xFF HTTP/1.1");
}

#[test]
fn captures_what_is_named_and_no_more() {
    let captures = AccessFormat::compile("%(s)s %(D)s").unwrap().captures().clone();
    assert_eq!(captures, AccessCaptures::default());
    let format = AccessFormat::compile("%(a)s %({User-Agent}i)s %(r)s %({x}o)s").unwrap();
    let names: Vec<&[u8]> = format.captures().variables.iter().map(|name| &**name).collect();
    assert_eq!(names, [b"HTTP_USER_AGENT"]);
    assert!(format.captures().request_line && format.captures().response_head);
    assert!(!format.captures().request_id && !format.captures().remote_addr);
}

#[test]
fn refuses() {
    let many: String = (0..=ACCESS_CAPTURES_MAX).map(|i| format!("%({{h{i}}}i)s")).collect();
    for text in ["%", "%h", "%(h", "%(h)", "%(h)x", "%(z)s", "%({a}z)s", "%({}i)s", "%({a)s", &many]
    {
        assert!(AccessFormat::compile(text).is_err(), "{text}");
    }
}
