//! What a reply stated about itself, what of it went out, and when it is whole.
//!
//! Where it stands in the walk of a request: behind the exchange, before the send. The statement is
//! copied once, with the first response bytes; from then on the connection sends never more than it
//! allows and is kept only if exactly that went out.
//!
//! Invariants: `sent_bytes` counts wire bytes that the kernel took, head included.

use ringhorn_exchange::{ResponseEnd, StatedBody, Statement};

/// The reply of the request in flight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reply {
    /// What the worker stated with its first bytes.
    pub statement: Option<Statement>,
    /// Bytes of chunk framing among those written so far.
    pub framing_bytes: u64,
    /// Wire bytes that went out.
    pub sent_bytes: u64,
    /// How the worker ended it, once it did.
    pub ended: Option<ResponseEnd>,
    /// The rest goes through the connection's own buffer: its reader is slow.
    pub is_buffered: bool,
}

impl Reply {
    /// Wire bytes that the statement still allows behind `taken` bytes.
    pub fn allowed_behind(&self, taken: u64) -> u64 {
        let Some(statement) = &self.statement else { return 0 };
        match statement.body {
            StatedBody::Length(body) => {
                (u64::from(statement.head_bytes).saturating_add(body)).saturating_sub(taken)
            }
            StatedBody::Chunked | StatedBody::UntilClose => u64::MAX,
        }
    }

    /// Whether `sent` wire bytes are exactly the reply that was stated, and the worker said that it
    /// is complete.
    pub fn is_whole_at(&self, sent: u64) -> bool {
        let Some(statement) = &self.statement else { return false };
        let exact = match statement.body {
            StatedBody::Length(body) => sent == u64::from(statement.head_bytes) + body,
            StatedBody::Chunked | StatedBody::UntilClose => sent >= u64::from(statement.head_bytes),
        };
        exact && self.ended == Some(ResponseEnd::Complete)
    }

    /// Whether nothing but the connection's end delimits the reply.
    pub fn ends_by_closing(&self) -> bool {
        self.statement.is_some_and(|statement| statement.body == StatedBody::UntilClose)
    }

    /// Whether the worker let the connection be kept.
    pub fn keeps_alive(&self) -> bool {
        self.statement.is_some_and(|statement| statement.keep_alive)
    }

    /// Body bytes that went out, as the access log counts them: without chunk framing.
    pub fn body_bytes(&self) -> u64 {
        let head = self.statement.map_or(0, |statement| u64::from(statement.head_bytes));
        self.sent_bytes.saturating_sub(head).saturating_sub(self.framing_bytes)
    }
}

/// A slow reader's response bytes: taken off the ring so that the worker can go on.
#[derive(Debug, Default)]
pub struct OutBuffer {
    /// Being sent; the kernel reads it until the send completes.
    pub in_flight: Vec<u8>,
    /// How many bytes of `in_flight` went out.
    pub gone: usize,
    /// Waiting behind it.
    pub pending: Vec<u8>,
    /// Bytes taken off the ring in all, sent before or buffered: what the statement is held
    /// against.
    pub taken_bytes: u64,
}

impl OutBuffer {
    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.in_flight.len() - self.gone + self.pending.len()
    }

    /// Makes the pending bytes the ones to send, when those before them are gone.
    pub fn turn_over(&mut self) {
        if self.gone == self.in_flight.len() {
            self.in_flight.clear();
            self.gone = 0;
            std::mem::swap(&mut self.in_flight, &mut self.pending);
        }
    }
}
