"""Workers that crash again and again: at the start of a server, where it ends the server in the
end, and later, where it does not. What one crash costs stands in test_deaths.py.
"""

import os
import re
import signal
import time

import pytest
from harness.server import APPS, Server
from harness.watch import wait_until

LOADING = APPS / "loading"


@pytest.fixture
def crashing(interpreter, tmp_path):
    """Starts servers of an application that crashes at import; what it notes is in `starts()`."""
    servers = []

    def run(how, *options, workers=1, **env):
        env = {"CRASH": how, "STARTS": str(tmp_path / "starts"), **env}
        one = Server(
            "crashes:application",
            python=interpreter,
            pythonpath=LOADING,
            workers=workers,
            options=options,
            env=env,
        )
        servers.append(one)
        return one.launch()

    run.starts = lambda: (tmp_path / "starts").read_text().split()
    yield run
    for one in servers:
        one.kill()


@pytest.mark.parametrize(
    "how, said",
    [
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("exit", "exit status: 7"),
        ("kill", "SIGKILL"),
    ],
)
def test_crashes_at_start_end_the_server_after_max_crashes(crashing, how, said):
    one = crashing(how)
    assert one.wait(20) == 3
    assert len(crashing.starts()) == 4
    log = one.log.text
    for count in (1, 2, 3):
        assert f"it is started again ({count} of --max-crashes 3)" in log
    error = next(line for line in log.splitlines() if line.startswith("error:"))
    assert said in error and "4 times in a row (--max-crashes 3)" in error
    assert log.count("hint:") >= 4


@pytest.mark.parametrize("how, code", [("abort", 3), ("exit", 3)])
def test_max_crashes_0_ends_at_the_first(crashing, how, code):
    one = crashing(how, "--max-crashes", "0")
    assert one.wait(20) == code
    assert len(crashing.starts()) == 1


def test_server_whose_worker_recovers_serves(crashing):
    one = crashing("segfault", CALM="3")
    one.wait_ready()
    assert one.request("GET", "/").body == b"calm"
    assert len(crashing.starts()) == 4
    one.stop()


def test_import_error_is_no_crash(crashing):
    one = crashing("raise")
    assert one.wait(20) == 3
    assert len(crashing.starts()) == 1
    assert "RuntimeError: no crash, an error" in one.log.text


def test_workers_that_crash_side_by_side_count_once(crashing):
    """A server with many workers is as patient as one with a single one."""
    # The first is alone for a second; all four crash before any was started again.
    one = crashing("abort", "--max-crashes", "1", workers=4, SECONDS="1.5")
    assert one.wait(30) == 3
    assert "2 times in a row (--max-crashes 1)" in one.log.text
    assert len(crashing.starts()) > 4


def test_check_does_not_try_again(crashing):
    one = crashing("abort", "--check")
    assert one.wait(20) == 3
    assert len(crashing.starts()) == 1


def test_crash_loop_later_backs_off_is_loud_and_never_ends_the_server(crashing, tmp_path):
    until = tmp_path / "until"
    one = crashing("abort", FIRST="1", UNTIL=str(until))
    one.wait_ready()
    [worker] = one.wait_workers(1)
    os.kill(worker, signal.SIGKILL)
    one.log.wait_for(r"\(6 died young in a row\)", 20)
    waits = re.findall(r"the next starts (at once|in [0-9.]+m?s)", one.log.text)
    assert waits == [
        "at once",
        "in 100ms",
        "in 200ms",
        "in 400ms",
        "in 800ms",
        "in 1.6s",
    ]
    assert "SIGABRT" in one.log.text and one.process.poll() is None
    # Whoever comes meanwhile waits, and is served as soon as a worker is up.
    with one.connect(20) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.is_silent(0.2)
        until.touch()
        assert client.response().body == b"calm"
    one.stop()


def test_log_says_what_killed_a_worker(start):
    one = start("hygiene:application", threads=2)
    [worker] = one.wait_workers(1)
    os.kill(worker, signal.SIGKILL)
    one.log.wait_for(r"ended: signal: 9 \(SIGKILL\); the next starts at once", 5)
    one.log.wait_for("hint: somebody sent it KILL; .*dmesg", 5)
    one.wait_workers(1, without=[worker])
    wait_until(lambda: one.request("GET", "/pid").status == 200, "the next worker", 10)
    assert one.request("GET", "/die/segfault").status == 502
    one.log.wait_for("hint: a native module crashed", 5)
    assert one.request("GET", "/die/exit").status == 502
    one.log.wait_for(r"hint: .*os\._exit", 5)


def test_whom_the_server_kills_it_does_not_wonder_about(start, tmp_path):
    """A worker that does not leave in time is killed, with its reason and no advice."""
    gate = tmp_path / "gate"
    one = start("hygiene:application", options=["--graceful-timeout", "1"])
    [worker] = one.wait_workers(1)
    client = one.connect(20)
    client.send(f"GET /hold?until={gate}&log={gate}-log HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    wait_until((tmp_path / "gate-log").exists, "the call", 5)
    began = time.monotonic()
    one.signal(signal.SIGHUP)
    one.log.wait_for("is killed: it did not leave within", 15)
    assert time.monotonic() - began < 10
    one.wait_workers(1, without=[worker])
    assert "hint:" not in one.log.text
    client.close()
