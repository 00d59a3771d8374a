"""SIGKILL of random workers under load: the clients see as many failures as the server says that
the deaths cost, never more than the seats killed, and nothing of the dead is kept.
"""

import os
import random
import re
import signal
import time

import pytest

from faults.drill import Footprint, Running, has_all_slots, length, lost_by_log
from harness import fronts
from harness.watch import wait_until

WORKERS = 4
THREADS = 2
INFLIGHT = 64
KILLS = length(short=40, full=200)
READY = re.compile(r"worker \d+ \(pid (\d+)\) is ready")
# Short and longer ones, bodies, and answers in pieces that a death cuts in the middle.
MIX = (
    {"path": "/work?ms=1"},
    {"path": "/work?ms=3"},
    {"path": "/work?burn=1", "post": 2000},
    {"path": "/work?ms=2&pieces=3&size=30000", "size": 30000},
)


@pytest.fixture
def stack(interpreter):
    options = ["--max-inflight", INFLIGHT, "--log-level", "debug"]
    stack = fronts.Stack(
        "drilled:application", python=interpreter, workers=WORKERS, threads=THREADS, options=options
    )
    stack.start()
    yield stack
    stack.stop()


def ready(server):
    """Workers that live and said READY: one that dies before delays the next by ten seconds."""
    return {int(pid) for pid in READY.findall(server.log.text)} & set(server.workers())


@pytest.mark.timeout(length(short=80, full=600))
@pytest.mark.parametrize("name", ["direct-http-tcp", "nginx-uwsgi-unix", "nginx-proxy-unix"])
def test_sigkill_of_random_workers(stack, progress, figure, tmp_path, name):
    front, server = stack.front(name), stack.server
    server.wait_workers(WORKERS)
    with Running(front.address, 32, MIX) as load:
        load.wait_answers(500)
    before = Footprint.of(server)
    kills = KILLS if front.is_direct else KILLS // 4
    chance = random.Random(7)
    mark = server.log.mark()
    killed = set()
    with Running(front.address, 32, MIX) as load:
        load.wait_answers(100)
        while len(killed) < kills:
            # Two are left at least, so that the load goes on.
            alive = wait_until(
                lambda: len(found := ready(server) - killed) > 2 and found, "three workers", 15
            )
            pid = chance.choice(sorted(alive))
            time.sleep(chance.random() * 0.05)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            progress(f"{len(killed)} of {kills} killed")
        server.wait_workers(WORKERS, 20, without=killed)
        load.wait_answers(500)
        account = load.stop()
    lost = lost_by_log(server, mark)
    requests = sum(one[0] for one in lost.values())
    figure(f"{kills} workers killed, {name}: {account}; the log says {requests} lost")
    assert account.failed() == requests
    # nginx may still hold back the beginning of an answer that is cut, and answer 502 itself.
    if front.is_direct:
        assert account.kinds.get("502", 0) == sum(one[1] for one in lost.values())
        assert account.kinds.get("cut", 0) == sum(one[2] for one in lost.values())
    assert set(account.kinds) <= {"ok", "502", "cut"}
    assert set(lost) <= killed and all(one[0] <= THREADS for one in lost.values())
    assert not account.retried, "a connection was closed for a death that cost it nothing"
    assert requests > kills / 4, "too few deaths hit a request to say anything"
    assert has_all_slots(server, INFLIGHT, tmp_path)
    figure(f"{kills} workers killed, {name}: {before} before, {before.kept_from(server)} after")
