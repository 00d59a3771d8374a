//! The runtime in a real interpreter process, driven from the loop's end of the exchange.
//!
//! `make build` first; PYTHON and RINGHORN_RUNTIME choose interpreter and kind of module (see
//! `rig`). What a client sees on the wire is tested by `tests/py` against the whole server; here is
//! what needs the loop's end in hand: bodies cut short, abandoned requests, signals, forks, the
//! worker's end.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rig;

use rig::{Request, Rig};
use ringhorn_exchange::control::{FromWorker, Stop, ToWorker};
use ringhorn_exchange::{BodyEnd, ResponseEnd};

/// An application that answers by the function named in the path.
fn cases(functions: &str) -> String {
    format!(
        "import os, sys, json\n\
         OK = [('Content-Type', 'text/plain')]\n\
         {functions}\n\
         def application(environ, start_response):\n    \
             return globals()[environ['PATH_INFO'][1:]](environ, start_response)\n"
    )
}

fn start(functions: &str) -> Rig {
    Rig::start(&cases(functions), 1)
}

const HELLO: &str = "
def hello(environ, start_response):
    start_response('200 OK', OK)
    return [b'hello ' + environ['wsgi.input'].read()]
";

#[test]
fn answers_many_requests_and_ends_with_its_atexit_handlers() {
    let mut rig =
        start(&format!("{HELLO}\nimport atexit\natexit.register(print, 'the end', flush=True)"));
    for number in 0..200 {
        let body = format!("body {number}");
        let response = rig.ask(&Request::post("/hello", body.as_bytes()));
        assert_eq!(response.status(), 200);
        assert_eq!(response.text(), format!("hello {body}"));
        assert_eq!(response.header("content-length"), Some(&*response.body.len().to_string()));
        assert_eq!(response.end, ResponseEnd::Complete);
    }
    let (code, log) = rig.stop();
    assert_eq!((code, log.as_str()), (Some(0), "the end\n"));
}

/// Values are compared with those of the request before: every length, and each byte of it.
#[test]
fn a_value_that_differs_in_one_byte_is_seen() {
    let mut rig = start(
        "
def tell(environ, start_response):
    start_response('200 OK', OK)
    return [environ['HTTP_X_A'].encode('latin-1')]
",
    );
    let mut ask = |value: &[u8]| {
        let mut request = Request::get("/tell");
        request.more.push(("HTTP_X_A", value.to_vec()));
        assert_eq!(rig.ask(&request).text().as_bytes(), value);
    };
    for length in 0..20 {
        let value = vec![b'a'; length];
        ask(&value);
        for place in 0..length {
            let mut other = value.clone();
            other[place] = b'b';
            ask(&other);
            ask(&value);
        }
    }
}

#[test]
fn environ_is_that_of_its_own_request_whatever_came_before() {
    let mut rig = start(
        "
def dump(environ, start_response):
    assert type(environ) is dict
    told = {k: v for k, v in environ.items() if type(v) is str}
    assert all(type(k) is str for k in environ)
    environ.clear()
    start_response('200 OK', OK)
    return [json.dumps(told).encode()]
",
    );
    let names = ["HTTP_HOST", "HTTP_X_A", "HTTP_X_B", "HTTP_COOKIE", "HTTP_ACCEPT", "HTTP_X_C"];
    for number in 0..300usize {
        // 64 shapes in changing order, values that sometimes repeat, some of them not ASCII.
        let shape = (number * 37) % 64;
        let mut request = Request::get("/dump");
        request.https = number % 3 == 0;
        for (bit, name) in names.iter().enumerate() {
            if shape & (1 << bit) != 0 {
                let mut value = format!("v{}-{name}", (number / 5) % 4).into_bytes();
                if number % 7 == bit {
                    value.push(0xE9);
                }
                request.more.push((name, value));
            }
        }
        let told = rig.ask(&request).text();
        for name in names {
            let sent = request.more.iter().find(|(sent, _)| *sent == name);
            match sent {
                Some((_, value)) => {
                    let text: String = value
                        .iter()
                        .map(|&byte| match byte {
                            0xE9 => "\\u00e9".to_owned(),
                            byte => char::from(byte).to_string(),
                        })
                        .collect();
                    assert!(told.contains(&format!("\"{name}\": \"{text}\"")), "{name} in {told}");
                }
                None => assert!(!told.contains(&format!("\"{name}\"")), "{name} in {told}"),
            }
        }
        let scheme = if request.https { "https" } else { "http" };
        assert!(told.contains(&format!("\"wsgi.url_scheme\": \"{scheme}\"")), "{told}");
    }
}

