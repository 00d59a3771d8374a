//! Chunked bodies: every cut, every bound, and what is refused.

use super::super::chunked::{
    EXTENSION_BYTES_MAX, EXTENSIONS_BYTES_MAX, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX,
};
use super::{ChunkDecoder, ChunkStep, dechunk};

/// The verdict, the same for every size of the pieces it is fed in.
#[track_caller]
fn decoded(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, u16> {
    let whole = dechunk(input, usize::MAX);
    for piece in (1..=input.len().min(40)).chain([64, 256, 1000]) {
        assert_eq!(whole, dechunk(input, piece), "in pieces of {piece}");
    }
    whole.map_err(|rejection| rejection.status)
}

#[test]
fn legal_bodies() {
    let check = |input: &str, expected: &str| {
        let (data, taken) = decoded(input.as_bytes()).unwrap().unwrap();
        assert_eq!(data, expected.as_bytes(), "{input:?}");
        assert_eq!(taken, input.len());
        // At each strict prefix more is needed; what follows is not touched.
        for end in 0..input.len() {
            assert_eq!(
                dechunk(&input.as_bytes()[..end], usize::MAX),
                Ok(None),
                "first {end} bytes"
            );
        }
        let longer = format!("{input}GET / HTTP/1.1\r\n");
        assert_eq!(decoded(longer.as_bytes()), Ok(Some((data, taken))));
    };
    check("0\r\n\r\n", "");
    check("0000000000000000\r\n\r\n", "");
    check("5\r\nhello\r\n0\r\n\r\n", "hello");
    check("5\r\nhello\r\n00A\r\n, world!\r\n\r\n0\r\n\r\n", "hello, world!\r\n");
    check("a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", "01234567890123456789a");
    check("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", "\r\n");
    check("2;a=b;c=\"d e\"\r\nhi\r\n0;x\r\n\r\n", "hi");
    check("2 \t;a\r\nhi\r\n0 ;\r\n\r\n", "hi");
    check("2\r\nhi\r\n0\r\nExpires: never\r\nX:\r\nContent-Length: 5\r\n\r\n", "hi");
    check("0\r\nA: \t\u{fc}\r\n\r\n", "");
}

#[test]
fn a_second_step_after_the_end_takes_nothing() {
    let mut decoder = ChunkDecoder::default();
    assert_eq!(decoder.step(b"0\r\n\r\nrest"), Ok((5, ChunkStep::End)));
    assert!(decoder.is_done());
    assert_eq!(decoder.step(b"rest"), Ok((0, ChunkStep::End)));
}

#[test]
fn a_step_after_an_error_is_an_error() {
    let mut decoder = ChunkDecoder::new();
    assert!(decoder.step(b"x").is_err());
    assert!(decoder.step(b"0\r\n\r\n").is_err());
    assert!(!decoder.is_done());
}

#[test]
fn malformed_bodies() {
    for input in [
        "\r\n",
        "\n",
        " 0\r\n\r\n",
        "0 \r\n\r\n",
        "0\t\r\n\r\n",
        "0 x\r\n",
        "0\n\r\n",
        "0\r\r\n",
        "0\r0",
        "0\r\n\n",
        "0\r\n\rx",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x5\r\n",
        "1_0\r\n",
        "1.0\r\n",
        ";a\r\n",
        "5,5\r\n",
        "00000000000000000\r\n",
        "10000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "8000000000000000\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n0\r\n",
        "3\r\nabc0\r\n",
        "3\r\nabc\rx",
        "3\r\nabc\r\n\r\n",
        "3\nabc\r\n",
        "2;a\nhi",
        "2;a\0\r\nhi",
        "2;a\u{7f}\r\nhi",
        "2;\u{fc}\r\nhi",
        "2;a\r\rhi",
        "0\r\n: x\r\n\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n A: b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: \0\r\n\r\n",
        "0\r\nA: b\r\n folded\r\n\r\n",
        "0\r\nA: b\rc\r\n\r\n",
        "0\r\nA: b\r\n\n",
        "HTTP/1.1 200\r\n",
    ] {
        assert_eq!(decoded(input.as_bytes()), Err(400), "{input:?}");
    }
}

#[test]
fn the_largest_size_is_taken_as_it_is() {
    let mut decoder = ChunkDecoder::new();
    let step = decoder.step(b"7fffffffffffffff\r\nabc");
    assert_eq!(step, Ok((21, ChunkStep::Data { start: 18, end: 21 })));
    assert_eq!(decoder.step(b""), Ok((0, ChunkStep::NeedMore)));
    assert_eq!(decoder.step(b"de"), Ok((2, ChunkStep::Data { start: 0, end: 2 })));
}

#[test]
fn extensions_are_bounded() {
    let one = |bytes: u16| format!("0;{}\r\n\r\n", "x".repeat(bytes as usize - 1));
    assert!(decoded(one(EXTENSION_BYTES_MAX - 1).as_bytes()).is_ok());
    assert!(decoded(one(EXTENSION_BYTES_MAX).as_bytes()).is_ok());
    assert_eq!(decoded(one(EXTENSION_BYTES_MAX + 1).as_bytes()), Err(400));
    let blanks = format!("0{};\r\n\r\n", " ".repeat(EXTENSION_BYTES_MAX as usize));
    assert_eq!(decoded(blanks.as_bytes()), Err(400));
    let all = |bytes: u16| {
        let chunk = "1;23456789abcdef\r\nx\r\n";
        let rest = bytes % 15;
        let last =
            if rest == 0 { String::new() } else { format!(";{}", "y".repeat(rest as usize - 1)) };
        chunk.repeat((bytes / 15) as usize) + "0" + &last + "\r\n\r\n"
    };
    for bytes in [EXTENSIONS_BYTES_MAX - 1, EXTENSIONS_BYTES_MAX] {
        assert!(dechunk(all(bytes).as_bytes(), 1000).is_ok_and(|end| end.is_some()));
    }
    let beyond = dechunk(all(EXTENSIONS_BYTES_MAX + 1).as_bytes(), 1000);
    assert_eq!(beyond.unwrap_err().status, 400);
}

#[test]
fn trailers_are_bounded() {
    let fields = |count: u8| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count as usize));
    assert!(decoded(fields(TRAILER_FIELDS_MAX).as_bytes()).is_ok());
    assert_eq!(decoded(fields(TRAILER_FIELDS_MAX + 1).as_bytes()), Err(431));
    let one = |bytes: u16| format!("0\r\nA:{}\r\n\r\n", "b".repeat(bytes as usize - 4));
    assert!(dechunk(one(TRAILER_BYTES_MAX).as_bytes(), 1000).is_ok_and(|end| end.is_some()));
    let beyond = dechunk(one(TRAILER_BYTES_MAX + 1).as_bytes(), 1000);
    assert_eq!(beyond.unwrap_err().status, 431);
}

#[test]
fn many_tiny_chunks() {
    let input = "1\r\na\r\n".repeat(10_000) + "0\r\n\r\n";
    let (data, taken) = dechunk(input.as_bytes(), 4096).unwrap().unwrap();
    assert_eq!((data.len(), taken), (10_000, input.len()));
}
