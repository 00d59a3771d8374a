//! What must hold of each codec for every input: the body of the fuzz targets, and of the bounded
//! test on stable Rust (`tests/fuzz_replay.rs`).
//!
//! Beyond "does not panic": a verdict does not depend on how the bytes were cut, what was accepted
//! keeps the invariants its type promises, and what is written anew from it reads the same.
#![allow(dead_code, reason = "each fuzz target uses one of these")]
#![allow(clippy::expect_used, reason = "test code that is not inside a test function")]

use ringhorn::http::syntax::{LENGTH_MAX, is_text_byte, is_token};
use ringhorn::http::{BodyFraming, Rejection, Version};
use ringhorn::protocol::Parsed;
use ringhorn::protocol::http1::{
    ChunkDecoder, ChunkStep, FieldTable, HeadLimits, HeadScan, RequestHead, parse_head,
    percent_decode as decode,
};
use ringhorn::protocol::uwsgi::{is_passed_on, parse_packet, request_head};

/// Limits small enough for a fuzzer to reach, and the real ones.
const LIMITS: [HeadLimits; 2] = [
    HeadLimits { request_line_bytes: 48, fields: 4, field_bytes: 40, head_bytes: 160 },
    HeadLimits::DEFAULT,
];

/// A request head from `bytes`.
pub fn http1_head(bytes: &[u8]) {
    for limits in &LIMITS {
        let mut table = FieldTable::new();
        let whole = parse_head(bytes, &mut HeadScan::default(), limits, &mut table);
        let mut scan = HeadScan::default();
        let mut table_of_pieces = FieldTable::new();
        let mut verdict = Parsed::Partial;
        for end in ends(bytes) {
            // A table serves one call; only the last call fills it.
            let mut table = FieldTable::new();
            let found = parse_head(&bytes[..end], &mut scan, limits, &mut table);
            if !matches!(found, Parsed::Partial) {
                let again = &mut HeadScan::default();
                verdict = parse_head(&bytes[..end], again, limits, &mut table_of_pieces);
                assert_eq!(found, verdict);
                break;
            }
        }
        assert_eq!(whole, verdict, "cut and whole");
        match whole {
            Parsed::Head(head) => check_head(&head, bytes, limits),
            Parsed::Partial => assert!(bytes.len() <= limits.head_bytes),
            Parsed::Reject(rejection) => {
                check_rejection(rejection, &[400, 414, 417, 431, 501, 505]);
            }
        }
    }
}

fn check_head(head: &RequestHead<'_, '_>, bytes: &[u8], limits: &HeadLimits) {
    let taken = &bytes[..head.head_bytes];
    assert!(taken.ends_with(b"\r\n\r\n") && taken.len() <= limits.head_bytes);
    for end in [0, taken.len() / 2, taken.len() - 1] {
        let mut table = FieldTable::new();
        let prefix = parse_head(&taken[..end], &mut HeadScan::default(), limits, &mut table);
        assert_eq!(prefix, Parsed::Partial);
    }
    assert!(is_token(head.method) && head.method != b"CONNECT");
    assert!(head.path.starts_with(b"/") || (head.path == b"*" && head.method == b"OPTIONS"));
    assert!(head.path.iter().chain(head.query).all(|&byte| byte > b' ' && byte != b'#'));
    assert!(head.host.is_some() || head.version == Version::Http10);
    assert!(head.host.is_none_or(|host| !host.is_empty() && host.is_ascii()));
    assert!(head.fields.len() <= limits.fields);
    for field in head.fields {
        assert!(is_token(field.name) && !field.name.contains(&b'_'));
        assert!(!field.name.eq_ignore_ascii_case(b"proxy"));
        assert!(field.value.iter().all(|&byte| is_text_byte(byte)));
        assert_eq!(field.value.trim_ascii(), field.value);
        if field.name.eq_ignore_ascii_case(b"host") {
            assert_eq!(Some(field.value), head.host);
        }
    }
    check_framing(head);
    percent_decode(head.path);
    check_written_anew(head);
}

