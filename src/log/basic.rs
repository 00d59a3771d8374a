//! The user name in Basic credentials (RFC 7617), for the access log only: nothing is trusted by
//! it.

/// The user of `Basic <base64 of user:password>`; `None` for other schemes and broken encodings.
pub fn user(credentials: &[u8]) -> Option<Vec<u8>> {
    let scheme = credentials.get(..6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut decoded = decode(credentials[6..].trim_ascii())?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    decoded.truncate(colon);
    Some(decoded)
}

/// Base64 with the standard alphabet; padding may be missing (RFC 4648 §4).
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for &byte in text {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xFFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            // Truncation keeps the eight bits wanted.
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let check = |text: &str, expected: Option<&str>| {
            let found = user(text.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{text}");
        };
        check("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", Some("Aladdin"));
        check("basic YTpi", Some("a"));
        check("Basic Og", Some(""));
        check("Basic YWI=", None);
        check("Basic ****", None);
        check("Basic ", None);
        check("Basic", None);
        check("Bearer YTpi", None);
        check("", None);
    }
}
