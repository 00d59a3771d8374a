//! Every name finds itself by both ways in; near misses find nothing.

use super::*;

/// The field name that a client would send for an `HTTP_*` environ name.
fn field_of(name: &str) -> String {
    name.strip_prefix("HTTP_").unwrap_or(name).to_lowercase().replace('_', "-")
}

#[test]
fn every_name_is_found_by_its_own_bytes() {
    for key in KeyId::ALL {
        assert_eq!(KeyId::of_environ(key.name().as_bytes()), Some(key), "{}", key.name());
        assert_eq!(KeyId::of_index(key.index() as u8), Some(key));
    }
    assert_eq!(KeyId::of_index(KeyId::COUNT as u8), None);
}

#[test]
fn every_field_is_found_in_any_case() {
    for key in KeyId::ALL.into_iter().filter(|key| key.name().starts_with("HTTP_")) {
        let field = field_of(key.name());
        assert_eq!(KeyId::of_field(field.as_bytes()), Some(key), "{field}");
        assert_eq!(KeyId::of_field(field.to_uppercase().as_bytes()), Some(key), "{field}");
    }
    assert_eq!(KeyId::of_field(b"Content-Type"), Some(KeyId::CONTENT_TYPE));
    assert_eq!(KeyId::of_field(b"content-length"), Some(KeyId::CONTENT_LENGTH));
}

#[test]
fn near_misses_are_not_known() {
    for name in [&b""[..], b"HTTP_HOS", b"HTTP_HOSTS", b"http_host", b"HTTP-HOST", b"Host", b"\xff"]
    {
        assert_eq!(KeyId::of_environ(name), None, "{name:?}");
    }
    for name in [&b""[..], b"User_Agent", b"Hos", b"Hosts", b"HTTP_HOST", b"Remote-Addr", b"\xff"] {
        assert_eq!(KeyId::of_field(name), None, "{name:?}");
    }
    assert_eq!(KeyId::of_field(&[b'a'; 300]), None);
    assert_eq!(KeyId::of_environ(&[b'A'; 300]), None);
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = KeyId::ALL.iter().map(|key| key.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KeyId::COUNT);
}