fn check_framing(head: &RequestHead<'_, '_>) {
    let values = |name: &str| -> Vec<&[u8]> {
        let of = head.fields.iter();
        of.filter(|f| f.name.eq_ignore_ascii_case(name.as_bytes())).map(|f| f.value).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match head.framing {
        BodyFraming::Empty => assert!(lengths.is_empty() && codings.is_empty()),
        BodyFraming::Length(length) => {
            assert!(length <= LENGTH_MAX && codings.is_empty() && lengths.len() == 1);
            let text = std::str::from_utf8(lengths[0]).expect("digits");
            assert_eq!(text.parse(), Ok(length));
        }
        BodyFraming::Chunked => {
            assert!(lengths.is_empty() && head.version == Version::Http11);
            assert!(codings.len() == 1 && codings[0].eq_ignore_ascii_case(b"chunked"));
        }
    }
    let has_body = !matches!(head.framing, BodyFraming::Empty | BodyFraming::Length(0));
    assert!(!head.expect_continue || has_body);
}

/// The head as a strict peer would have sent it reads the same.
fn check_written_anew(head: &RequestHead<'_, '_>) {
    let line = [head.method, b" ", head.target, b" ", head.version.as_str().as_bytes(), b"\r\n"];
    let mut text = line.concat();
    for field in head.fields {
        text.extend([field.name, b": ", field.value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    let mut table = FieldTable::new();
    let open =
        HeadLimits { head_bytes: usize::MAX, field_bytes: usize::MAX, ..HeadLimits::DEFAULT };
    let again = parse_head(&text, &mut HeadScan::default(), &open, &mut table);
    assert_eq!(again, Parsed::Head(RequestHead { head_bytes: text.len(), ..*head }));
}

/// A chunked body from `bytes`.
pub fn http1_chunked(bytes: &[u8]) {
    let whole = dechunk(bytes, std::iter::once(bytes.len()));
    assert_eq!(whole, dechunk(bytes, ends(bytes)), "cut and whole");
    assert_eq!(whole, dechunk(bytes, 0..=bytes.len()), "byte by byte and whole");
    match whole {
        Ok(Some((data, taken))) => {
            assert!(taken <= bytes.len() && data.len() < taken);
            assert!(bytes[..taken].ends_with(b"\r\n"));
            let anew = format!("{:x}\r\n{}\r\n0\r\n\r\n", data.len(), "x".repeat(data.len()));
            if !data.is_empty() {
                let again = dechunk(anew.as_bytes(), std::iter::once(anew.len()));
                assert_eq!(again.map(|end| end.map(|(d, _)| d.len())), Ok(Some(data.len())));
            }
        }
        Ok(None) => {}
        Err(rejection) => check_rejection(rejection, &[400, 431]),
    }
}

/// Data and bytes taken once the end is there. Each step sees what lies between what was consumed
/// and the next of `ends`.
fn dechunk(
    bytes: &[u8],
    ends: impl Iterator<Item = usize>,
) -> Result<Option<(Vec<u8>, usize)>, Rejection> {
    let mut decoder = ChunkDecoder::new();
    let (mut data, mut taken) = (Vec::new(), 0);
    for end in ends {
        loop {
            let input = &bytes[taken..end];
            let (consumed, step) = decoder.step(input)?;
            assert!(consumed <= input.len());
            taken += consumed;
            match step {
                ChunkStep::Data { start, end } => {
                    assert!(start < end && end == consumed);
                    data.extend_from_slice(&input[start..end]);
                }
                ChunkStep::NeedMore => {
                    assert_eq!(taken, end);
                    break;
                }
                ChunkStep::End => return Ok(Some((data, taken))),
            }
        }
    }
    Ok(None)
}

/// A path with escapes from `bytes`.
pub fn percent_decode(bytes: &[u8]) {
    let mut out = vec![0; bytes.len()];
    match decode(bytes, &mut out) {
        Ok(decoded) => {
            let escapes = bytes.iter().filter(|&&byte| byte == b'%').count();
            assert_eq!(decoded.len() + 2 * escapes, bytes.len());
            // Escaped again, all of it, it decodes to the same.
            let escaped: String = decoded.iter().map(|byte| format!("%{byte:02X}")).collect();
            let decoded = decoded.to_vec();
            if !decoded.contains(&0) {
                assert_eq!(decode(escaped.as_bytes(), &mut out), Ok(&decoded[..]));
            }
        }
        Err(rejection) => check_rejection(rejection, &[400]),
    }
}

/// A uwsgi packet from `bytes`.
pub fn uwsgi_packet(bytes: &[u8]) {
    let whole = parse_packet(bytes);
    let verdict = ends(bytes).map(|end| parse_packet(&bytes[..end]));
    let verdict = verdict.into_iter().find(|found| *found != Parsed::Partial);
    assert_eq!(whole, verdict.unwrap_or(Parsed::Partial), "cut and whole");
    let packet = match whole {
        Parsed::Head(packet) => packet,
        Parsed::Partial => return,
        Parsed::Reject(rejection) => return check_rejection(rejection, &[Rejection::CLOSE, 400]),
    };
    for end in [0, packet.consumed / 2, packet.consumed - 1] {
        assert_eq!(parse_packet(&bytes[..end]), Parsed::Partial);
    }
    let mut anew = bytes[..4].to_vec();
    for (key, value) in packet.variables() {
        assert!(!key.is_empty() && key.iter().all(u8::is_ascii_graphic));
        for part in [key, value] {
            anew.extend_from_slice(&(part.len() as u16).to_le_bytes());
            anew.extend_from_slice(part);
        }
    }
    assert_eq!(anew, bytes[..packet.consumed], "the variables fill the packet");
    assert!(packet.passed_on().all(|(key, _)| is_passed_on(key)));
    assert!(packet.passed_on().count() <= packet.variables().count());
    if !packet.is_ping() {
        match request_head(&packet) {
            Ok(head) => {
                assert!(is_token(head.method));
                assert!(head.content_length.is_none_or(|length| length <= LENGTH_MAX));
            }
            Err(rejection) => check_rejection(rejection, &[400, 501]),
        }
    }
}

fn check_rejection(rejection: Rejection, statuses: &[u16]) {
    assert!(statuses.contains(&rejection.status), "{rejection:?}");
    assert!(
        !rejection.reason.is_empty() && rejection.reason.is_ascii()
            || rejection.reason.contains('§')
    );
}

/// Where to cut: pseudo-random, but the same for the same bytes. The last is the end.
fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let length = bytes.len();
    let mut state = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut at = 0;
    let cuts = std::iter::from_fn(move || {
        if at >= length {
            return None;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        at += 1 + (state >> 33) as usize % (1 + length / 4);
        Some(at.min(length))
    });
    cuts.chain(std::iter::once(length))
}
