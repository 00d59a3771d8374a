"""Health paths: answered by the server itself, without Python, whatever its workers do."""

import json
import os
import signal
import threading
import time

import pytest
from harness import fronts
from harness.address import Address
from harness.client import encode_request
from harness.server import APPS, LISTENING, Server
from harness.watch import wait_until

LOADING = APPS / "loading"
HEALTH = ("--health-path", "/-/healthz", "--ready-path", "/-/readyz")


@pytest.fixture(scope="module")
def stack(interpreter, tmp_path_factory):
    access = tmp_path_factory.mktemp("health") / "access.log"
    options = [*HEALTH, "--access-logfile", access]
    stack = fronts.Stack("hygiene:application", python=interpreter, options=options).start()
    stack.access = access
    yield stack
    stack.stop()


def ask(server, path="/-/readyz"):
    """Status and text of a health path."""
    response = server.request("GET", path)
    return response.status, response.text


def test_every_front_asks(front):
    for path, text in [("/-/healthz", "alive\n"), ("/-/readyz", "ready\n")]:
        response = front.request("GET", path)
        assert (response.status, response.text) == (200, text)
        assert response.header("Content-Type") == "text/plain"
        assert response.header("Date") and response.header("Cache-Control") == "no-store"
        with front.connect() as client:
            assert client.request("HEAD", path).body == b""
    assert front.request("GET", "/-/healthz/").status == 404, "only the very path is one"
    assert front.request("GET", "/-/healthz?verbose").status == 200
    refused = front.request("POST", "/-/healthz", body=b"x" * 1000)
    assert refused.status == 405 and "GET" in refused.header("Allow")


@pytest.mark.fronts("direct")
def test_connections_are_kept(front):
    with front.connect() as client:
        wire = b"".join(
            encode_request("GET", path)
            for path in ["/-/healthz", "/pid?number=1", "/-/readyz", "/pid?number=2"] * 20
        )
        client.send(wire)
        for _ in range(20):
            assert client.response().text == "alive\n"
            assert client.response().header("X-Number") == "1"
            assert client.response().text == "ready\n"
            assert client.response().header("X-Number") == "2"
        assert client.request("GET", "/-/healthz").header("Connection") is None


def test_health_leaves_no_access_record(stack):
    assert ask(stack.server) == (200, "ready\n")
    assert stack.server.request("GET", "/pid?number=logged").status == 200
    wait_until(lambda: "number=logged" in stack.access.read_text(), "the record", 5)
    assert "/-/readyz" not in stack.access.read_text()


def test_a_path_that_nobody_asked_for_is_the_applications(start):
    one = start("hygiene:application", options=HEALTH[:2])
    assert ask(one, "/-/healthz") == (200, "alive\n")
    assert one.request("GET", "/-/readyz").status == 404


def test_hanging_workers_and_a_full_server_keep_nobody_from_asking(start, tmp_path):
    gate, log = tmp_path / "gate", tmp_path / "log"
    one = start("hygiene:application", options=[*HEALTH, "--max-inflight", "2"])
    clients = [one.connect() for _ in range(2)]
    for number, client in enumerate(clients):
        client.send(encode_request("GET", f"/hold?until={gate}&log={log}"))
        if number == 0:
            wait_until(log.exists, "the worker to hang", 5)
            assert ask(one) == (200, "ready\n"), "another request would find room"
    wait_until(lambda: ask(one)[0] == 503, "the server to be full", 5)
    assert "--max-inflight" in ask(one)[1]
    assert one.request("GET", "/pid").status == 503
    assert ask(one, "/-/healthz") == (200, "alive\n")
    gate.touch()
    assert [client.response().status for client in clients] == [200, 200]
    assert ask(one) == (200, "ready\n")


def test_stopped_workers_keep_nobody_from_asking(start):
    one = start("hygiene:application", options=HEALTH)
    [worker] = one.wait_workers(1)
    os.kill(worker, signal.SIGSTOP)
    try:
        assert ask(one, "/-/healthz") == (200, "alive\n")
        assert ask(one) == (200, "ready\n")
    finally:
        os.kill(worker, signal.SIGCONT)


