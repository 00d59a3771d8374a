//! Tests of the HTTP/1 codec: tables for heads, targets and chunked bodies, and the golden cases.

mod chunked;
mod framing;
mod head;
mod limits;
mod target;

use super::{
    ChunkDecoder, ChunkStep, FieldTable, HeadLimits, HeadScan, parse_head, percent_decode,
};
use crate::http::{BodyFraming, Rejection};
use crate::protocol::{Parsed, golden};

/// What one request head said, owned, so that it can be compared and outlive its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    path: String,
    query: String,
    host: Option<String>,
    version: &'static str,
    fields: Vec<(String, String)>,
    framing: BodyFraming,
    keep_alive: bool,
    expect_continue: bool,
    head_bytes: usize,
}

/// Bytes as text, one character each.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// One call, as the connection makes it.
fn step(bytes: &[u8], scan: &mut HeadScan, limits: &HeadLimits) -> Parsed<Seen> {
    let mut table = FieldTable::new();
    match parse_head(bytes, scan, limits, &mut table) {
        Parsed::Partial => Parsed::Partial,
        Parsed::Reject(rejection) => Parsed::Reject(rejection),
        Parsed::Head(head) => Parsed::Head(Seen {
            method: text(head.method),
            target: text(head.target),
            path: text(head.path),
            query: text(head.query),
            host: head.host.map(text),
            version: head.version.as_str(),
            fields: head.fields.iter().map(|f| (text(f.name), text(f.value))).collect(),
            framing: head.framing,
            keep_alive: head.keep_alive,
            expect_continue: head.expect_continue,
            head_bytes: head.head_bytes,
        }),
    }
}

/// Feeds `bytes` cut at `ends`, each call seeing all bytes up to there, until a verdict comes.
fn fed(bytes: &[u8], ends: impl Iterator<Item = usize>, limits: &HeadLimits) -> Parsed<Seen> {
    let mut scan = HeadScan::default();
    for end in ends {
        match step(&bytes[..end], &mut scan, limits) {
            Parsed::Partial => {}
            verdict => {
                assert_eq!(scan, HeadScan::default(), "the scan is set back with a verdict");
                return verdict;
            }
        }
    }
    Parsed::Partial
}

/// The verdict on `bytes`, the same in one piece, byte by byte, and cut in two anywhere; and for a
/// head, `Partial` at each strict prefix.
#[track_caller]
fn verdict(bytes: &[u8], limits: &HeadLimits) -> Parsed<Seen> {
    let whole = fed(bytes, std::iter::once(bytes.len()), limits);
    assert_eq!(whole, fed(bytes, 0..=bytes.len(), limits), "byte by byte");
    // Long inputs are cut at a sample of places; short ones everywhere.
    let stride = if bytes.len() < 1000 { 1 } else { 1 + bytes.len() / 30 };
    for cut in (0..bytes.len()).step_by(stride) {
        assert_eq!(whole, fed(bytes, [cut, bytes.len()].into_iter(), limits), "cut at {cut}");
        if let Parsed::Head(head) = &whole
            && cut < head.head_bytes
        {
            let alone = step(&bytes[..cut], &mut HeadScan::default(), limits);
            assert_eq!(alone, Parsed::Partial, "the first {cut} bytes");
        }
    }
    whole
}

#[track_caller]
fn head(text: &str) -> Seen {
    match verdict(text.as_bytes(), &HeadLimits::DEFAULT) {
        Parsed::Head(head) => head,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[track_caller]
fn status(bytes: &[u8]) -> u16 {
    match verdict(bytes, &HeadLimits::DEFAULT) {
        Parsed::Reject(rejection) => rejection.status,
        other => panic!("{:?}: {other:?}", bytes.escape_ascii().to_string()),
    }
}

/// What is left of a chunked body: its data and the bytes after it, the verdict, or neither.
fn dechunk(mut input: &[u8], piece: usize) -> Result<Option<(Vec<u8>, usize)>, Rejection> {
    let mut decoder = ChunkDecoder::new();
    let (mut data, mut taken) = (Vec::new(), 0);
    loop {
        let given = &input[..input.len().min(piece)];
        let (consumed, found) = decoder.step(given)?;
        match found {
            ChunkStep::Data { start, end } => {
                assert!(start < end && end == consumed, "{start}..{end} of {consumed}");
                data.extend_from_slice(&given[start..end]);
            }
            ChunkStep::NeedMore => {
                assert_eq!(consumed, given.len());
                if consumed == input.len() {
                    return Ok(None);
                }
            }
            ChunkStep::End => return Ok(Some((data, taken + consumed))),
        }
        taken += consumed;
        input = &input[consumed..];
    }
}

/// The answers a server gives that serves every legal request with 200, and the first body.
fn answers(bytes: &[u8]) -> (Vec<String>, Option<Vec<u8>>) {
    let (mut rest, mut statuses, mut first_body) = (bytes, Vec::new(), None);
    let status = |rejection: Rejection| rejection.status.to_string();
    while !rest.is_empty() {
        let head = match step(rest, &mut HeadScan::default(), &HeadLimits::DEFAULT) {
            Parsed::Head(head) => head,
            Parsed::Partial => {
                statuses.push("partial".to_string());
                break;
            }
            Parsed::Reject(rejection) => {
                statuses.push(status(rejection));
                break;
            }
        };
        // Golden paths are ASCII, so the text has the same bytes.
        if let Err(rejection) = percent_decode(head.path.as_bytes(), &mut [0; 8192]) {
            statuses.push(status(rejection));
            break;
        }
        rest = &rest[head.head_bytes..];
        let body = match head.framing {
            BodyFraming::Empty => Ok(Some((Vec::new(), 0))),
            BodyFraming::Length(n) if n > rest.len() as u64 => Ok(None),
            BodyFraming::Length(n) => Ok(Some((rest[..n as usize].to_vec(), n as usize))),
            BodyFraming::Chunked => {
                let whole = dechunk(rest, usize::MAX);
                for piece in [1, 2, 3, 7, 64] {
                    assert_eq!(whole, dechunk(rest, piece), "in pieces of {piece}");
                }
                whole
            }
        };
        match body {
            Ok(Some((body, taken))) => {
                statuses.push("200".to_string());
                first_body.get_or_insert(body);
                rest = &rest[taken..];
            }
            Ok(None) => {
                statuses.push("partial".to_string());
                break;
            }
            Err(rejection) => {
                statuses.push(status(rejection));
                break;
            }
        }
        if !head.keep_alive {
            break;
        }
    }
    (statuses, first_body)
}

#[test]
fn golden_cases() {
    let mut refused = 0;
    for case in golden::read("http1") {
        let (statuses, body) = answers(&case.bytes);
        assert_eq!(statuses, case.expect, "{}", case.name);
        if case.body.is_some() {
            assert_eq!(body, case.body, "{}", case.name);
        }
        verdict(&case.bytes, &HeadLimits::DEFAULT);
        refused += usize::from(case.expect.last().is_some_and(|last| last.starts_with(['4', '5'])));
    }
    assert!(refused >= 150, "{refused} malformed cases");
}
