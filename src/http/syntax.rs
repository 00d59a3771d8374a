//! Byte classes and the small grammars that more than one codec needs (RFC 9110 §5.6, RFC 3986 §2).
//!
//! Pure functions over bytes; each is total, none allocates.

/// The longest body length that is understood, in bytes: 2^63 - 1. A file offset and Python's
/// `Py_ssize_t` end there too, so a larger one could only be wrong later.
pub const LENGTH_MAX: u64 = i64::MAX as u64;

/// The longest method that is passed on, in bytes. The longest registered one has 17
/// (`UPDATEREDIRECTREF`); a bound lets nonsense be refused before a line ends.
pub const METHOD_BYTES_MAX: usize = 32;

const TCHAR: u8 = 1;
const REG_NAME: u8 = 2;
const TEXT: u8 = 4;

/// Classes of each byte as a set of the bits above; one load answers any of the questions below.
static CLASS: [u8; 256] = class_table();

const fn class_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let mut class = 0;
        if is_tchar(byte) {
            class |= TCHAR;
        }
        if is_reg_name(byte) {
            class |= REG_NAME;
        }
        if matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xFF) {
            class |= TEXT;
        }
        table[at] = class;
        at += 1;
    }
    table
}

/// RFC 9110 §5.6.2, `tchar`.
const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// RFC 3986 §3.2.2, `unreserved / sub-delims`: what a registered name holds besides `%XX`.
const fn is_reg_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
#[inline]
pub fn is_token_byte(byte: u8) -> bool {
    CLASS[byte as usize] & TCHAR != 0
}

/// Whether a byte may stand in a registered name, `%` apart (RFC 3986 §3.2.2).
#[inline]
pub fn is_reg_name_byte(byte: u8) -> bool {
    CLASS[byte as usize] & REG_NAME != 0
}

/// Whether a byte may stand in a field value: HTAB, SP, VCHAR or obs-text (RFC 9110 §5.5).
#[inline]
pub fn is_text_byte(byte: u8) -> bool {
    CLASS[byte as usize] & TEXT != 0
}

/// Whether `bytes` is a token: at least one byte, each a `tchar`.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// The value of `1*DIGIT`, or `None` for anything else (sign, blank, list, nothing) and for numbers
/// above [`LENGTH_MAX`]. This is what a Content-Length must be (RFC 9110 §8.6, RFC 9112 §6.3).
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (value <= LENGTH_MAX).then_some(value)
}

/// `bytes` without SP and HTAB at both ends (RFC 9110 §5.6.3, OWS).
pub fn trim_blanks(bytes: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(first) = bytes.iter().position(|byte| !is_blank(byte)) else {
        return &bytes[..0];
    };
    let last = bytes.iter().rposition(|byte| !is_blank(byte)).unwrap_or(first);
    &bytes[first..=last]
}

/// The elements of a comma-separated list, trimmed; empty elements are kept, since some users must
/// refuse them and others ignore them (RFC 9110 §5.6.1). Quoted commas are not known here: no list
/// that a codec decides by may hold one.
pub fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_blanks)
}
