"""Requests that hang in every way there is, beside a load: each gets its 504 in time, its stack is
in the log, and no other request is lost.
"""

import time

import pytest

from faults.drill import Footprint, Running, has_all_slots, length
from harness.watch import wait_until

TIMEOUT = 1.0
GRACE = 0.5
# What the answer may take beyond the timeout: the promise, and what the bounded version allows
# beside other tests on the same two cores.
LATE = length(short=0.6, full=0.1)
TIMES = length(short=2, full=20)
INFLIGHT = 64
WORKERS = 3
MIX = ({"path": "/work?ms=1"}, {"path": "/work?spin=2000", "post": 2000})
# how: threads of a worker. One that keeps the interpreter's lock stops all threads of its worker,
# whatever the server does: its siblings are the other workers.
HANGS = {"sleep": 4, "lock": 4, "native-code": 4, "native-loop": 1}


@pytest.mark.timeout(length(short=80, full=400))
@pytest.mark.parametrize("how", HANGS)
def test_request_that_hangs(start, progress, figure, tmp_path, how):
    server = start(
        "drilled:application",
        workers=WORKERS,
        threads=HANGS[how],
        options=[
            *("--timeout", TIMEOUT, "--interrupt-grace", GRACE, "--graceful-timeout", 2),
            *("--max-inflight", INFLIGHT),
        ],
    )
    server.wait_workers(WORKERS)
    with Running(server.address, 12, MIX) as load:
        load.wait_answers(200)
    before = Footprint.of(server)
    took = []
    with Running(server.address, 12, MIX) as load:
        for number in range(TIMES):
            load.wait_answers(50)
            mark, workers = server.log.mark(), server.workers()
            with server.connect(10) as client:
                began = time.monotonic()
                answer = client.request("GET", f"/hang-in-{how}?id=hang")
                took.append(time.monotonic() - began)
            assert answer.status == 504
            server.log.wait_for("hang_in_" + how.replace("-", "_"), 5, since=mark)
            # A worker that cannot be interrupted is followed by another.
            if how != "sleep" and how != "lock":
                wait_until(lambda old=workers: set(server.workers()) - set(old), "another", 10)
                # The next one that hangs is not to be taken by the worker that leaves.
                wait_until(lambda: len(server.workers()) == WORKERS, "the old one to leave", 20)
            progress(f"{number + 1} of {TIMES}")
        wait_until(lambda: len(server.workers()) == WORKERS, "the workers to be replaced", 20)
        load.wait_answers(200)
        account = load.stop()
    figure(
        f"{TIMES} requests that hang in {how}, --timeout {TIMEOUT}: 504 after {min(took):.3f} to "
        f"{max(took):.3f} s; beside them {account}"
    )
    assert min(took) > TIMEOUT - 0.01
    # One in ten may meet a machine that is busy with something else at that moment.
    assert sum(one > TIMEOUT + LATE for one in took) <= TIMES // 10
    assert account.failed() == 0 and account.retried == 0
    assert not any(account.closed.values())
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)
