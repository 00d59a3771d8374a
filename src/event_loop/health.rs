//! Health paths: the loop says itself whether the server lives and would serve.
//!
//! Where it stands in the walk of a request: behind the head, before every bound and before the
//! exchange. No slot, no worker and no Python is asked, so the answer comes also while all of them
//! hang, while the server is full, and before the first worker is READY.
//!
//! Invariants: a path is one only if PATH_INFO is exactly it. Health answers leave no access
//! record: they are nobody's request, and a probe a second from each prober would bury those that
//! are; they are counted instead.

use std::time::{SystemTime, UNIX_EPOCH};

use ringhorn_exchange::format_date;

use super::admission::RequestBody;
use super::dispatch::Head;
use super::request_record::path_info;
use super::state::State;
use crate::connection::health::{HealthAnswer, HealthShape, write_health};
use crate::connection::{Intent, Phase, Sending};
use crate::driver::ConnectionIndex;
use crate::http::{BodyFraming, Version};

impl State {
    /// What a request is answered with if its path is a health path.
    pub fn health_answer(&mut self, head: &Head<'_>) -> Option<HealthAnswer> {
        let paths = &self.settings.health;
        if !paths.is_asked_for() {
            return None;
        }
        let asked = match head {
            // Malformed escapes are refused when the record is written.
            Head::Http(head) => path_info(head.path, &mut self.scratch).ok()?,
            Head::Uwsgi(_, head) => head.path_info?,
        };
        let is_alive = paths.alive.as_deref() == Some(asked);
        let is_ready = paths.ready.as_deref() == Some(asked);
        if !is_alive && !is_ready {
            return None;
        }
        Some(match head.method() {
            b"GET" | b"HEAD" if is_alive => HealthAnswer { status: 200, text: "alive" },
            b"GET" | b"HEAD" => match self.why_not_ready() {
                None => HealthAnswer { status: 200, text: "ready" },
                Some(text) => HealthAnswer { status: 503, text },
            },
            _ => HealthAnswer { status: 405, text: "a health path is asked by GET or HEAD" },
        })
    }

    /// Why a request that came now would not be served as it should, as far as this loop sees.
    fn why_not_ready(&self) -> Option<&'static str> {
        if self.is_draining() || self.readiness.is_stopping {
            Some("not ready: the server is stopping")
        } else if self.readiness.workers == 0 {
            Some("not ready: no worker is ready")
        } else if self.pools.iter().any(|pool| pool.is_condemned) {
            Some("not ready: the workers are being replaced")
        } else if self.inflight >= self.inflight_max {
            Some("not ready: as many requests are in flight as may be (--max-inflight)")
        } else {
            None
        }
    }

    /// Sends a health answer; returns how many of the `input_bytes` at hand were consumed.
    pub(super) fn answer_health(
        &mut self,
        index: ConnectionIndex,
        head: &Head<'_>,
        body: RequestBody,
        answer: HealthAnswer,
        input_bytes: usize,
    ) -> usize {
        self.counters.health_answers.add(1);
        // A body that nobody wants is not waited for: the connection is closed behind the answer.
        let has_body = !matches!(body.framing, BodyFraming::Empty | BodyFraming::Length(0));
        let is_uwsgi = self.is_uwsgi(index);
        let connection = &mut self.table[index];
        connection.keep_alive &= !has_body;
        let shape = HealthShape {
            is_uwsgi,
            is_http10: matches!(head, Head::Http(head) if head.version == Version::Http10),
            is_head: connection.is_head_request,
            keeps: connection.keep_alive,
        };
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut bytes = Vec::with_capacity(256);
        write_health(&mut bytes, answer, shape, &format_date(seconds));
        if !shape.keeps {
            self.answer(index, &bytes);
            return if has_body { input_bytes } else { body.head_bytes };
        }
        debug_assert_eq!(connection.sending, Sending::Nothing);
        connection.phase = Phase::OwnReply;
        connection.extra().own = bytes;
        self.intend(index, Intent::SendOwn(Sending::Own));
        self.set_deadline(index, self.settings.send_timeout);
        body.head_bytes
    }

    /// An answer of the server's own went out, or did not.
    pub fn on_own_sent(&mut self, index: ConnectionIndex, result: i32) {
        let connection = &mut self.table[index];
        let is_whole = u32::try_from(result).is_ok_and(|sent| sent == connection.send_bytes);
        if is_whole && connection.keep_alive && !connection.peer_finished && !connection.gone {
            connection.extra().own = Vec::new();
            self.next_request(index);
        } else {
            connection.gone |= result < 0;
            self.begin_close(index);
        }
    }
}
