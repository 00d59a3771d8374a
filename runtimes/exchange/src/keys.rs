//! The names of environ variables that both ends know by number.
//!
//! Where it stands in the walk of a request: the codec turns a field name into a [`KeyId`] with
//! [`KeyId::of_field`] (HTTP) or [`KeyId::of_environ`] (uwsgi and its kin), the record carries one
//! byte, and the runtime finds its interned string at that index. A name that is not here travels
//! in full.
//!
//! Invariants: ids are dense from 0 and mean the same on both ends, which the layout hash
//! guarantees (it covers every name). The lookup neither allocates nor depends on the input beyond
//! its length and bytes. Names are at most [`NAME_BYTES_MAX`] bytes.

/// A known environ name: an index below [`KeyId::COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u8);

/// Longest known name in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// The byte that stands for "the name follows in full" in a record.
pub(crate) const NAMED: u8 = u8::MAX;

macro_rules! keys {
    ($($constant:ident = $name:literal,)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(u8)]
        enum Number { $($constant,)* }

        const NAMES: &[&str] = &[$($name,)*];

        impl KeyId {
            $(
                #[doc = concat!("`", $name, "`.")]
                pub const $constant: KeyId = KeyId(Number::$constant as u8);
            )*
        }
    };
}

keys! {
    // What a gateway is told about the request itself (RFC 3875 §4.1, nginx `uwsgi_params`).
    REQUEST_METHOD = "REQUEST_METHOD",
    SCRIPT_NAME = "SCRIPT_NAME",
    PATH_INFO = "PATH_INFO",
    QUERY_STRING = "QUERY_STRING",
    CONTENT_TYPE = "CONTENT_TYPE",
    CONTENT_LENGTH = "CONTENT_LENGTH",
    SERVER_NAME = "SERVER_NAME",
    SERVER_PORT = "SERVER_PORT",
    SERVER_PROTOCOL = "SERVER_PROTOCOL",
    SERVER_ADDR = "SERVER_ADDR",
    SERVER_SOFTWARE = "SERVER_SOFTWARE",
    REQUEST_URI = "REQUEST_URI",
    RAW_URI = "RAW_URI",
    REQUEST_SCHEME = "REQUEST_SCHEME",
    HTTPS = "HTTPS",
    REMOTE_ADDR = "REMOTE_ADDR",
    REMOTE_PORT = "REMOTE_PORT",
    REMOTE_HOST = "REMOTE_HOST",
    REMOTE_USER = "REMOTE_USER",
    REMOTE_IDENT = "REMOTE_IDENT",
    AUTH_TYPE = "AUTH_TYPE",
    DOCUMENT_ROOT = "DOCUMENT_ROOT",
    DOCUMENT_URI = "DOCUMENT_URI",
    GATEWAY_INTERFACE = "GATEWAY_INTERFACE",
    PATH_TRANSLATED = "PATH_TRANSLATED",
    SCRIPT_FILENAME = "SCRIPT_FILENAME",
    REDIRECT_STATUS = "REDIRECT_STATUS",
    UNIQUE_ID = "UNIQUE_ID",
    REQUEST_ID = "ringhorn.request_id",
    SSL_PROTOCOL = "SSL_PROTOCOL",
    SSL_CIPHER = "SSL_CIPHER",
    SSL_CLIENT_VERIFY = "SSL_CLIENT_VERIFY",
    SSL_CLIENT_S_DN = "SSL_CLIENT_S_DN",
    SSL_CLIENT_I_DN = "SSL_CLIENT_I_DN",
    SSL_CLIENT_CERT = "SSL_CLIENT_CERT",
    SSL_SERVER_NAME = "SSL_SERVER_NAME",
    // Request fields, in CGI form.
    HTTP_HOST = "HTTP_HOST",
    HTTP_CONNECTION = "HTTP_CONNECTION",
    HTTP_USER_AGENT = "HTTP_USER_AGENT",
    HTTP_ACCEPT = "HTTP_ACCEPT",
    HTTP_ACCEPT_ENCODING = "HTTP_ACCEPT_ENCODING",
    HTTP_ACCEPT_LANGUAGE = "HTTP_ACCEPT_LANGUAGE",
    HTTP_ACCEPT_CHARSET = "HTTP_ACCEPT_CHARSET",
    HTTP_ACCEPT_DATETIME = "HTTP_ACCEPT_DATETIME",
    HTTP_AUTHORIZATION = "HTTP_AUTHORIZATION",
    HTTP_CACHE_CONTROL = "HTTP_CACHE_CONTROL",
    HTTP_COOKIE = "HTTP_COOKIE",
    HTTP_REFERER = "HTTP_REFERER",
    HTTP_ORIGIN = "HTTP_ORIGIN",
    HTTP_PRAGMA = "HTTP_PRAGMA",
    HTTP_RANGE = "HTTP_RANGE",
    HTTP_IF_MATCH = "HTTP_IF_MATCH",
    HTTP_IF_NONE_MATCH = "HTTP_IF_NONE_MATCH",
    HTTP_IF_MODIFIED_SINCE = "HTTP_IF_MODIFIED_SINCE",
    HTTP_IF_UNMODIFIED_SINCE = "HTTP_IF_UNMODIFIED_SINCE",
    HTTP_IF_RANGE = "HTTP_IF_RANGE",
    HTTP_TE = "HTTP_TE",
    HTTP_TRAILER = "HTTP_TRAILER",
    HTTP_TRANSFER_ENCODING = "HTTP_TRANSFER_ENCODING",
    HTTP_UPGRADE = "HTTP_UPGRADE",
    HTTP_UPGRADE_INSECURE_REQUESTS = "HTTP_UPGRADE_INSECURE_REQUESTS",
    HTTP_KEEP_ALIVE = "HTTP_KEEP_ALIVE",
    HTTP_EXPECT = "HTTP_EXPECT",
    HTTP_FROM = "HTTP_FROM",
    HTTP_DATE = "HTTP_DATE",
    HTTP_VIA = "HTTP_VIA",
    HTTP_WARNING = "HTTP_WARNING",
    HTTP_MAX_FORWARDS = "HTTP_MAX_FORWARDS",
    HTTP_PROXY_AUTHORIZATION = "HTTP_PROXY_AUTHORIZATION",
    HTTP_PROXY_CONNECTION = "HTTP_PROXY_CONNECTION",
    HTTP_CONTENT_ENCODING = "HTTP_CONTENT_ENCODING",
    HTTP_CONTENT_LANGUAGE = "HTTP_CONTENT_LANGUAGE",
    HTTP_CONTENT_DISPOSITION = "HTTP_CONTENT_DISPOSITION",
    HTTP_CONTENT_MD5 = "HTTP_CONTENT_MD5",
    HTTP_CONTENT_RANGE = "HTTP_CONTENT_RANGE",
    HTTP_DNT = "HTTP_DNT",
    HTTP_PRIORITY = "HTTP_PRIORITY",
    HTTP_SAVE_DATA = "HTTP_SAVE_DATA",
    HTTP_FORWARDED = "HTTP_FORWARDED",
    HTTP_X_FORWARDED_FOR = "HTTP_X_FORWARDED_FOR",
    HTTP_X_FORWARDED_PROTO = "HTTP_X_FORWARDED_PROTO",
    HTTP_X_FORWARDED_HOST = "HTTP_X_FORWARDED_HOST",
    HTTP_X_FORWARDED_PORT = "HTTP_X_FORWARDED_PORT",
    HTTP_X_FORWARDED_SERVER = "HTTP_X_FORWARDED_SERVER",
    HTTP_X_FORWARDED_SSL = "HTTP_X_FORWARDED_SSL",
    HTTP_X_FORWARDED_PREFIX = "HTTP_X_FORWARDED_PREFIX",
    HTTP_X_REAL_IP = "HTTP_X_REAL_IP",
    HTTP_X_REQUEST_ID = "HTTP_X_REQUEST_ID",
    HTTP_X_REQUEST_START = "HTTP_X_REQUEST_START",
    HTTP_X_CORRELATION_ID = "HTTP_X_CORRELATION_ID",
    HTTP_X_SCHEME = "HTTP_X_SCHEME",
    HTTP_X_REQUESTED_WITH = "HTTP_X_REQUESTED_WITH",
    HTTP_X_CSRFTOKEN = "HTTP_X_CSRFTOKEN",
    HTTP_X_CSRF_TOKEN = "HTTP_X_CSRF_TOKEN",
    HTTP_X_XSRF_TOKEN = "HTTP_X_XSRF_TOKEN",
    HTTP_X_API_KEY = "HTTP_X_API_KEY",
    HTTP_X_AUTH_TOKEN = "HTTP_X_AUTH_TOKEN",
    HTTP_X_HTTP_METHOD_OVERRIDE = "HTTP_X_HTTP_METHOD_OVERRIDE",
    HTTP_X_ORIGINAL_URI = "HTTP_X_ORIGINAL_URI",
    HTTP_X_ORIGINAL_METHOD = "HTTP_X_ORIGINAL_METHOD",
    HTTP_X_AMZN_TRACE_ID = "HTTP_X_AMZN_TRACE_ID",
    HTTP_X_CLOUD_TRACE_CONTEXT = "HTTP_X_CLOUD_TRACE_CONTEXT",
    HTTP_X_B3_TRACEID = "HTTP_X_B3_TRACEID",
    HTTP_X_B3_SPANID = "HTTP_X_B3_SPANID",
    HTTP_X_B3_SAMPLED = "HTTP_X_B3_SAMPLED",
    HTTP_TRACEPARENT = "HTTP_TRACEPARENT",
    HTTP_TRACESTATE = "HTTP_TRACESTATE",
    HTTP_BAGGAGE = "HTTP_BAGGAGE",
    HTTP_CF_CONNECTING_IP = "HTTP_CF_CONNECTING_IP",
    HTTP_CF_RAY = "HTTP_CF_RAY",
    HTTP_CF_IPCOUNTRY = "HTTP_CF_IPCOUNTRY",
    HTTP_TRUE_CLIENT_IP = "HTTP_TRUE_CLIENT_IP",
    HTTP_SEC_FETCH_SITE = "HTTP_SEC_FETCH_SITE",
    HTTP_SEC_FETCH_MODE = "HTTP_SEC_FETCH_MODE",
    HTTP_SEC_FETCH_USER = "HTTP_SEC_FETCH_USER",
    HTTP_SEC_FETCH_DEST = "HTTP_SEC_FETCH_DEST",
    HTTP_SEC_CH_UA = "HTTP_SEC_CH_UA",
    HTTP_SEC_CH_UA_MOBILE = "HTTP_SEC_CH_UA_MOBILE",
    HTTP_SEC_CH_UA_PLATFORM = "HTTP_SEC_CH_UA_PLATFORM",
    HTTP_SEC_GPC = "HTTP_SEC_GPC",
    HTTP_SEC_PURPOSE = "HTTP_SEC_PURPOSE",
    HTTP_SEC_WEBSOCKET_KEY = "HTTP_SEC_WEBSOCKET_KEY",
    HTTP_SEC_WEBSOCKET_VERSION = "HTTP_SEC_WEBSOCKET_VERSION",
    HTTP_SEC_WEBSOCKET_PROTOCOL = "HTTP_SEC_WEBSOCKET_PROTOCOL",
    HTTP_SEC_WEBSOCKET_EXTENSIONS = "HTTP_SEC_WEBSOCKET_EXTENSIONS",
    HTTP_ACCESS_CONTROL_REQUEST_METHOD = "HTTP_ACCESS_CONTROL_REQUEST_METHOD",
    HTTP_ACCESS_CONTROL_REQUEST_HEADERS = "HTTP_ACCESS_CONTROL_REQUEST_HEADERS",
}

