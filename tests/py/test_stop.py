"""Ends that were asked for: what a client sees of a drain, the time before it, and ways to cut it
short. What TERM promises under load stands in test_lifecycle.py.
"""

import signal
import threading
import time

import pytest
from harness.client import Client, Truncated, encode_request
from harness.watch import wait_until

READY_PATH = ("--ready-path", "/-/readyz", "--health-path", "/-/healthz")


def hold(server, folder, name="held"):
    """A request that stands in the application until its gate is opened."""
    gate, log = folder / f"{name}-gate", folder / f"{name}-log"
    client = server.connect(20)
    client.send(encode_request("GET", f"/hold?until={gate}&log={log}"))
    wait_until(lambda: log.exists() and "called" in log.read_text(), "the call", 5)
    return client, gate


def is_refused(server):
    try:
        with Client(server.address, 1) as client:
            client.request("GET", "/pid")
            return False
    except (ConnectionError, TimeoutError, Truncated):
        return True


# --shutdown-delay.


def test_shutdown_delay_serves_on_while_readiness_is_false(start):
    one = start("hygiene:application", options=[*READY_PATH, "--shutdown-delay", "1.5"])
    kept = one.connect()
    assert kept.request("GET", "/-/readyz").status == 200
    began = time.monotonic()
    one.signal(signal.SIGTERM)
    wait_until(lambda: one.request("GET", "/-/readyz").status == 503, "readiness to fall", 1)
    assert "stopping" in one.request("GET", "/-/readyz").text
    served = 0
    while time.monotonic() - began < 1.2:
        answer = one.request("GET", "/pid")
        assert answer.status == 200 and answer.header("Connection") is None, "as before"
        assert kept.request("GET", "/pid").header("Connection") is None
        assert one.request("GET", "/-/healthz").status == 200
        served += 1
    assert served > 5
    assert one.wait(10) == 0
    assert 1.4 < time.monotonic() - began < 6
    kept.close()


def test_graceful_timeout_counts_from_the_end_of_the_delay(start, tmp_path):
    options = ["--shutdown-delay", "1", "--graceful-timeout", "1"]
    one = start("hygiene:application", options=options)
    client, _ = hold(one, tmp_path)
    began = time.monotonic()
    one.signal(signal.SIGTERM)
    answer = client.response()
    assert answer.status == 504 and 1.8 < time.monotonic() - began < 4
    assert one.wait(10) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_cuts_the_delay_short(start, second):
    one = start("hygiene:application", options=["--shutdown-delay", "60"])
    one.signal(signal.SIGTERM)
    one.log.wait_for("not ready from now on", 5)
    began = time.monotonic()
    one.signal(second)
    assert one.wait(10) == 0
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_cuts_the_drain_short(start, tmp_path, second):
    one = start("hygiene:application")
    client, _ = hold(one, tmp_path)
    one.signal(signal.SIGTERM)
    one.log.wait_for("stopping gracefully", 5)
    began = time.monotonic()
    one.signal(second)
    assert one.wait(10) == 0
    assert time.monotonic() - began < 6
    client.close()


# The drain.


def test_everything_is_told_to_close_in_a_drain(start, tmp_path):
    one = start("hygiene:application", threads=2)
    kept = [one.connect() for _ in range(20)]
    for client in kept:
        assert client.request("GET", "/pid").header("Connection") is None
    held, gate = hold(one, tmp_path)
    one.signal(signal.SIGTERM)
    one.log.wait_for("stopping gracefully", 5)
    for client in kept:
        # Whoever is quick enough is served and told.
        answer = client.request("GET", "/pid")
        assert answer.status == 200 and answer.header("Connection") == "close"
        assert client.is_closed()
    wait_until(lambda: is_refused(one), "the listener to close", 5)
    gate.touch()
    assert held.response().header("Connection") == "close"
    assert one.wait(10) == 0


def test_connection_ends_with_the_first_answer_that_says_so(start, tmp_path):
    one = start("hygiene:application")
    client, gate = hold(one, tmp_path)
    client.send(encode_request("GET", "/pid?number=1"))
    one.signal(signal.SIGTERM)
    one.log.wait_for("stopping gracefully", 5)
    time.sleep(0.5)
    gate.touch()
    # Its head came before the drain, its answer is written in it: the last one on a connection.
    first = client.response()
    assert first.status == 200 and first.header("Connection") == "close"
    assert client.is_closed()
    assert one.wait(10) == 0


def test_body_still_coming_at_the_drains_end_gets_503(start):
    """Once it was cut without a word."""
    one = start("transfer:application", options=["--graceful-timeout", "1"])
    slow = one.connect()
    slow.send(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf")
    chunked = one.connect()
    chunked.send(b"POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha")
    time.sleep(0.2)
    one.signal(signal.SIGTERM)
    for client in (slow, chunked):
        answer = client.response()
        assert answer.status == 503 and answer.header("Connection") == "close"
        assert client.is_closed()
    assert one.wait(10) == 0


def test_queued_request_at_the_drains_end_gets_503(start, tmp_path):
    one = start("hygiene:application", options=["--graceful-timeout", "1"])
    running, _ = hold(one, tmp_path)
    queued = one.connect()
    queued.send(encode_request("GET", "/pid"))
    time.sleep(0.1)
    one.signal(signal.SIGTERM)
    assert queued.response().status == 503
    assert running.response().status == 504
    assert one.wait(10) == 0


def test_term_loses_no_request_of_kept_connections(start):
    """Clients that send without a pause on connections they keep: each is told to close, and none
    finds its connection closed over a request.
    """
    one = start("hygiene:application", threads=4, options=["--event-loops", "2"], workers=2)
    answered, lost, told = [], [], []

    def run():
        client = Client(one.address, 20)
        with client:
            try:
                while True:
                    answer = client.request("GET", "/pid?number=x")
                    answered.append(answer.status)
                    if answer.header("Connection") == "close":
                        told.append(client.is_closed())
                        return
            except (Truncated, ConnectionError) as error:
                lost.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(32)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 500, "five hundred answers", 20)
    one.signal(signal.SIGTERM)
    assert one.wait(20) == 0
    for thread in threads:
        thread.join(20)
    assert not lost
    assert set(answered) == {200} and told == [True] * 32
