//! Records come back as they were written; limits at, below and above. Pure: `cargo miri test
//! record` can run it.
#![allow(unsafe_code)]

use super::*;

const RING: usize = 128 * 1024;

const START: RecordStart = RecordStart {
    protocol: Protocol::Http11,
    method: MethodId::Post,
    flags: RecordFlags { https: true, head_method: false, body_gathered: true, keep_alive: true },
    content_length: Some(7),
};

/// Writes a record with `write` and gives its memory, or the refusal.
fn record(
    start: RecordStart,
    write: impl FnOnce(&mut RecordWriter<'_>),
) -> Result<Vec<u8>, RecordTooLarge> {
    let mut memory = vec![0u8; RING];
    let mut length = 0;
    // SAFETY: `memory` outlives the ring and is touched through it only.
    let ring = unsafe { RingBytes::new(memory.as_mut_ptr(), RING) };
    let mut writer = RecordWriter::new(ring, &mut length);
    writer.begin(start);
    write(&mut writer);
    let result = writer.finish();
    assert_eq!(length > 0, result.is_ok());
    result.map(|()| memory)
}

fn head_of(memory: &[u8]) -> RecordHead {
    RecordHead::unpack(memory[..RECORD_HEAD_BYTES].try_into().unwrap(), RING).unwrap()
}

fn variables_of(memory: &[u8]) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
    let head = head_of(memory);
    let bytes = &memory[RECORD_HEAD_BYTES..head.record_bytes as usize];
    let variables = Variables::new(bytes, head.variables);
    let seen: Vec<_> = variables
        .map(|variable| (variable.key.bytes().to_vec(), variable.value.to_vec(), variable.ascii))
        .collect();
    assert_eq!(seen.len(), usize::from(head.variables));
    seen
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let memory = record(START, |writer| {
        writer.known(KeyId::REQUEST_METHOD, b"POST");
        writer.known(KeyId::QUERY_STRING, b"");
        writer.named(b"HTTP_X_SHOP", b"caf\xe9");
        writer.named(b"HTTP_HOST", b"example.org");
        let parts = [&b"a=1"[..], b"b=\xff"];
        writer.known_joined(KeyId::HTTP_COOKIE, parts.into_iter(), b"; ");
        writer.named_joined(b"X", [&b"1"[..], b"2", b""].into_iter(), b", ");
    })
    .unwrap();
    let head = head_of(&memory);
    assert_eq!(
        (head.protocol, head.method, head.flags),
        (START.protocol, START.method, START.flags)
    );
    assert_eq!(head.content_length, Some(7));
    let expected: [(&[u8], &[u8], bool); 6] = [
        (b"REQUEST_METHOD", b"POST", true),
        (b"QUERY_STRING", b"", true),
        (b"HTTP_X_SHOP", b"caf\xe9", false),
        (b"HTTP_HOST", b"example.org", true),
        (b"HTTP_COOKIE", b"a=1; b=\xff", false),
        (b"X", b"1, 2, ", true),
    ];
    let seen = variables_of(&memory);
    for (seen, (name, value, ascii)) in seen.iter().zip(expected) {
        assert_eq!(*seen, (name.to_vec(), value.to_vec(), ascii));
    }
    // The known name travelled as its number.
    assert!(!memory.windows(9).any(|window| window == b"HTTP_HOST"));
}

#[test]
fn every_start_comes_back() {
    for protocol in [Protocol::Http10, Protocol::Http11, Protocol::Uwsgi] {
        for method in MethodId::ALL {
            for bits in 0..16 {
                let flags = RecordFlags::unpack(bits);
                assert_eq!(flags.pack(), bits);
                let start = RecordStart { protocol, method, flags, content_length: None };
                let head = head_of(&record(start, |_| ()).unwrap());
                assert_eq!(
                    (head.protocol, head.method, head.flags, head.content_length, head.variables),
                    (protocol, method, flags, None, 0)
                );
            }
        }
    }
}

#[test]
fn values_and_names_are_bounded_at_65535_bytes() {
    let long = vec![b'v'; 65_536];
    let fits = record(START, |writer| writer.known(KeyId::HTTP_COOKIE, &long[1..])).unwrap();
    assert_eq!(variables_of(&fits)[0].1.len(), 65_535);
    for write in [
        (|writer, long| RecordWriter::known(writer, KeyId::HTTP_COOKIE, long))
            as fn(&mut RecordWriter<'_>, &[u8]),
        |writer, long| writer.named(b"X", long),
        |writer, long| writer.named(long, b""),
        |writer, long| {
            writer.known_joined(
                KeyId::HTTP_COOKIE,
                [&long[..40_000], &long[..40_000]].into_iter(),
                b"",
            )
        },
    ] {
        assert_eq!(record(START, |writer| write(writer, &long)).unwrap_err(), RecordTooLarge);
    }
}

#[test]
fn the_largest_packet_fits_and_more_than_the_ring_does_not() {
    let memory = record(START, |writer| {
        for number in 0..65_535 / 5 {
            writer.named(&[number as u8 | 1], b"");
        }
    })
    .unwrap();
    assert_eq!(variables_of(&memory).len(), 13_107);
    let value = [b'v'; 1000];
    let room = RING - BODY_RING_BYTES_MIN - RECORD_HEAD_BYTES;
    let most = room / (1000 + KNOWN_VARIABLE_BYTES);
    for (count, fits) in [(most, true), (most + 1, false), (200, false)] {
        let result = record(START, |writer| {
            (0..count).for_each(|_| writer.known(KeyId::PATH_INFO, &value));
        });
        assert_eq!(result.is_ok(), fits, "{count} variables");
    }
}

#[test]
fn bytes_that_are_no_record_are_refused() {
    let memory = record(START, |_| ()).unwrap();
    for (at, value) in [(0, 31), (3, 1), (6, 3), (7, 10)] {
        let mut head: [u8; RECORD_HEAD_BYTES] = memory[..RECORD_HEAD_BYTES].try_into().unwrap();
        head[at] = value;
        assert!(RecordHead::unpack(&head, RING).is_none(), "byte {at}");
    }
    // Truncated or unknown variables end the iteration, they never run past the record.
    assert_eq!(Variables::new(&[1, 0, 5, 0, b'x'], 1).next(), None);
    assert_eq!(Variables::new(&[254, 0, 0, 0], 1).next(), None);
    assert_eq!(Variables::new(&[255, 0, 0, 0, 9, 0, b'x'], 1).next(), None);
    assert_eq!(Variables::new(&[], 3).next(), None);
}
