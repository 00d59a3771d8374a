//! Requests that run too long, and clients that leave meanwhile.

use std::time::Duration;

use ringhorn_exchange::control::{Interrupt, Why};

use super::stage::{Stage, response, settings};
use crate::config::LoopSettings;
use crate::driver::sim::SimConfig;
use crate::event_loop::deadlines::TICK_MS;
use crate::event_loop::messages::Report;

const GET: &[u8] = b"GET /x?y=%20 HTTP/1.1\r\nHost: h\r\nX-Request-ID: i\r\n\r\n";
const CLOSING: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
/// Claimed and never answered by the play's worker until it is let go.
const HANG: &[u8] = b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n";
const HANG_CLOSING: &[u8] = b"GET /hang HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const SECOND: Duration = Duration::from_secs(1);
/// How exactly a play measures.
const STEP: Duration = Duration::from_millis(2);
const TICK: Duration = Duration::from_millis(TICK_MS);

fn stage_with(change: impl FnOnce(&mut LoopSettings)) -> Stage {
    let mut settings = settings();
    settings.timeout = Some(SECOND);
    change(&mut settings);
    let stage = Stage::new(settings, SimConfig::calm(64));
    stage.sim.nap_at_most(STEP);
    stage
}

fn interrupts(stage: &Stage) -> Vec<Interrupt> {
    let interrupts = stage.reports.try_iter().filter_map(|report| match report {
        Report::Interrupt { interrupt, .. } => Some(*interrupt),
        _ => None,
    });
    interrupts.collect()
}

fn whys(stage: &Stage) -> Vec<Why> {
    interrupts(stage).iter().map(|interrupt| interrupt.why).collect()
}

/// Passes time in small steps until the client has an answer or sees its end; how much passed.
fn wait_for_answer(stage: &mut Stage, client: &crate::driver::sim::SimClient) -> Duration {
    let (from_ns, mut passed) = (stage.sim.now_ns(), Duration::ZERO);
    while client.received().is_empty() && passed < 10 * SECOND {
        stage.sim.advance(STEP);
        stage.event_loop.turn().unwrap();
        stage.work();
        passed = Duration::from_nanos(stage.sim.now_ns() - from_ns);
    }
    stage.settle();
    passed
}

#[test]
fn a_request_gets_504_a_tick_after_its_timeout_at_most() {
    for request in [HANG, HANG_CLOSING] {
        let mut stage = stage_with(|_| {});
        let client = stage.http(request);
        stage.settle();
        let passed = wait_for_answer(&mut stage, &client);
        assert!(passed >= SECOND - 4 * STEP, "{passed:?} is early");
        assert!(passed <= SECOND + TICK + 4 * STEP, "{passed:?} is late");
        assert_eq!(response(&client.received()).0, 504);
        assert_eq!(whys(&stage), [Why::Timeout]);
        assert_eq!(stage.counters.timeouts.read(), 1);
        stage.let_go();
        stage.pass(3 * SECOND);
        assert_eq!(whys(&stage), [], "once is enough");
        stage.finish();
    }
}

/// The time in the queue is not the application's: the clock starts with the claim, whose moment
/// nobody tells the loop.
#[test]
fn the_timeout_counts_from_the_claim() {
    let mut stage = stage_with(|_| {});
    stage.is_worker_asleep = true;
    let client = stage.http(HANG);
    stage.settle();
    stage.pass(2 * SECOND + Duration::from_millis(300));
    assert!(client.received().is_empty());
    stage.is_worker_asleep = false;
    stage.settle();
    let passed = wait_for_answer(&mut stage, &client);
    assert!(passed >= SECOND - 4 * STEP, "{passed:?} is early");
    assert!(passed <= SECOND + TICK + 4 * STEP, "{passed:?} is late");
    stage.let_go();
    stage.finish();
}

#[test]
fn an_interrupt_says_which_request_is_meant() {
    let mut stage = stage_with(|settings| settings.slow_request_log = Some(SECOND / 2));
    let client = stage.http(b"GET /hang?a=%20b HTTP/1.1\r\nHost: h\r\nX-Request-ID: abc\r\n\r\n");
    stage.settle();
    wait_for_answer(&mut stage, &client);
    let interrupts = interrupts(&stage);
    let [slow, late] = &interrupts[..] else { panic!("{interrupts:?}") };
    assert_eq!((slow.why, late.why), (Why::Slow, Why::Timeout));
    for interrupt in [slow, late] {
        assert_eq!(interrupt.request, "GET /hang?a=%20b HTTP/1.1");
        assert_eq!(interrupt.request_id, "abc");
        assert_eq!(interrupt.tenure, stage.tenures()[0]);
        assert_eq!((interrupt.seat, interrupt.grace_ms), (0, 2000));
    }
    stage.let_go();
    stage.finish();
}

#[test]
fn a_slow_request_is_logged_once_and_not_touched() {
    let mut stage = stage_with(|settings| {
        settings.timeout = None;
        settings.slow_request_log = Some(SECOND);
    });
    let client = stage.http(HANG);
    stage.settle();
    stage.pass(4 * SECOND);
    assert_eq!(whys(&stage), [Why::Slow]);
    stage.let_go();
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    client.take_received();
    // The next request of the connection is another one.
    client.send(HANG);
    stage.settle();
    stage.pass(2 * SECOND);
    assert_eq!(whys(&stage), [Why::Slow]);
    stage.let_go();
    stage.finish();
}

