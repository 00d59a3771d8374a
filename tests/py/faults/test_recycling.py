"""Workers recycled every fifty requests, for a hundred thousand requests: none fails."""

import re

import pytest

from faults.drill import Footprint, Running, has_all_slots, length

REQUESTS = length(short=3_000, full=100_000)
EVERY = 50
INFLIGHT = 128
MIX = (
    {"path": "/work?ms=1"},
    {"path": "/work?burn=0.2", "post": 3000},
    {"path": "/work?ms=1&pieces=2&size=20000", "size": 20000},
)
STARTED = re.compile(r"worker (\d+) \(pid \d+\) (?:starts|replaces)")


@pytest.mark.timeout(length(short=80, full=1200))
def test_recycling_every_fifty_requests(start, progress, figure, tmp_path):
    options = ["--max-requests", EVERY, "--max-inflight", INFLIGHT, "--log-level", "debug"]
    server = start("drilled:application", workers=2, threads=2, options=options)
    server.wait_workers(2)
    # Too few for a first worker to be replaced.
    with Running(server.address, 32, MIX, count=40) as load:
        load.wait_all(20)
    before = Footprint.of(server)
    with Running(server.address, 32, MIX, count=REQUESTS) as load:
        account = load.wait_all(length(short=60, full=1100), progress)
    workers = max(int(number) for number in STARTED.findall(server.log.text))
    window = account.windows["start"]
    figure(
        f"recycling every {EVERY}: {account} in {window['seconds']:.0f} s, {workers} workers; "
        f"{window['ok']}"
    )
    assert account.sent == REQUESTS
    assert account.failed() == 0 and account.retried == 0
    assert not any(account.closed.values())
    assert workers > REQUESTS / EVERY / 16, "hardly any worker was recycled"
    assert has_all_slots(server, INFLIGHT, tmp_path)
    server.wait_workers(2)
    before.kept_from(server)
