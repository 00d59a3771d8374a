"""Recycling and the number of workers: replaced before they leave, added and taken by load or by
hand.
"""

import signal
import threading
import time

import pytest

from harness import process
from harness.client import encode_request
from harness.release import ask
from harness.watch import wait_until

GREEDY = """
import os
held = []
def application(environ, start_response):
    if environ["PATH_INFO"] == "/eat":
        held.append(os.urandom(1 << 20) * 64)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
SLOW = """
import os, time
def application(environ, start_response):
    time.sleep(0.3)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def serve(start, tmp_path):
    def run(text, **settings):
        (tmp_path / "app.py").write_text(text)
        settings["options"] = ["--chdir", tmp_path, *settings.get("options", ())]
        return start("app", **settings)

    return run


def test_max_requests_replaces_workers_and_loses_no_request(serve):
    one = serve(GREEDY, workers=2, options=["--max-requests", "20", "--max-requests-jitter", "5"])
    pids = set()
    deadline = time.monotonic() + 30
    with one.connect() as kept:
        # A worker serves on while its successor boots, so the number of requests is not known.
        while len(pids) < 6 and time.monotonic() < deadline:
            response = kept.request()
            assert response.status == 200
            pids.add(response.text)
    assert len(pids) == 6
    one.log.wait_for(r"requests \(--max-requests\)")
    wait_until(lambda: len(one.workers()) == 2, "two workers")


def test_max_worker_lifetime_replaces_workers(serve):
    one = serve(GREEDY, options=["--max-worker-lifetime", "0.5"])
    (old,) = one.workers()
    one.log.wait_for("--max-worker-lifetime")
    one.wait_workers(1, without=[old])
    assert one.request().status == 200


def test_max_rss_replaces_a_worker_that_grew(serve):
    one = serve(GREEDY, options=["--max-rss", "60MiB"])
    (old,) = one.workers()
    assert process.pss_bytes(old) < 60 << 20
    assert one.request("GET", "/eat").status == 200
    one.log.wait_for(r"of memory \(--max-rss\)")
    (new,) = one.wait_workers(1, without=[old])
    assert int(one.request().text) == new


def test_ttin_and_ttou_change_the_number(serve):
    one = serve(GREEDY)
    one.signal(signal.SIGTTIN)
    one.log.wait_for("1 before, 2 from now on")
    one.wait_workers(2)
    one.signal(signal.SIGTTIN)
    one.log.wait_for("there is no room for more")
    for _ in range(2):
        one.signal(signal.SIGTTOU)
        one.log.wait_for(r"from now on \(Ttou\)")
    one.wait_workers(1)
    assert one.request().status == 200


def test_workers_follow_the_load(serve):
    one = serve(SLOW, options=["--workers-min", "1", "--workers-max", "3"])
    stop = threading.Event()

    def load():
        with one.connect(30) as kept:
            while not stop.is_set():
                kept.send(encode_request())
                assert kept.response().status == 200

    clients = [threading.Thread(target=load) for _ in range(6)]
    for client in clients:
        client.start()
    try:
        one.wait_workers(3, 30)
    finally:
        stop.set()
        for client in clients:
            client.join()
    one.log.wait_for("2 before, 3 from now on")
    assert ask(one, "status")[1].count("generation 1") == 3


def test_range_that_excludes_the_start_is_refused(start, interpreter):
    from harness.server import Server

    one = Server(
        "hello:application", python=interpreter, workers=4, options=["--workers-max", "3"]
    ).launch()
    try:
        assert one.wait(20) == 2
        assert "--workers-max 3" in one.log.text and "hint:" in one.log.text
    finally:
        one.kill()
