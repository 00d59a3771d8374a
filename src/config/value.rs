//! Values of options: their spelling, and whether they are legal for their row.
//!
//! Pure functions from text to numbers; each refusal is a sentence that says what would be legal.

use std::time::Duration;

use super::limits::TIMEOUT_SECONDS_MAX;
use super::options::{Row, Takes};

/// A count that may be left to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// `auto`.
    Auto,
    /// So many.
    Exactly(u64),
}

/// Whether a text is a legal value of an option.
///
/// # Errors
/// What would be legal.
pub fn check(row: &Row, text: &str) -> Result<(), String> {
    match row.takes {
        Takes::Nothing => switch(text).map(drop),
        Takes::Text(_) | Takes::Many(_) if text.is_empty() => Err("a value is missing".to_owned()),
        Takes::Text(_) | Takes::Many(_) => Ok(()),
        Takes::Number(lowest, highest) => number(text, lowest, highest).map(drop),
        Takes::NumberOrAuto(lowest, highest) => amount(text, lowest, highest).map(drop),
        Takes::Bytes(lowest, highest) => bytes(text, lowest, highest).map(drop),
        Takes::Seconds(lowest) => seconds(text, lowest).map(drop),
        Takes::Choice(words) if words.contains(&text) => Ok(()),
        Takes::Choice(words) => Err(format!("it is one of {}", words.join(", "))),
    }
}

/// A switch as an environment variable says it.
///
/// # Errors
/// The words that are understood.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" | "" => Ok(false),
        _ => Err("it is 1, true, yes, on, or 0, false, no, off".to_owned()),
    }
}

/// A whole number in a range.
///
/// # Errors
/// The range.
pub fn number(text: &str, lowest: u64, highest: u64) -> Result<u64, String> {
    digits(text)
        .filter(|number| (lowest..=highest).contains(number))
        .ok_or_else(|| format!("it is a whole number from {lowest} to {highest}"))
}

/// A whole number in a range, or `auto`.
///
/// # Errors
/// The range.
pub fn amount(text: &str, lowest: u64, highest: u64) -> Result<Amount, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Amount::Auto);
    }
    number(text, lowest, highest)
        .map(Amount::Exactly)
        .map_err(|_| format!("it is `auto` or a whole number from {lowest} to {highest}"))
}

/// Bytes: `65536`, `64KiB`, `1MiB`, `4GiB`.
///
/// # Errors
/// The form or the range.
pub fn bytes(text: &str, lowest: u64, highest: u64) -> Result<u64, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        _ => return Err("it is a number of bytes, or one with KiB, MiB, GiB".to_owned()),
    };
    digits(number)
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| (lowest..=highest).contains(bytes))
        .ok_or_else(|| {
            format!("it is a size from {} to {}", spell_bytes(lowest), spell_bytes(highest))
        })
}

/// Seconds with an optional fraction: `30`, `0.5`, `30s`.
///
/// # Errors
/// The form or the range.
pub fn seconds(text: &str, lowest: u64) -> Result<Duration, String> {
    let bare = text.strip_suffix('s').unwrap_or(text);
    // Only digits and one point: what f64 also reads (`inf`, `1e9`, `-0`) is no duration.
    let plain = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let parsed = if plain { bare.parse::<f64>().ok() } else { None };
    parsed
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| (lowest..=TIMEOUT_SECONDS_MAX).contains(&time.as_secs()))
        .ok_or_else(|| format!("it is a number of seconds from {lowest} to {TIMEOUT_SECONDS_MAX}"))
}

/// A path as PATH_INFO says it: decoded, without query.
///
/// # Errors
/// The form.
pub fn path_info(text: &str) -> Result<(), String> {
    let is_path = text.starts_with('/')
        && !text.contains(['?', '#', '%'])
        && !text.chars().any(char::is_control);
    if is_path {
        return Ok(());
    }
    Err("it is a path such as /-/healthz: from its slash on, without query, decoded (no %)".into())
}

/// A core list: `0,2,4-7`, in the order said.
///
/// # Errors
/// The form, or a core that is named twice.
pub fn cores(text: &str) -> Result<Vec<usize>, String> {
    const CORES_MAX: usize = 4096;
    let form = || "it is `none`, `auto`, or core numbers and ranges such as 0,2,4-7".to_owned();
    let core = |text: &str| digits(text).map(|core| core as usize).filter(|core| *core < CORES_MAX);
    let mut list = Vec::new();
    for piece in text.split(',') {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        let (first, last) = core(first).zip(core(last)).ok_or_else(form)?;
        for core in first..=last {
            if list.contains(&core) {
                return Err(format!("core {core} is named twice"));
            }
            list.push(core);
        }
    }
    if list.is_empty() { Err(form()) } else { Ok(list) }
}

/// A size in the largest unit that divides it.
pub fn spell_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

fn digits(text: &str) -> Option<u64> {
    // `u64::from_str` also takes a plus sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(bytes(text, 0, 1 << 50).ok(), expected, "{text}");
        };
        check("0", Some(0));
        check("65536", Some(65_536));
        check("64KiB", Some(65_536));
        check("64 kib", Some(65_536));
        check("1M", Some(1 << 20));
        check("4GiB", Some(4 << 30));
        check("1.5MiB", None);
        check("-1", None);
        check("+1", None);
        check("KiB", None);
        check("", None);
        check("1 potato", None);
        check("99999999999999999999", None);
        check("18446744073709551615KiB", None);
        assert!(bytes("1", 2, 3).is_err() && bytes("2", 2, 3).is_ok() && bytes("4", 2, 3).is_err());
    }

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<u64>| {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(seconds(text, 0).ok(), expected, "{text}");
        };
        check("30", Some(30_000));
        check("0.25", Some(250));
        check("5s", Some(5_000));
        check("31622400", Some(31_622_400_000));
        check("31622401", None);
        for text in ["", "s", ".", "-1", "inf", "nan", "1e3", "1.2.3", "1m"] {
            check(text, None);
        }
    }

    #[test]
    fn numbers_and_amounts() {
        assert_eq!(amount("AUTO", 1, 4), Ok(Amount::Auto));
        assert_eq!(amount("4", 1, 4), Ok(Amount::Exactly(4)));
        assert!(
            amount("5", 1, 4).is_err() && amount("0", 1, 4).is_err() && amount("", 1, 4).is_err()
        );
        assert!(number("auto", 1, 4).is_err());
    }

    #[test]
    fn core_lists() {
        assert_eq!(cores("0,2,4-6"), Ok(vec![0, 2, 4, 5, 6]));
        for text in ["", "a", "1-", "3-1", "1,1", "0-2,2", "5000", "0-99999999999"] {
            assert!(cores(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spelled() {
        assert_eq!(spell_bytes(1 << 20), "1MiB");
        assert_eq!(spell_bytes(1000), "1000");
        assert_eq!(spell_bytes(0), "0");
    }
}