impl KeyId {
    /// How many names are known: an array of this length can be indexed by any key.
    pub const COUNT: usize = NAMES.len();

    /// Every key in the order of its number.
    pub const ALL: [KeyId; Self::COUNT] = {
        let mut all = [KeyId(0); Self::COUNT];
        let mut number = 0;
        while number < Self::COUNT {
            all[number] = KeyId(number as u8);
            number += 1;
        }
        all
    };

    /// The key's number: below [`KeyId::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The byte that stands for this key in a record.
    #[inline]
    pub(crate) const fn byte(self) -> u8 {
        self.0
    }

    /// The key with this number.
    #[inline]
    pub const fn of_index(index: u8) -> Option<KeyId> {
        if (index as usize) < Self::COUNT { Some(KeyId(index)) } else { None }
    }

    /// The environ name, for example `HTTP_HOST`.
    #[inline]
    pub const fn name(self) -> &'static str {
        NAMES[self.0 as usize]
    }

    /// The key of an environ name in CGI form (`HTTP_HOST`, `REMOTE_ADDR`); exact bytes.
    #[inline]
    pub fn of_environ(name: &[u8]) -> Option<KeyId> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        probe(hash(name, 0), |known| known == name)
    }

    /// The key of an HTTP field name in any case (`Host` gives `HTTP_HOST`). `Content-Type` and
    /// `Content-Length` give `CONTENT_TYPE` and `CONTENT_LENGTH` (RFC 3875 §4.1.2, §4.1.3). A name
    /// with `_` is never known: it must not be taken for the one with `-`.
    #[inline]
    pub fn of_field(name: &[u8]) -> Option<KeyId> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX - PREFIX.len() {
            return None;
        }
        let key = probe(hash(name, PREFIX.len()), |known| {
            known.len() == name.len() + PREFIX.len()
                && known.starts_with(PREFIX)
                && same_field(&known[PREFIX.len()..], name)
        });
        match key {
            None if same_field(b"CONTENT_TYPE", name) => Some(KeyId::CONTENT_TYPE),
            None if same_field(b"CONTENT_LENGTH", name) => Some(KeyId::CONTENT_LENGTH),
            key => key,
        }
    }
}