class Starting:
    """A server whose application is not imported before `ready()`."""

    def __init__(self, interpreter, folder, *options):
        self.gate = folder / "import"
        self.server = Server(
            "slow:application",
            python=interpreter,
            pythonpath=LOADING,
            env={"GATE": str(self.gate)},
            options=options,
        )

    def __enter__(self):
        self.server.launch()
        found = self.server.log.wait_for(LISTENING, 10)
        self.server.addresses = [Address("http", host="127.0.0.1", port=int(found.group(3)))]
        return self.server

    def __exit__(self, *_):
        self.server.kill()

    def ready(self):
        self.gate.touch()
        self.server.wait_ready()


def test_before_the_first_worker_is_ready(interpreter, tmp_path):
    starting = Starting(interpreter, tmp_path, *HEALTH, "--max-inflight", "1")
    with starting as one:
        assert ask(one, "/-/healthz") == (200, "alive\n")
        status, text = ask(one)
        assert status == 503 and "no worker is ready" in text
        with one.connect() as waiting:
            waiting.send(encode_request("GET", "/"))
            assert waiting.is_silent(0.3), "it waits in the queue"
            assert one.request("GET", "/").status == 503, "which has its bound"
            starting.ready()
            assert waiting.response().body == b"slow"
        wait_until(lambda: ask(one) == (200, "ready\n"), "readiness", 5)
        one.stop()


def test_term_before_the_first_worker_is_ready_tells_who_waits(interpreter, tmp_path):
    with Starting(interpreter, tmp_path, *HEALTH) as one, one.connect() as waiting:
        waiting.send(encode_request("GET", "/"))
        assert waiting.is_silent(0.2)
        one.signal(signal.SIGTERM)
        response = waiting.response()
        assert response.status == 503 and response.header("Retry-After")
        assert one.wait(10) == 0


def test_readiness_falls_with_the_last_worker_and_comes_back(start):
    one = start("hygiene:application", options=HEALTH)
    [worker] = one.wait_workers(1)
    seen = set()
    ended = threading.Event()

    def watch():
        while not ended.is_set():
            seen.add(ask(one))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        os.kill(worker, signal.SIGKILL)
        one.wait_workers(1, without=[worker])
        wait_until(lambda: (503, "not ready: no worker is ready\n") in seen, "the fall", 5)
        wait_until(lambda: ask(one)[0] == 200, "the new worker", 15)
    finally:
        ended.set()
        watcher.join(10)
    assert json.loads(one.request("GET", "/pid").text)[0] != worker


def test_idle_server_is_not_kept_awake_by_waiting_requests(interpreter, tmp_path):
    """Once a request that waited for a first worker woke its loop 2,000 times a second."""
    with Starting(interpreter, tmp_path, *HEALTH) as one, one.connect() as waiting:
        waiting.send(encode_request("GET", "/"))
        assert waiting.is_silent(0.2)
        before = switches(one.pid)
        time.sleep(1)
        assert switches(one.pid) - before < 500
        assert waiting.is_silent(0.01)


def switches(pid):
    """How often the threads of a process went to sleep."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("voluntary_ctxt_switches"))
        total += int(line.split()[1])
    return total


@pytest.mark.parametrize(
    "options, said",
    [
        (["--health-path", "healthz"], "--health-path"),
        (["--ready-path", "/a?b"], "--ready-path"),
        (["--ready-path", "/%41"], "decoded"),
        (["--health-path", "/h", "--ready-path", "/h"], "both /h"),
    ],
)
def test_bad_paths_are_refused(interpreter, options, said):
    one = Server("hello:application", python=interpreter, options=options).launch()
    try:
        assert one.wait(10) == 2
        assert said in one.log.text and "hint:" in one.log.text
    finally:
        one.kill()
