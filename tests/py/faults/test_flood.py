"""Ten times as many requests as can be served: the served part keeps its throughput and its time,
the rest is answered at once with 503 and Retry-After, and memory stays flat.

What can be served at most ("peak") and the flood are measured in turns, so that the noise of the
machine meets both, and are judged by their ratio.
"""

import statistics

import pytest

from faults.drill import Footprint, added, has_all_slots, length, run
from harness import process

TURNS = length(short=3, full=12)
SECONDS = length(short=1.0, full=5.0)
FACTOR = 10
CLIENTS = 256
# The promise, and what the bounded version allows beside other tests on the same two cores.
KEPT = length(short=0.3, full=0.9)
INFLIGHT = 24
PSS_GROWTH_MAX = 4 << 20
# case: (workers, threads, what a request does, requests a second that this serves at most)
CASES = {
    "sleeps": (2, 2, {"path": "/work?ms=10"}, 400),
    "burns CPU": (1, 1, {"path": "/work?burn=4"}, 250),
}


@pytest.mark.timeout(length(short=80, full=400))
@pytest.mark.parametrize("case", CASES)
def test_ten_times_overload(start, progress, figure, tmp_path, case):
    workers, threads, ask, at_most = CASES[case]
    server = start(
        "drilled:application",
        workers=workers,
        threads=threads,
        options=["--max-inflight", INFLIGHT],
    )
    server.wait_workers(workers)
    # More than the seats, and less than what is shed, on whichever loop.
    steady = {"clients": 2 * workers * threads, "requests": [ask]}
    # Clients are other machines in earnest: here they yield the cores to the server.
    flood = {"clients": CLIENTS, "requests": [ask], "rate": FACTOR * at_most, "nice": 10}
    run(server.address, seconds=SECONDS, **steady)
    run(server.address, seconds=SECONDS, **flood)
    before, pss = Footprint.of(server), []
    peaks, floods = [], []
    for turn in range(TURNS):
        peaks.append(run(server.address, seconds=SECONDS, **steady))
        floods.append(run(server.address, seconds=SECONDS, **flood))
        pss.append(process.pss_bytes(server.pid))
        progress(f"{turn + 1} of {TURNS} turns")
    peak, flooded = rate(peaks, "ok"), rate(floods, "ok")
    offered = sum(one.sent for one in floods) / seconds(floods)
    windows = [one.windows["start"] for one in floods]
    served_p99 = statistics.median(window["ok"]["p99"] for window in windows)
    shed_p99 = statistics.median(window["others"]["p99"] for window in windows)
    kinds = added(one.kinds for one in floods)
    figure(
        f"{offered / peak:.1f} x overload, application {case}: {flooded:.0f} of {peak:.0f} a "
        f"second served ({flooded / peak:.0%}), p99 {served_p99} ms; "
        f"503 after {shed_p99} ms at p99; {kinds}; "
        f"PSS {pss[0] / 2**20:.1f} to {max(pss) / 2**20:.1f} MiB"
    )
    assert all(one.failed() == 0 for one in peaks)
    assert set(kinds) == {"ok", "503"}
    assert offered > peak * FACTOR * length(short=0.3, full=0.9), "the client offered too little"
    assert flooded > peak * KEPT
    # Everything before a request in its queue, and as long again.
    bound_ms = 2 * 1000 * INFLIGHT / peak
    assert served_p99 < bound_ms + length(short=3000, full=50)
    assert shed_p99 < length(short=3000, full=25)
    assert max(pss) - pss[0] < PSS_GROWTH_MAX
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)


def rate(accounts, kind):
    return sum(one.kinds.get(kind, 0) for one in accounts) / seconds(accounts)


def seconds(accounts):
    return sum(one.windows["start"]["seconds"] for one in accounts)