const PREFIX: &[u8] = b"HTTP_";

/// Slots of the lookup table: a power of two, about a quarter full so that a miss probes once or
/// twice.
const TABLE_SLOTS: usize = 512;
const EMPTY: u8 = NAMED;

const _: () = assert!(NAMES.len() < EMPTY as usize && NAMES.len() * 3 < TABLE_SLOTS);

/// The name's place: open addressing with linear probing, filled at compile time.
static TABLE: [u8; TABLE_SLOTS] = {
    let mut table = [EMPTY; TABLE_SLOTS];
    let mut number = 0;
    while number < NAMES.len() {
        let name = NAMES[number].as_bytes();
        assert!(name.len() <= NAME_BYTES_MAX);
        let mut at = hash(name, 0);
        while table[at] != EMPTY {
            at = (at + 1) % TABLE_SLOTS;
        }
        table[at] = number as u8;
        number += 1;
    }
    table
};

/// Walks the probe sequence from `at` until `same` accepts a name or a hole ends it.
#[inline]
fn probe(mut at: usize, same: impl Fn(&[u8]) -> bool) -> Option<KeyId> {
    loop {
        let number = TABLE[at];
        if number == EMPTY {
            return None;
        }
        if same(NAMES[number as usize].as_bytes()) {
            return Some(KeyId(number));
        }
        at = (at + 1) % TABLE_SLOTS;
    }
}