#[test]
fn names_of_ours_are_not_taken_from_a_record_and_repeated_names_take_the_last() {
    let mut rig = start(
        "
def dump(environ, start_response):
    start_response('200 OK', OK)
    return [repr((environ['wsgi.multithread'], environ.get('HTTP_X_R'))).encode()]
",
    );
    for (first, second) in [("a", "b"), ("c", "b"), ("c", "d")] {
        let mut request = Request::get("/dump");
        request.more.push(("wsgi.multithread", b"evil".to_vec()));
        request.more.push(("HTTP_X_R", first.as_bytes().to_vec()));
        request.more.push(("HTTP_X_R", second.as_bytes().to_vec()));
        assert_eq!(rig.ask(&request).text(), format!("(False, '{second}')"));
    }
}

#[test]
fn bodies_larger_than_both_rings_go_through() {
    let mut rig = start(
        "
def echo(environ, start_response):
    start_response('200 OK', OK)
    return [environ['wsgi.input'].read()]
def lines(environ, start_response):
    start_response('200 OK', OK)
    return (line for line in environ['wsgi.input'])
def pieces(environ, start_response):
    start_response('200 OK', OK)
    return iter(lambda: environ['wsgi.input'].read(10007), b'')
",
    );
    let body: Vec<u8> =
        (0..1_500_000u32).map(|n| if n % 1013 == 0 { 10 } else { n as u8 }).collect();
    let response = rig.ask(&Request::post("/echo", &body));
    assert!(response.body == body && response.end == ResponseEnd::Complete);
    for path in ["/lines", "/pieces"] {
        let response = rig.ask(&Request::post(path, &body));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert!(unchunk(&response.body) == body, "{path}");
    }
    let mut unknown = Request::post("/echo", &body);
    unknown.content_length = None;
    assert!(rig.ask(&unknown).body == body);
}

fn unchunk(mut wire: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = wire.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&wire[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&wire[end + 2..end + 2 + size]);
        wire = &wire[end + 2 + size + 2..];
        if size == 0 {
            assert!(wire.is_empty());
            return body;
        }
    }
}

#[test]
fn body_cut_short_raises_and_never_looks_like_an_end() {
    let mut rig = start(
        "
def told(environ, start_response):
    stream = environ['wsgi.input']
    results = []
    for read in (lambda: stream.read(4), stream.readline, stream.read, lambda: list(stream)):
        try:
            results.append(read().decode())
        except OSError as error:
            results.append('OSError')
    start_response('200 OK', OK)
    return [repr(results).encode()]
",
    );
    let mut request = Request::post("/told", b"some more");
    request.content_length = Some(100);
    request.body_end = BodyEnd::Broken;
    assert_eq!(rig.ask(&request).text(), "['some', 'OSError', 'OSError', 'OSError']");
}

#[test]
fn an_exception_costs_its_request_only_and_is_logged() {
    let mut rig = start(&format!(
        "{HELLO}
def early(environ, start_response):
    start_response('200 OK', OK)
    raise RuntimeError('early failure')
def late(environ, start_response):
    start_response('200 OK', OK)
    yield b'some bytes'
    raise RuntimeError('late failure')
def leave(environ, start_response):
    sys.exit(7)
def interrupt(environ, start_response):
    raise KeyboardInterrupt
"
    ));
    for path in ["/early", "/leave", "/interrupt"] {
        let response = rig.get(path);
        assert_eq!((response.status(), response.end), (500, ResponseEnd::Complete), "{path}");
        assert_eq!(rig.get("/hello").text(), "hello ");
    }
    assert_eq!(rig.get("/late").end, ResponseEnd::Broken);
    assert_eq!(rig.get("/hello").text(), "hello ");
    let (code, log) = rig.stop();
    assert_eq!(code, Some(0));
    for text in ["RuntimeError: early failure", "SystemExit: 7", "request 0123456789abcdef: GET"] {
        assert!(log.contains(text), "{log}");
    }
}

