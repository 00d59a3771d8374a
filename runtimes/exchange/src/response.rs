//! The response writer (signatures).
use crate::worker_end::RequestWake;
/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseEnd {
    /// Whole.
    Complete,
    /// Cut: nothing that went out may look whole (close without final chunk), or nothing was said at all.
    Broken,
}
/// What follows the head on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatedBody {
    /// Exactly this many bytes (0 for HEAD, 204, 304).
    Length(u64),
    /// Chunks, framed by the writer.
    Chunked,
    /// Everything until the connection is closed.
    UntilClose,
}
/// What the worker states with its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// 100 to 999.
    pub status: u16,
    /// Bytes of status line, fields and empty line.
    pub head_bytes: u32,
    /// What really follows.
    pub body: StatedBody,
    /// The head allows the connection to stay open.
    pub keep_alive: bool,
}
/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Not three digits, a space and a reason without control characters.
    Status,
    /// The name is not a token (RFC 9110 §5.1).
    Name,
    /// The value holds a control character.
    Value,
    /// A hop-by-hop field (PEP 3333: a fatal error).
    HopByHop,
    /// Content-Length is not a number, or given twice.
    ContentLength,
    /// The head is larger than the response ring allows.
    TooLarge,
    /// The head was committed already.
    Committed,
    /// `header` without `begin_head`.
    NoHead,
    /// In a forked child.
    Forked,
}
/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No head was begun.
    NoHead,
    /// More than Content-Length: what fitted was taken, the rest never leaves.
    PastLength,
    /// The loop gave the request up (client gone, deadline): write no more.
    Abandoned,
    /// In a forked child.
    Forked,
}
/// Frames one response into its ring. Lives in the claim.
#[derive(Debug)]
pub struct ResponseWriter {
    _private: (),
}
#[allow(clippy::unimplemented, missing_docs, clippy::missing_errors_doc)]
impl ResponseWriter {
    pub fn begin_head(&mut self, _status: &[u8]) -> Result<(), HeadError> {
        unimplemented!()
    }
    pub fn header(&mut self, _name: &[u8], _value: &[u8]) -> Result<(), HeadError> {
        unimplemented!()
    }
    pub fn has_head(&self) -> bool {
        unimplemented!()
    }
    pub fn is_committed(&self) -> bool {
        unimplemented!()
    }
    pub fn state_length(&mut self, _total: u64) {
        unimplemented!()
    }
    pub fn write(&mut self, _bytes: &[u8]) -> Result<usize, WriteError> {
        unimplemented!()
    }
    pub fn remaining(&self) -> Option<u64> {
        unimplemented!()
    }
    pub fn flush(&mut self) {
        unimplemented!()
    }
    pub fn wait_for_room(&mut self) -> RequestWake {
        unimplemented!()
    }
}
