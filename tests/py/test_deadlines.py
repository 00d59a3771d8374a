"""Deadlines: a request that runs too long gets 504 (or is cut), its stack is in the log, and an
exception ends it in its thread. Nobody else loses anything, and a worker whose request does not
unwind is replaced. The moments themselves are played in `src/event_loop/tests/overdue.rs`.
"""

import itertools
import json
import os
import re
import statistics
import threading
import time

import pytest

from harness import gated, process, uwsgi
from harness.client import Client, Truncated, encode_request
from harness.release import ask, wait_ready
from harness.watch import wait_until

APPLICATION = "deadlines:application"
# Ways to hang, the function that the stack must name, and whether an exception reaches them before
# they end by themselves when they hang in the main thread.
WAYS = {
    "sleep": ("sleeps", True),
    "lock": ("waits_for_a_lock", True),
    "python": ("loops_in_python", True),
    "hash": ("hash_in_rounds", False),
    "sum": ("count_in_rounds", False),
}


class Notes:
    """What the application noted in a file."""

    def __init__(self, folder):
        self.path = folder / "notes"
        self.path.touch()

    @property
    def lines(self):
        return self.path.read_text().splitlines()

    def wait(self, pattern, seconds=10.0):
        """The first line that the pattern is found in."""
        found = re.compile(pattern)

        def line():
            return next((line for line in self.lines if found.search(line)), None)

        return wait_until(line, f"a note {pattern!r} among {self.lines}", seconds)


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path)


def serve(start, *options, timeout=1, **settings):
    return start(APPLICATION, options=["--timeout", timeout, *options], **settings)


def pid_of(server):
    return json.loads(server.request("GET", "/hello").text)[0]


def test_504_comes_within_a_tenth_of_a_second(start):
    server = serve(start, timeout=0.5, threads=2)
    late = []
    for _ in range(7):
        began = time.monotonic()
        assert server.request("GET", "/hang/sleep").status == 504
        late.append(time.monotonic() - began - 0.5)
    assert min(late) >= 0, f"early: {late}"
    # One of several may have been held up by the machine.
    assert statistics.median(late) < 0.1, late


@pytest.mark.parametrize("way", WAYS)
def test_request_that_hangs(start, notes, way):
    # Native work takes what it takes on a busy machine: its worker is to be the same afterwards.
    check_hang(serve(start, "--interrupt-grace", 30), notes, way)


@pytest.mark.parametrize("way", WAYS)
def test_request_that_hangs_in_a_forked_worker(start, notes, way):
    check_hang(serve(start, "--interrupt-grace", 30, "--preload"), notes, way)


def check_hang(server, notes, way):
    before = pid_of(server)
    function, is_reached = WAYS[way]
    seconds = 20 if is_reached else 2.5
    mark = server.log.mark()
    began = time.monotonic()
    response = server.request("GET", f"/hang/{way}?seconds={seconds}&log={notes.path}")
    took = time.monotonic() - began
    assert response.status == 504
    assert 1 <= took < 2, f"{took} s"
    server.log.wait_for(rf"GET /hang/{way}\?seconds={seconds}\S* HTTP/1.1 \(request", since=mark)
    server.log.wait_for(rf"File .*deadlines.py\", line \d+,? in {function}", since=mark)
    # It unwinds, sooner or later, and the same worker serves on.
    notes.wait("RequestTimeout: the request ran longer than --timeout", 15)
    assert pid_of(server) == before
    assert "raised an exception" not in server.log.after(mark)


@pytest.mark.parametrize("way", ["sleep", "sum"])
def test_request_that_hangs_over_uwsgi(start, notes, way):
    server = serve(start, "--interrupt-grace", 30, binds=["uwsgi://127.0.0.1:0"])
    with Client(server.address) as client:
        began = time.monotonic()
        client.send(uwsgi.request(f"/hang/{way}", query=f"seconds=2&log={notes.path}"))
        assert client.response().status == 504
        assert 1 <= time.monotonic() - began < 2
    notes.wait("RequestTimeout", 15)


