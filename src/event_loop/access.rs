//! What the loop notes of a request for the access log.
//!
//! Where it stands in the walk of a request: the head's parts are copied when the head is complete,
//! the rest when the request ends; the record then goes up the report channel. Without an access
//! log nothing here allocates or copies.
//!
//! Invariants: each request that got as far as a head leaves at most one record; a full channel
//! drops it and counts.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::dispatch::Head;
use super::messages::Report;
use super::request_record::{environ_name, value_of, version_text};
use super::state::State;
use crate::config::ListenerFacts;
use crate::config::limits::ACCESS_VALUE_BYTES_MAX;
use crate::driver::ConnectionIndex;
use crate::log::{AccessCaptures, AccessRecord, Phases};
use crate::protocol::http1::percent_decode;

impl State {
    /// Notes a complete head.
    pub fn capture(&mut self, index: ConnectionIndex, head: &Head<'_>) {
        let Some(captures) = &self.settings.access else { return };
        let listener = &self.settings.listeners[usize::from(self.table[index].listener)];
        let connection = &mut self.table[index];
        let remote_addr = match (captures.remote_addr, connection.peer, head) {
            (true, _, Head::Uwsgi(packet, _)) => value_of(packet, b"REMOTE_ADDR")
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .unwrap_or_default(),
            (true, Some(peer), Head::Http(_)) => peer.ip().to_canonical().to_string(),
            _ => String::new(),
        };
        let mut record = AccessRecord {
            started: SystemTime::now(),
            phases: Phases {
                accepted_ns: connection.accepted_ns,
                head_ns: self.now_ns,
                ..Phases::default()
            },
            remote_addr: remote_addr.into(),
            method: Box::default(),
            target: Box::default(),
            protocol: Box::default(),
            variables: variables(captures, head, connection.peer, listener),
            response_head: None,
            status: 0,
            response_body_bytes: 0,
            request_id: Box::default(),
            worker: 0,
            close_reason: None,
        };
        if captures.request_line {
            record.method = head.method().into();
            let (target, protocol) = request_line(head);
            record.target = target.into();
            record.protocol = protocol.into();
        }
        connection.extra().access = Some(Box::new(record));
    }

    /// Copies the response head, before its first bytes leave the ring.
    pub fn capture_response_head(&mut self, index: ConnectionIndex) {
        let is_wanted = self.settings.access.as_ref().is_some_and(|access| access.response_head);
        if !is_wanted || self.table[index].reply.sent_bytes > 0 {
            return;
        }
        let Some((pool, connection, slot)) = self.ticket(index) else { return };
        let Some(statement) = connection.reply.statement else { return };
        let mut head = Vec::new();
        pool.end.copy_unsent(slot, statement.head_bytes as usize, &mut head);
        if let Some(access) = connection.extra.as_mut().and_then(|extra| extra.access.as_mut()) {
            access.response_head = Some(head.into());
        }
    }

    /// Notes who claimed the request and when, while the slot still says it.
    pub fn capture_claim(&mut self, index: ConnectionIndex) {
        if self.settings.access.is_none() {
            return;
        }
        let Some((pool, connection, slot)) = self.ticket(index) else { return };
        let Ok(progress) = pool.end.progress(slot) else { return };
        let worker = progress.claimed_by.and_then(|seat| pool.end.worker_of(seat)).unwrap_or(0);
        if let Some(access) = connection.extra.as_mut().and_then(|extra| extra.access.as_mut()) {
            access.phases.claimed_ns = progress.claimed_at_ns.unwrap_or(0);
            access.phases.first_byte_ns = progress.first_byte_at_ns.unwrap_or(0);
            access.worker = worker;
        }
    }

    /// The request ended: its record goes up.
    pub fn finish_access(
        &mut self,
        index: ConnectionIndex,
        status: u16,
        why: Option<&'static str>,
    ) {
        let now_ns = self.now_ns;
        let connection = &mut self.table[index];
        let Some(extra) = &mut connection.extra else { return };
        let Some(mut record) = extra.access.take() else { return };
        record.status = status;
        record.response_body_bytes = connection.reply.body_bytes();
        record.phases.done_ns = now_ns;
        record.close_reason = why;
        self.report(Report::Access(record));
    }
}

fn request_line<'a>(head: &Head<'a>) -> (&'a [u8], &'a [u8]) {
    match head {
        Head::Http(head) => (head.target, version_text(head.version)),
        Head::Uwsgi(_, head) => (head.request_uri.unwrap_or(b""), head.protocol.unwrap_or(b"")),
    }
}

fn variables(
    captures: &AccessCaptures,
    head: &Head<'_>,
    peer: Option<SocketAddr>,
    listener: &ListenerFacts,
) -> Vec<Option<Box<[u8]>>> {
    let cut = |value: &[u8]| value[..value.len().min(ACCESS_VALUE_BYTES_MAX)].into();
    captures
        .variables
        .iter()
        .map(|name| match (head, &**name) {
            // As the application sees it; a path that cannot be decoded was refused.
            (Head::Http(head), b"PATH_INFO") => {
                let mut decoded = vec![0; head.path.len()];
                percent_decode(head.path, &mut decoded).ok().map(cut)
            }
            (Head::Http(_), b"REMOTE_ADDR") => {
                peer.map(|peer| cut(peer.ip().to_canonical().to_string().as_bytes()))
            }
            (Head::Http(_), b"REMOTE_PORT") => {
                peer.map(|peer| cut(peer.port().to_string().as_bytes()))
            }
            (Head::Http(_), b"SERVER_NAME") => Some(cut(listener.server_name.as_bytes())),
            (Head::Http(_), b"SERVER_PORT") => Some(cut(listener.server_port.as_bytes())),
            _ => value(head, name).map(cut),
        })
        .collect()
}

/// The value of the environ variable `name`, as far as the head states it.
fn value<'a>(head: &Head<'a>, name: &[u8]) -> Option<&'a [u8]> {
    match head {
        Head::Uwsgi(packet, _) => value_of(packet, name),
        Head::Http(head) => match name {
            b"REQUEST_METHOD" => Some(head.method),
            b"QUERY_STRING" => Some(head.query),
            b"REQUEST_URI" | b"RAW_URI" => Some(head.target),
            b"SERVER_PROTOCOL" => Some(version_text(head.version)),
            b"CONTENT_TYPE" => head.fields.value_of("content-type"),
            b"CONTENT_LENGTH" => head.fields.value_of("content-length"),
            name => {
                let mut environ = Vec::new();
                head.fields.iter().find_map(|field| {
                    environ_name(field.name, &mut environ);
                    (environ == name).then_some(field.value)
                })
            }
        },
    }
}
