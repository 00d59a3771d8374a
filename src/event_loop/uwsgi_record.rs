//! A uwsgi packet as environ variables.
//!
//! Where it stands in the walk of a request: inside `dispatch.rs`, beside `request_record.rs`.
//!
//! Invariants:
//! - A key is written once. Repeated `HTTP_*` keys are joined as the fields they were (nginx before
//!   1.23 sends each by itself), of other repeated keys the last value counts
//!   (`uwsgi::repeat_rule`).
//! - The common packet (known keys, none repeated) is walked twice and compared with nothing; one
//!   of more keys than [`SURVEYED_MAX`] is sorted. So a packet of 65,535 bytes of keys cannot hold
//!   up the loop.

use ringhorn_exchange::{KeyId, RecordWriter};

use super::request_record::{RecordFacts, write_content_length};
use crate::protocol::uwsgi;

/// Variables whose keys are looked up once and remembered.
const SURVEYED_MAX: usize = 256;

/// Marks a key that is not in the table of known ones.
const UNKNOWN: u8 = u8::MAX;

/// Marks a variable that is not passed on.
const STOPPED: u8 = u8::MAX - 1;

const _: () = assert!(KeyId::COUNT <= STOPPED as usize);

/// What a first walk over a packet's variables found.
struct Survey {
    /// By the variable's place in the packet: its key's number, or one of the marks above.
    keys: [u8; SURVEYED_MAX],
    /// Variables of the packet, stopped ones included.
    count: usize,
    seen: u128,
    repeated: u128,
    unknown: usize,
    has_server_name: bool,
    has_server_port: bool,
}

/// Variables that are written from the head's facts, not from the packet.
const WRITTEN_APART: u128 = bit(KeyId::REQUEST_METHOD)
    | bit(KeyId::SCRIPT_NAME)
    | bit(KeyId::PATH_INFO)
    | bit(KeyId::QUERY_STRING)
    | bit(KeyId::SERVER_PROTOCOL)
    | bit(KeyId::CONTENT_LENGTH);

const fn bit(key: KeyId) -> u128 {
    1 << key.index()
}

/// Writes a packet's variables, those that are passed on, and what PEP 3333 demands beside them.
pub fn write_uwsgi(
    record: &mut RecordWriter<'_>,
    packet: &uwsgi::Packet<'_>,
    head: &uwsgi::RequestHead<'_>,
    facts: &RecordFacts<'_>,
) {
    let survey = Survey::of(packet);
    record.known(KeyId::REQUEST_METHOD, head.method);
    record.known(KeyId::SCRIPT_NAME, head.script_name.unwrap_or(b""));
    record.known(KeyId::PATH_INFO, head.path_info.unwrap_or(b""));
    record.known(KeyId::QUERY_STRING, head.query.unwrap_or(b""));
    let protocol = head.protocol.filter(|text| !text.is_empty()).unwrap_or(b"HTTP/1.1");
    record.known(KeyId::SERVER_PROTOCOL, protocol);
    let mut written = WRITTEN_APART;
    if !survey.has_server_name {
        record.known(KeyId::SERVER_NAME, facts.listener.server_name.as_bytes());
        written |= bit(KeyId::SERVER_NAME);
    }
    if !survey.has_server_port {
        record.known(KeyId::SERVER_PORT, facts.listener.server_port.as_bytes());
        written |= bit(KeyId::SERVER_PORT);
    }
    write_content_length(record, facts.content_length);
    if survey.count > SURVEYED_MAX {
        write_sorted(record, packet, written);
    } else {
        survey.write(record, packet, written);
    }
    record.known(KeyId::REQUEST_ID, facts.request_id);
}