def test_stack_is_logged_although_native_code_keeps_the_lock(start):
    server = serve(start)
    mark = server.log.mark()
    assert server.request("GET", "/hang/sum?seconds=3").status == 504
    server.log.wait_for("does not let go of the interpreter's lock", 1.5, since=mark)
    server.log.wait_for("in count_in_rounds", 1.5, since=mark)


def test_application_that_catches_and_returns_goes_on(start, notes):
    server = serve(start)
    before = pid_of(server)
    assert server.request("GET", f"/catches?log={notes.path}").status == 504
    notes.wait("went on")
    assert pid_of(server) == before


def test_except_exception_does_not_swallow_it(start, notes):
    server = serve(start)
    mark = server.log.mark()
    assert server.request("GET", f"/broad?log={notes.path}").status == 504
    notes.wait("RequestTimeout")
    assert server.request("GET", "/hello").status == 200
    assert "raised an exception" not in server.log.after(mark)


def test_streamed_response_is_cut(start, notes):
    server = serve(start)
    with server.connect() as client, pytest.raises(Truncated) as cut:
        client.request("GET", f"/stream?log={notes.path}")
    assert cut.value.partial.startswith(b"piece\n")
    notes.wait("RequestTimeout|GeneratorExit")
    notes.wait("^close$")


def test_reader_that_stops_does_not_keep_a_thread(start, notes):
    server = serve(start)
    with server.connect(receive_buffer=4096) as client:
        client.send(encode_request("GET", f"/fill?log={notes.path}"))
        notes.wait("^start")
        notes.wait("RequestTimeout|^end", 3)
        assert server.request("GET", "/hello").status == 200


def test_body_that_never_comes_does_not_keep_a_thread(start, notes):
    streamed = ["--body-timeout", 0, "--body-buffer-size", 0, "--body-spool-size", 0]
    server = serve(start, *streamed)
    with server.connect() as client:
        client.send(f"POST /read?log={notes.path} HTTP/1.1\r\nHost: h\r\n".encode())
        client.send(b"Content-Length: 100000\r\n\r\nsome")
        assert client.response().status == 504
    notes.wait("RequestTimeout|OSError")
    assert server.request("GET", "/hello").status == 200


def test_request_whose_client_left_is_interrupted_all_the_same(start, notes):
    server = serve(start)
    with server.connect() as client:
        client.send(encode_request("GET", f"/hang/sleep?log={notes.path}"))
        notes.wait("^start")
        client.reset()
    began = time.monotonic()
    assert server.request("GET", "/hello").status == 200
    assert time.monotonic() - began < 3
    assert notes.wait("RequestTimeout")


def test_siblings_are_served_meanwhile(start, notes):
    server = serve(start, threads=4)
    before = pid_of(server)
    hanging = [server.connect() for _ in range(2)]
    for client, way in zip(hanging, ["hash", "sleep"], strict=True):
        client.send(encode_request("GET", f"/hang/{way}?seconds=2&log={notes.path}"))
    wait_until(lambda: str(notes.lines).count("start") == 2, "both to hang", 5)
    served = 0
    end = time.monotonic() + 2
    with server.connect() as client:
        while time.monotonic() < end:
            response = client.request("GET", f"/hello?number={served}")
            assert (response.status, response.header("X-Number")) == (200, str(served))
            served += 1
    assert served > 50
    assert [client.response().status for client in hanging] == [504, 504]
    for client in hanging:
        client.close()
    assert pid_of(server) == before