#[test]
fn objects_kept_beyond_their_request_are_closed_and_not_used_again() {
    let mut rig = start(
        "
kept = []
def keep(environ, start_response):
    kept.append((environ['wsgi.input'], start_response, start_response('200 OK', OK)))
    return [b'kept']
def use(environ, start_response):
    stream, start, write = kept[-1]
    results = []
    for use in (stream.read, stream.readline, lambda: next(iter(stream)),
                lambda: start('200 OK', []), lambda: write(b'x')):
        try:
            use()
        except ValueError:
            results.append('ValueError')
    results.append(stream is environ['wsgi.input'])
    results.append(environ['wsgi.input'].read().decode())
    start_response('200 OK', OK)
    return [repr(results).encode()]
",
    );
    let expected = format!("[{}False, 'secret']", "'ValueError', ".repeat(5));
    for _ in 0..3 {
        rig.get("/keep");
        assert_eq!(rig.ask(&Request::post("/use", b"secret")).text(), expected);
    }
}

#[test]
fn an_abandoned_request_ends_and_its_iterable_is_closed() {
    let mut rig = start(&format!(
        "{HELLO}
class Endless:
    def __iter__(self): return self
    def __next__(self): return b'x' * 10000
    def close(self): print('closed', flush=True)
def endless(environ, start_response):
    start_response('200 OK', OK)
    return Endless()
def written(environ, start_response):
    write = start_response('200 OK', OK)
    for _ in range(1000): write(b'x' * 10000)
    print('written', flush=True)
    return []
"
    ));
    for path in ["/endless", "/written"] {
        let (slot, _) = rig.submit(&Request::get(path));
        while rig.loop_end.unsent(slot).iter().all(|piece| piece.length == 0) {
            rig.loop_end.sweep(&mut Vec::new());
            rig.loop_end.progress(slot).unwrap();
            std::thread::yield_now();
        }
        rig.loop_end.abandon(slot).unwrap();
        rig.loop_end.release(slot).unwrap();
        assert_eq!(rig.get("/hello").text(), "hello ");
    }
    let (code, log) = rig.stop();
    assert_eq!((code, log.as_str()), (Some(0), "closed\nwritten\n"));
}

#[test]
fn children_that_come_back_from_the_application_harm_nothing() {
    let mut rig = start(&format!(
        "{HELLO}
import subprocess, multiprocessing, atexit
def forked(environ, start_response):
    child = os.fork()
    if child == 0:
        try:
            environ['wsgi.input'].read()
        except RuntimeError:
            print('refused', flush=True)
        return [b'from the child']
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    start_response('200 OK', OK)
    return [b'%d' % status]
def forked_exit(environ, start_response):
    child = os.fork()
    if child == 0:
        sys.exit(9)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    start_response('200 OK', OK)
    return [b'%d' % status]
def forked_generator(environ, start_response):
    child = os.fork()
    if child == 0:
        start_response = None
        yield b'from the child'
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    start_response('200 OK', OK)
    yield b'%d' % status
def child(environ, start_response):
    out = subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True).stdout
    start_response('200 OK', OK)
    return [out.strip()]
def double(x):
    return 2 * x
def spawn(environ, start_response):
    results = []
    for method in ('spawn', 'forkserver', 'fork'):
        with multiprocessing.get_context(method).Pool(1) as pool:
            results += pool.map(double, [1, 2])
    start_response('200 OK', OK)
    return [repr(results).encode()]
if multiprocessing.parent_process() is None:
    atexit.register(print, 'at exit', flush=True)
"
    ));
    for _ in 0..3 {
        assert_eq!(rig.get("/forked").text(), "0");
        assert_eq!(rig.get("/forked_exit").text(), "9");
        assert_eq!(unchunk(&rig.get("/forked_generator").body), b"1");
        assert_eq!(rig.get("/child").text(), "5");
        assert_eq!(rig.get("/hello").text(), "hello ");
    }
    assert_eq!(rig.get("/spawn").text(), "[2, 4, 2, 4, 2, 4]");
    let (code, log) = rig.stop();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("at exit").count(), 1, "{log}");
    assert_eq!(log.matches("refused").count(), 3, "{log}");
}