#[test]
fn a_response_that_streams_too_long_is_cut() {
    let mut stage = stage_with(|_| {});
    let client = stage.http(b"GET /hang/after/bytes HTTP/1.1\r\nHost: h\r\n\r\n");
    stage.settle();
    assert!(!client.received().is_empty(), "the first piece leaves at once");
    stage.pass(2 * SECOND);
    assert!(client.sees_end());
    assert!(!client.received().ends_with(b"0\r\n\r\n"), "it must not look whole");
    assert_eq!(whys(&stage), [Why::Timeout]);
    stage.let_go();
    stage.finish();
}

#[test]
fn a_slow_reader_does_not_prolong_the_timeout() {
    let mut stage = stage_with(|settings| settings.response_buffer_bytes = 0);
    let slow = stage.http(b"GET /endless/9000000 HTTP/1.1\r\nHost: h\r\n\r\n");
    slow.set_window(1000);
    stage.settle();
    stage.pass(2 * SECOND);
    assert_eq!(whys(&stage), [Why::Timeout]);
    slow.set_window(usize::MAX);
    stage.pass(SECOND);
    assert!(slow.received().len() < 9_000_000);
    stage.finish();
}

#[test]
fn a_streamed_body_does_not_prolong_the_timeout() {
    let mut stage = stage_with(|_| {});
    let client = stage.http(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
    stage.settle();
    client.send(&[b'x'; 2_000_000]);
    stage.settle();
    for _ in 0..4 {
        client.send(&[b'x'; 1000]);
        stage.pass(SECOND / 2);
    }
    assert_eq!(response(&client.received()).0, 504);
    assert_eq!(whys(&stage), [Why::Timeout]);
    client.close();
    stage.finish();
}

#[test]
fn a_seat_that_is_done_first_wins() {
    let mut stage = stage_with(|_| {});
    let client = stage.http(HANG);
    stage.settle();
    // The answer is in the ring, the loop has not heard of it when the deadline passes.
    stage.sim.advance(2 * SECOND);
    stage.let_go();
    while stage.work() {}
    stage.settle();
    assert_eq!(response(&client.received()).0, 200);
    assert_eq!((whys(&stage), stage.counters.timeouts.read()), (vec![], 0));
    stage.finish();
}

#[test]
fn a_request_whose_client_left_has_its_timeout_all_the_same() {
    let mut stage = stage_with(|_| {});
    let client = stage.http(HANG);
    stage.settle();
    client.reset();
    stage.settle();
    assert_eq!(whys(&stage), [], "nobody is disturbed for it");
    stage.pass(2 * SECOND);
    assert_eq!(whys(&stage), [Why::Timeout]);
    assert_eq!(stage.counters.timeouts.read(), 1);
    stage.let_go();
    stage.finish();
}

#[test]
fn a_request_that_ended_after_its_client_left_is_not_interrupted() {
    let mut stage = stage_with(|_| {});
    let client = stage.http(HANG);
    stage.settle();
    client.reset();
    stage.settle();
    stage.let_go();
    stage.settle();
    // Its slot serves another one meanwhile.
    let next = stage.http(GET);
    stage.pass(3 * SECOND);
    assert_eq!(response(&next.received()).0, 200);
    assert_eq!(whys(&stage), []);
    stage.finish();
}

#[test]
fn a_client_that_leaves_is_told_to_the_application() {
    // Kept connections hear it at once, closing ones are listened to after a moment.
    for (request, resets) in
        [(HANG, false), (HANG, true), (HANG_CLOSING, false), (HANG_CLOSING, true)]
    {
        let mut stage = stage_with(|settings| settings.timeout = None);
        let client = stage.http(request);
        stage.settle();
        stage.pass(SECOND / 2);
        assert_eq!(stage.clients_left(), [false]);
        if resets {
            client.reset()
        } else {
            client.close()
        }
        stage.settle();
        assert_eq!(stage.clients_left(), [true]);
        assert_eq!(whys(&stage), [], "and to nobody else");
        stage.let_go();
        stage.finish();
    }
}

#[test]
fn a_client_that_leaves_cancels_its_request_if_asked() {
    for resets in [false, true] {
        let mut stage = stage_with(|settings| settings.cancel_on_disconnect = true);
        let client = stage.http(HANG);
        stage.settle();
        if resets {
            client.reset()
        } else {
            client.close()
        }
        stage.pass(SECOND / 2);
        assert_eq!(whys(&stage), [Why::ClientLeft]);
        // An application that goes on all the same has its deadline.
        stage.pass(2 * SECOND);
        assert_eq!(whys(&stage), [Why::Timeout]);
        stage.let_go();
        stage.finish();
    }
}

#[test]
fn a_client_that_leaves_the_queue_costs_nobody_anything() {
    let mut stage = stage_with(|settings| settings.cancel_on_disconnect = true);
    stage.is_worker_asleep = true;
    let clients = [stage.http(GET), stage.http(CLOSING)];
    stage.pass(SECOND / 2);
    clients.iter().for_each(|client| client.close());
    stage.pass(SECOND / 2);
    assert_eq!(stage.counters.left_while_queued.read(), 2);
    stage.pass(3 * SECOND);
    assert_eq!((whys(&stage), stage.counters.timeouts.read()), (vec![], 0));
    stage.finish();
}

/// The deadline of a kept connection moves on with its requests, and none is hit by an old one.
#[test]
fn quick_requests_never_run_into_a_timeout() {
    let mut stage = stage_with(|_| {});
    let client = stage.http(GET);
    stage.settle();
    for _ in 0..30 {
        assert_eq!(response(&client.take_received()).0, 200);
        stage.pass(Duration::from_millis(333));
        client.send(GET);
        stage.settle();
    }
    assert_eq!((whys(&stage), stage.counters.timeouts.read()), (vec![], 0));
    stage.finish();
}