/// Mixes the length and three bytes near the end of the name's canonical form. With `prefix` the
/// name counts as if `HTTP_` stood before it, so that a field name and its environ form land in one
/// place.
#[inline]
const fn hash(name: &[u8], prefix: usize) -> usize {
    let total = name.len() + prefix;
    let last = byte_at(name, prefix, total - 1);
    let third = byte_at(name, prefix, total.saturating_sub(3));
    let fourth = byte_at(name, prefix, total.saturating_sub(4));
    (total.wrapping_mul(89) ^ last.wrapping_mul(7) ^ third.wrapping_mul(131) ^ (fourth << 3))
        % TABLE_SLOTS
}

/// One byte of the canonical form that `prefix` bytes of `HTTP_` and `name` make together.
#[inline]
const fn byte_at(name: &[u8], prefix: usize, at: usize) -> usize {
    if at < prefix { PREFIX[at] as usize } else { fold(name[at - prefix]) as usize }
}

/// CGI form of one byte of a field name: upper case, `-` as `_`.
#[inline]
const fn fold(byte: u8) -> u8 {
    match byte {
        b'-' => b'_',
        other => other.to_ascii_uppercase(),
    }
}

/// Whether `name`, a field name as sent, is `known`, a name in CGI form without prefix.
#[inline]
fn same_field(known: &[u8], name: &[u8]) -> bool {
    known.len() == name.len()
        && known.iter().zip(name).all(|(&known, &sent)| sent != b'_' && fold(sent) == known)
}

/// Folds every name into a hash: part of the layout hash, so that two builds that number the names
/// differently refuse each other.
pub(crate) const fn names_hash(mut hash: u64) -> u64 {
    let mut number = 0;
    while number < NAMES.len() {
        let name = NAMES[number].as_bytes();
        let mut at = 0;
        while at < name.len() {
            hash = (hash ^ name[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            at += 1;
        }
        hash = (hash ^ 0xff).wrapping_mul(0x0000_0100_0000_01b3);
        number += 1;
    }
    hash
}

#[cfg(test)]
mod tests;
