//! Tests of the plain data: phrases, byte classes, lists and numbers.

use super::syntax::{LENGTH_MAX, decimal, is_token, list_elements, trim_blanks};
use super::{Rejection, Version, reason_phrase};

#[test]
fn every_status_has_a_phrase_that_can_stand_on_a_status_line() {
    for status in 0..=u16::MAX {
        let phrase = reason_phrase(status);
        assert!(!phrase.is_empty());
        assert!(phrase.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{status}: {phrase}");
    }
    assert_eq!(reason_phrase(200), "OK");
    assert_eq!(reason_phrase(431), "Request Header Fields Too Large");
    assert_eq!(reason_phrase(299), "Success");
    assert_eq!(reason_phrase(470), "Client Error");
    assert_eq!(reason_phrase(599), "Server Error");
    assert_eq!(reason_phrase(42), "Unknown");
}

#[test]
fn versions_are_spelled_as_on_the_wire() {
    assert_eq!(Version::Http10.as_str(), "HTTP/1.0");
    assert_eq!(Version::Http11.as_str(), "HTTP/1.1");
}

#[test]
fn a_silent_rejection_is_the_one_without_a_status() {
    assert!(Rejection::new(Rejection::CLOSE, "x").is_silent());
    assert!(!Rejection::bad_request("x").is_silent());
}

#[test]
fn decimal_takes_digits_only_and_stops_at_the_bound() {
    let check = |text: &str, expected: Option<u64>| {
        assert_eq!(decimal(text.as_bytes()), expected, "{text:?}");
    };
    check("0", Some(0));
    check("7", Some(7));
    check("0010", Some(10));
    check("9223372036854775807", Some(LENGTH_MAX));
    check("00000000000000000000000000009223372036854775807", Some(LENGTH_MAX));
    check("9223372036854775808", None);
    check("18446744073709551616", None);
    check("99999999999999999999999999999999999999999999", None);
    for malformed in ["", " ", "+1", "-1", "1 ", " 1", "1,1", "0x1", "1.0", "1_0", "a", "\u{661}"] {
        check(malformed, None);
    }
}

#[test]
fn tokens_are_those_of_rfc_9110() {
    let expected = b"!#$%&'*+-.^_`|~";
    for byte in 0..=255u8 {
        let is = byte.is_ascii_alphanumeric() || expected.contains(&byte);
        assert_eq!(is_token(&[byte]), is, "{byte:#x}");
    }
    assert!(!is_token(b""));
    assert!(is_token(b"X-Forwarded-For"));
    assert!(!is_token(b"X Forwarded"));
}

#[test]
fn lists_are_split_at_commas_and_trimmed() {
    let elements: Vec<&[u8]> = list_elements(b" a ,\tb,, c").collect();
    assert_eq!(elements, [&b"a"[..], b"b", b"", b"c"]);
    assert_eq!(list_elements(b"").collect::<Vec<_>>(), [b""]);
    assert_eq!(trim_blanks(b" \t a b \t"), b"a b");
    assert_eq!(trim_blanks(b" \t "), b"");
}