class Visitor(threading.Thread):
    """Asks for /hello again and again on kept connections, and keeps every answer."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.wrong = []
        self.served = 0
        self.over = threading.Event()

    def run(self):
        with self.server.connect(timeout=20) as client:
            for number in itertools.count():
                if self.over.is_set():
                    return
                try:
                    response = client.request("GET", f"/hello?number={number}")
                except Exception as error:
                    self.wrong.append(repr(error))
                    return
                if (response.status, response.header("X-Number")) != (200, str(number)):
                    self.wrong.append((number, response))
                self.served += 1
                time.sleep(0.01)


def test_worker_whose_request_does_not_unwind_is_replaced(start, notes, tmp_path):
    gate = tmp_path / "gate"
    server = serve(start, "--interrupt-grace", 0.5, timeout=4, threads=3)
    [before] = server.workers()
    visitor = Visitor(server)
    visitor.start()
    with server.connect() as stuck, server.connect() as sibling:
        stuck.send(encode_request("GET", f"/catches?seconds=60&log={notes.path}"))
        notes.wait("^start")
        time.sleep(3)
        # Its own deadline is three seconds later.
        sibling.send(encode_request("GET", f"/hold?until={gate}&log={notes.path}"))
        assert stuck.response().status == 504
        server.log.wait_for(rf"worker 1 \(pid {before}\).*did not unwind within --interrupt-grace")
        server.log.wait_for(r"worker 2 \(pid \d+\) replaces worker 1")
        gate.touch()
        response = sibling.response()
        assert (response.status, response.text) == (200, '"held"')
    wait_until(lambda: not process.is_alive(before), "the stuck worker to end", 5)
    [after] = server.wait_workers(1, without=[before])
    wait_until(lambda: pid_of(server) == after, "the new one to serve", 5)
    visitor.over.set()
    visitor.join(10)
    assert visitor.wrong == []
    assert visitor.served > 50
    assert f"start {before}" in notes.wait("^start")


def test_stack_is_logged_although_its_worker_ends_right_behind(start, notes, tmp_path):
    """The last request beside a stuck one unwound, and the process was gone before the stack was
    written, which takes its time here."""
    (tmp_path / "slow_log.py").write_text(
        "import time, traceback\n"
        "at_once = traceback.format_list\n"
        "def slowly(frames):\n"
        "    time.sleep(0.4)\n"
        "    return at_once(frames)\n"
        "traceback.format_list = slowly\n"
        "from deadlines import application\n"
    )
    options = ["--chdir", tmp_path, "--timeout", 2, "--interrupt-grace", 0.2]
    server = start("slow_log:application", threads=2, options=options)
    with server.connect() as stuck, server.connect() as last:
        stuck.send(encode_request("GET", f"/catches?seconds=60&log={notes.path}"))
        notes.wait("^start")
        # Its deadline comes when the worker leaves already.
        time.sleep(1.2)
        last.send(encode_request("GET", "/hang/python?seconds=60"))
        assert stuck.response().status == last.response().status == 504
    server.log.wait_for("worker 1 .* left", 10)
    server.log.wait_for("loops_in_python", 5)


def test_stuck_worker_takes_nothing_more_while_another_serves(start, notes, tmp_path):
    gate = gated.write(tmp_path, "deadlines")
    gate.touch()
    options = ["--chdir", tmp_path, "--timeout", 1, "--interrupt-grace", 0.3]
    server = start("gated:application", workers=2, threads=2, options=options)
    wait_ready(server, 2)
    gate.unlink()
    assert server.request("GET", f"/catches?seconds=60&log={notes.path}").status == 504
    found = server.log.wait_for(r"worker \d+ \(pid (\d+)\): the request .* did not unwind")
    stuck = int(found.group(1))
    wait_until(lambda: f"(pid {stuck}): generation 1, leaving" in ask(server, "status")[1], "it")
    assert stuck not in {pid_of(server) for _ in range(60)}
    # Its successor boots all the while.
    assert len(server.workers()) == 3 or not process.is_alive(stuck)
    gate.touch()
    server.wait_workers(2, without=[stuck])
    wait_ready(server, 2)


def test_worker_that_keeps_the_lock_for_good_is_replaced(start, notes):
    server = serve(start, "--interrupt-grace", 0.5, threads=2)
    [before] = server.workers()
    assert server.request("GET", f"/hang/sum?seconds=120&log={notes.path}").status == 504
    with server.connect(timeout=20) as client:
        assert client.request("GET", "/hello").status == 200, "it waited for the replacement"
    wait_until(lambda: not process.is_alive(before), "the stuck worker to end", 10)
    server.wait_workers(1, without=[before])


def test_stop_does_not_wait_for_what_does_not_unwind(start, notes):
    server = serve(start, "--interrupt-grace", 0.2, "--graceful-timeout", 20)
    with server.connect() as client:
        client.send(encode_request("GET", f"/catches?seconds=60&log={notes.path}"))
        assert client.response().status == 504
        began = time.monotonic()
        server.stop()
    assert time.monotonic() - began < 10


def test_requests_that_end_at_their_deadline_are_answered_once(start, notes):
    """The race: whoever is first, the answer is whole, and the next request of the thread is not
    hit by what was meant for the one before."""
    server = serve(start, timeout=0.2, threads=2)
    before = pid_of(server)
    mark = server.log.mark()
    outcomes = []
    wrong = []

    def visit(number):
        for turn in range(40):
            name = f"{number}-{turn}"
            # From a little before the bound to a little after it.
            span = 0.16 + 0.002 * turn
            with server.connect() as client:
                path = f"/around?seconds={span}&number={name}&log={notes.path}"
                response = client.request("GET", path)
                outcomes.append(response.status)
                if response.status == 200 and response.header("X-Number") != name:
                    wrong.append((name, response))
                if response.status not in (200, 504):
                    wrong.append((name, response))
            response = server.request("GET", f"/hello?number={name}")
            if (response.status, response.header("X-Number")) != (200, name):
                wrong.append((name, response))

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(2)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(60)
    assert wrong == []
    assert len(outcomes) == 80
    assert {200, 504} == set(outcomes), "the race was not run"
    assert pid_of(server) == before
    # A request that was interrupted is one that got 504; the others ended.
    interrupted = sum("RequestTimeout" in line for line in notes.lines)
    assert interrupted <= outcomes.count(504)
    text = server.log.after(mark)
    assert "raised an exception" not in text and "Exception ignored" not in text


def test_slow_request_is_logged_once_and_not_touched(start, notes):
    server = serve(start, "--slow-request-log", 0.3, timeout=0)
    mark = server.log.mark()
    assert server.request("GET", f"/hang/sleep?seconds=1.2&log={notes.path}").status == 200
    notes.wait("^end$")
    text = server.log.after(mark)
    assert text.count("Stack of its thread") == 1
    assert re.search(r"File .*deadlines.py\", line \d+, in sleeps", text)
    assert re.search(r"GET /hang/sleep\?seconds=1.2\S* HTTP/1.1", text)


def test_slow_request_that_keeps_the_lock_is_not_touched(start, notes):
    server = serve(start, "--slow-request-log", 0.2, timeout=0)
    mark = server.log.mark()
    assert server.request("GET", f"/hang/sum?seconds=1&log={notes.path}").status == 200
    assert server.request("GET", "/hello").status == 200
    text = server.log.after(mark)
    assert "does not let go" not in text and "most recent call first" not in text


def test_without_a_timeout_nothing_is_interrupted(start, notes):
    server = serve(start, timeout=0)
    assert server.request("GET", f"/hang/sleep?seconds=1.5&log={notes.path}").status == 200
    assert notes.lines[1] == "end"


def test_access_log_says_504_and_why(start, tmp_path):
    log = tmp_path / "access"
    form = "%(s)s %(p)s %(U)s %(close_reason)s"
    server = serve(start, "--access-logfile", log, "--access-logformat", form)
    [worker] = server.workers()
    assert server.request("GET", "/hang/sleep").status == 504
    with server.connect() as client, pytest.raises(Truncated):
        client.request("GET", "/stream")
    wait_until(lambda: len(log.read_text().splitlines()) == 2, "two lines", 5)
    late, cut = log.read_text().splitlines()
    assert late == f"504 <{worker}> /hang/sleep the request ran longer than --timeout"
    assert cut == f"200 <{worker}> /stream timeout"


def test_exceptions_are_importable_without_the_package(start):
    """The application imports them from `ringhorn`, which is not on its path."""
    server = serve(start, env={"PYTHONPATH": ""})
    assert not os.path.exists(os.path.join(os.path.dirname(__file__), "apps", "ringhorn"))
    assert server.request("GET", "/hello").status == 200
