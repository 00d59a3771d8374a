//! Plain request and response data: what every codec, the connection and the loop speak of.
//!
//! Place in the walk of a request: a codec in `protocol/` fills these types (step 2), everything
//! after it only reads them. Nothing here parses a whole message, allocates, or knows a socket.
//!
//! Invariants:
//! * a [`Field`] never carries CR, LF or NUL, and its value has no white space around it;
//! * a [`Rejection`] is `Copy` and holds no bytes of the peer, so it can be logged as it is.

pub mod syntax;

/// The two versions of HTTP that are served; any other is refused with 505 by the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, closes unless `keep-alive` is asked for.
    Http10,
    /// HTTP/1.1: keeps the connection unless `close` is asked for.
    Http11,
}

impl Version {
    /// As it stands on the wire and in `SERVER_PROTOCOL`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }
}

/// How the end of a request body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither Content-Length nor Transfer-Encoding: no body, no CONTENT_LENGTH for the
    /// application.
    Empty,
    /// Content-Length, in bytes, at most [`syntax::LENGTH_MAX`]; 0 when the client wrote `0`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// One field line, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// The name in the peer's spelling: a token (RFC 9110 §5.6.2), at least one byte.
    pub name: &'b [u8],
    /// The value without the optional white space around it; HTAB, SP, VCHAR and 0x80..=0xFF only.
    pub value: &'b [u8],
}

/// A request that is refused before the application sees it. After any of these the connection is
/// closed: where the next request begins is no longer certain (RFC 9112 §6.3, §11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status to answer; [`Rejection::CLOSE`] means: close without an answer.
    pub status: u16,
    /// One line for the log; fixed text, never the peer's bytes.
    pub reason: &'static str,
}

impl Rejection {
    /// The status of a rejection that is not answered: what arrived is no request of this protocol,
    /// so its sender could not read an answer either.
    pub const CLOSE: u16 = 0;

    /// A rejection answered with `status`.
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Rejection { status, reason }
    }

    /// 400: the message is malformed or its framing is ambiguous.
    pub const fn bad_request(reason: &'static str) -> Self {
        Rejection::new(400, reason)
    }

    /// Whether the connection closes without any answer.
    pub const fn is_silent(self) -> bool {
        self.status == Rejection::CLOSE
    }
}

/// The reason phrase of a status code, as registered by IANA ("HTTP Status Code Registry"); for an
/// unregistered code the name of its class, so that a status line never ends in nothing.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400..=499 => client_error_phrase(status),
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => class_phrase(status),
    }
}

fn class_phrase(status: u16) -> &'static str {
    match status / 100 {
        1 => "Informational",
        2 => "Success",
        3 => "Redirection",
        4 => "Client Error",
        5 => "Server Error",
        _ => "Unknown",
    }
}

fn client_error_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a Teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        // Not registered; the access log writes it for a client that left while it waited.
        499 => "Client Closed Request",
        _ => class_phrase(status),
    }
}

#[cfg(test)]
mod tests;
