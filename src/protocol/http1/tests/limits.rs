//! Every limit on a head at, below and above; and that a slow drip is searched once.

use super::super::FIELDS_MAX;
use super::{HeadLimits, HeadScan, Parsed, step, verdict};

const LIMITS: HeadLimits =
    HeadLimits { request_line_bytes: 40, fields: 3, field_bytes: 30, head_bytes: 150 };

#[track_caller]
fn check(text: &str, limits: &HeadLimits, expected: Option<u16>) {
    match (verdict(text.as_bytes(), limits), expected) {
        (Parsed::Head(_), None) => {}
        (Parsed::Reject(rejection), Some(status)) => assert_eq!(rejection.status, status),
        (other, _) => panic!("{text:?}: {other:?}"),
    }
}

/// A head whose request line has `bytes` bytes.
fn with_line(bytes: usize) -> String {
    format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - 14))
}

#[test]
fn request_line() {
    for limit in [15, 40, 127, 1000] {
        let limits = HeadLimits { request_line_bytes: limit, head_bytes: 9000, ..LIMITS };
        check(&with_line(limit - 1), &limits, None);
        check(&with_line(limit), &limits, None);
        check(&with_line(limit + 1), &limits, Some(414));
        check(&with_line(limit + 500), &limits, Some(414));
    }
    // Refused before the line ends, however it might have gone on.
    check(&format!("GET /{}", "a".repeat(36)), &LIMITS, Some(414));
    check(&format!("GET /{}\r", "a".repeat(36)), &LIMITS, Some(414));
    assert_eq!(verdict(format!("GET /{}\r", "a".repeat(35)).as_bytes(), &LIMITS), Parsed::Partial);
}

#[test]
fn field_size() {
    let with_field =
        |bytes: usize| format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "a".repeat(bytes - 3));
    check(&with_field(29), &LIMITS, None);
    check(&with_field(30), &LIMITS, None);
    check(&with_field(31), &LIMITS, Some(431));
    check(&with_field(60), &LIMITS, Some(431));
    check(&format!("GET / HTTP/1.0\r\nX: {}", "a".repeat(28)), &LIMITS, Some(431));
    let dropped = format!("GET / HTTP/1.0\r\nX_Y: {}\r\n\r\n", "a".repeat(30));
    check(&dropped, &LIMITS, Some(431));
}

#[test]
fn number_of_fields() {
    let with_fields = |count: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "A_: b\r\n".repeat(count));
    check(&with_fields(2), &LIMITS, None);
    check(&with_fields(3), &LIMITS, None);
    check(&with_fields(4), &LIMITS, Some(431));
    let wide = HeadLimits { fields: 100_000, ..HeadLimits::DEFAULT };
    check(&with_fields(FIELDS_MAX), &wide, None);
    check(&with_fields(FIELDS_MAX + 1), &wide, Some(431));
    check(&with_fields(0), &HeadLimits { fields: 0, ..LIMITS }, None);
    check(&with_fields(1), &HeadLimits { fields: 0, ..LIMITS }, Some(431));
}

#[test]
fn whole_head() {
    let limits = HeadLimits { fields: 100, ..LIMITS };
    // 16 + 2 bytes around the fields.
    let with_head = |bytes: usize| {
        let mut text = "GET / HTTP/1.0\r\n".to_string();
        while bytes - text.len() > 34 {
            text.push_str("A: 45678901234567\r\n");
        }
        let left = bytes - text.len() - 7;
        format!("{text}B: {}\r\n\r\n", "x".repeat(left))
    };
    for bytes in [100, 148, 149, 150] {
        assert_eq!(with_head(bytes).len(), bytes);
        check(&with_head(bytes), &limits, None);
        check(&("\r\n".to_string() + &with_head(bytes - 2)), &limits, None);
    }
    for bytes in [151, 152, 153, 154, 200, 1000] {
        check(&with_head(bytes), &limits, Some(431));
        check(&("\r\n".to_string() + &with_head(bytes - 2)), &limits, Some(431));
    }
    check(&with_line(40), &HeadLimits { head_bytes: 20, ..LIMITS }, Some(431));
    check(&with_line(41), &HeadLimits { head_bytes: 20, ..LIMITS }, Some(431));
}

#[test]
fn a_limit_without_bound_does_not_overflow() {
    let open = HeadLimits {
        request_line_bytes: usize::MAX,
        fields: usize::MAX,
        field_bytes: usize::MAX,
        head_bytes: usize::MAX,
    };
    check(&with_line(20_000), &open, None);
}

#[test]
fn verdicts_do_not_depend_on_cuts_under_tiny_limits() {
    // Small bytes and small limits: every order in which two limits can be crossed.
    let pieces = ["A", " ", "/", "\r\n", "\r", "\n", "B:c", "GET / HTTP/1.1", "HTTP/1.0", "\0"];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for _ in 0..20_000 {
        let limits = HeadLimits {
            request_line_bytes: random(20),
            fields: random(3),
            field_bytes: random(6),
            head_bytes: random(40),
        };
        let text: String = (0..random(12)).map(|_| pieces[random(pieces.len())]).collect();
        verdict(text.as_bytes(), &limits);
    }
}

#[test]
fn a_slow_drip_is_searched_once() {
    // 60,000 calls over 60,000 bytes: 1.8e9 bytes if each call searched from the start. Counted,
    // not timed: the scan says how far it came.
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().copied();
    let bytes: Vec<u8> = bytes.chain(std::iter::repeat_n(b'x', 16_000)).collect();
    let mut scan = HeadScan::default();
    let mut before = scan;
    for end in 1..=bytes.len() {
        assert_eq!(step(&bytes[..end], &mut scan, &HeadLimits::DEFAULT), Parsed::Partial);
        assert_ne!(scan, before, "the search went on from where it stood");
        before = scan;
    }
    // What lies before the remembered offset is not looked at again.
    let mut overwritten = bytes.clone();
    overwritten[40..15_000].fill(b'\n');
    overwritten.extend_from_slice(b"x");
    assert_eq!(step(&overwritten, &mut scan, &HeadLimits::DEFAULT), Parsed::Partial);
}