#[test]
fn signal_handlers_run_while_the_worker_is_idle_and_term_is_only_noted() {
    let mut rig = start(&format!(
        "{HELLO}
import signal
signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))
"
    ));
    let child = rig.child.id() as i32;
    assert_eq!(rig.get("/hello").text(), "hello ");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
        // SAFETY: the child is ours and not reaped yet.
        unsafe { libc::kill(child, signal) };
    }
    let deadline = std::time::Instant::now() + rig::TIMEOUT;
    while !rig.log().contains("handled") {
        assert!(std::time::Instant::now() < deadline, "the handler did not run");
        std::thread::yield_now();
    }
    assert_eq!(rig.get("/hello").text(), "hello ");
    assert_eq!(rig.stop().0, Some(0));
}

#[test]
fn several_seats_serve_at_the_same_time() {
    let source = cases(
        "
import threading
barrier = threading.Barrier(3, timeout=15)
def meet(environ, start_response):
    barrier.wait()
    start_response('200 OK', OK)
    return [repr((environ['wsgi.multithread'], environ['wsgi.multiprocess'])).encode()]
",
    );
    let mut rig = Rig::start(&source, 3);
    for _ in 0..5 {
        let request = Request::get("/meet");
        let slots: Vec<_> = (0..3)
            .map(|_| {
                let slot = rig.submit(&request).0;
                rig.loop_end.wake_one(ringhorn_exchange::Wake::Waited);
                slot
            })
            .collect();
        for slot in slots {
            assert_eq!(rig.finish(slot, &request, 0).text(), "(True, False)");
        }
    }
    assert_eq!(rig.stop().0, Some(0));
}

#[test]
fn what_cannot_be_loaded_says_why_and_exits_with_3() {
    for (source, application, told) in [
        ("1 / 0", "application", "ZeroDivisionError"),
        ("app = 5", "application", "is not callable"),
        ("import sys; sys.exit(0)", "application", "SystemExit"),
        ("", "nowhere:app", "no module named 'nowhere'"),
    ] {
        let (mut rig, answer) = Rig::try_start(source, application, 1);
        let FromWorker::Failed(failed) = answer else { panic!("{answer:?}") };
        assert_eq!(failed.exit_code, 3);
        assert!(failed.text.contains(told), "{}", failed.text);
        let (code, log) = rig.wait();
        assert_eq!(code, Some(3));
        assert!(log.contains(told), "{log}");
    }
}

#[test]
fn a_dead_server_ends_the_worker_even_if_python_hangs() {
    let mut rig = start(
        "
def hang(environ, start_response):
    while True: pass
",
    );
    let slot = rig.submit(&Request::get("/hang")).0;
    rig.wait_for_claim(slot);
    let (theirs, _) = ringhorn_exchange::control::ControlSocket::pair().unwrap();
    drop(std::mem::replace(&mut rig.control, theirs));
    assert_eq!(rig.wait().0, Some(1));
}

#[test]
fn a_fast_stop_breaks_off_waits_within_requests() {
    let mut rig = start(
        "
def wait(environ, start_response):
    try:
        environ['wsgi.input'].read()
    except OSError:
        print('broken off', flush=True)
        raise
",
    );
    let mut request = Request::post("/wait", b"");
    request.content_length = Some(10);
    let slot = rig.submit_without_body(&request);
    rig.wait_for_claim(slot);
    rig.control.send(&ToWorker::Stop(Stop { graceful: false }), &[]).unwrap();
    let (code, log) = rig.wait();
    assert_eq!(code, Some(0));
    assert!(log.contains("broken off"), "{log}");
}