impl Survey {
    fn of(packet: &uwsgi::Packet<'_>) -> Survey {
        let mut survey = Survey {
            keys: [UNKNOWN; SURVEYED_MAX],
            count: 0,
            seen: 0,
            repeated: 0,
            unknown: 0,
            has_server_name: false,
            has_server_port: false,
        };
        for (key, value) in packet.variables() {
            let place = survey.count;
            survey.count += 1;
            let known = KeyId::of_environ(key);
            let mark = match known {
                _ if !uwsgi::is_variable_passed_on(key, value) => STOPPED,
                Some(known) => known.index() as u8,
                None => UNKNOWN,
            };
            if let Some(entry) = survey.keys.get_mut(place) {
                *entry = mark;
            }
            survey.unknown += usize::from(mark == UNKNOWN);
            let Some(known) = known.filter(|_| mark != STOPPED) else { continue };
            survey.repeated |= survey.seen & bit(known);
            survey.seen |= bit(known);
            survey.has_server_name |= known == KeyId::SERVER_NAME && !value.is_empty();
            survey.has_server_port |= known == KeyId::SERVER_PORT && !value.is_empty();
        }
        survey
    }

    fn write(&self, record: &mut RecordWriter<'_>, packet: &uwsgi::Packet<'_>, mut written: u128) {
        for ((key, value), &mark) in packet.variables().zip(&self.keys) {
            let Some(known) = KeyId::of_index(mark) else {
                if mark == UNKNOWN {
                    self.write_unknown(record, packet, key, value);
                }
                continue;
            };
            if written & bit(known) != 0 {
                continue;
            }
            written |= bit(known);
            if self.repeated & bit(known) == 0 {
                record.known(known, value);
            } else {
                let same = packet.passed_on().filter(|(other, _)| *other == key);
                write_repeated(record, key, Some(known), same.map(|(_, value)| value));
            }
        }
    }

    fn write_unknown(
        &self,
        record: &mut RecordWriter<'_>,
        packet: &uwsgi::Packet<'_>,
        key: &[u8],
        value: &[u8],
    ) {
        let same = || packet.passed_on().filter(|(other, _)| *other == key);
        if self.unknown == 1 || same().count() == 1 {
            record.named(key, value);
        } else if same().next().is_some_and(|(first, _)| std::ptr::eq(first, key)) {
            // Written in the place of the first of them.
            write_repeated(record, key, None, same().map(|(_, value)| value));
        }
    }
}

/// Writes the values of one repeated key, of which there is at least one.
fn write_repeated<'p>(
    record: &mut RecordWriter<'_>,
    key: &[u8],
    known: Option<KeyId>,
    values: impl Iterator<Item = &'p [u8]>,
) {
    let separator: &[u8] = match uwsgi::repeat_rule(key) {
        uwsgi::Repeat::JoinByComma => b", ",
        uwsgi::Repeat::JoinBySemicolon => b"; ",
        uwsgi::Repeat::LastCounts => {
            let last = values.last().unwrap_or_default();
            match known {
                Some(known) => record.known(known, last),
                None => record.named(key, last),
            }
            return;
        }
    };
    match known {
        Some(known) => record.known_joined(known, values, separator),
        None => record.named_joined(key, values, separator),
    }
}

/// Writes the variables of a packet with very many of them, in the order of their keys.
fn write_sorted(record: &mut RecordWriter<'_>, packet: &uwsgi::Packet<'_>, written: u128) {
    let mut variables: Vec<(&[u8], &[u8])> = packet.passed_on().collect();
    // Stable: values of one key keep the packet's order.
    variables.sort_by_key(|(key, _)| *key);
    for same in variables.chunk_by(|(key, _), (other, _)| key == other) {
        let (key, value) = same[0];
        let known = KeyId::of_environ(key);
        if known.is_some_and(|known| written & bit(known) != 0) {
            continue;
        }
        match (same.len(), known) {
            (1, Some(known)) => record.known(known, value),
            (1, None) => record.named(key, value),
            _ => write_repeated(record, key, known, same.iter().map(|(_, value)| *value)),
        }
    }
}
