"""Workers that die: what it costs, and whom. Each test has a server of its own, since the server
replaces workers that die young ever more slowly.
"""

import contextlib
import json
import os
import signal

import pytest
from harness import fronts
from harness.client import Truncated, encode_request
from harness.watch import wait_until


@pytest.fixture
def stack(interpreter):
    stack = fronts.Stack("hygiene:application", python=interpreter, threads=2).start()
    yield stack
    stack.stop()


def still_serves(server):
    assert server.request("GET", "/pid?number=alive").header("X-Number") == "alive"


@pytest.mark.parametrize("how", ["kill", "exit", "abort", "segfault"])
def test_death_in_a_request_gives_502_and_a_new_worker(stack, how):
    before = stack.server.workers()
    assert stack.server.request("GET", f"/die/{how}").status == 502
    still_serves(stack.server)
    stack.server.wait_workers(1, without=before)


def test_segfault_leaves_a_trace_in_the_log(stack):
    mark = stack.server.log.mark()
    assert stack.server.request("GET", "/die/segfault").status == 502
    stack.server.log.wait_for("Fatal Python error: Segmentation fault", 5, since=mark)
    stack.server.log.wait_for("_die", 5, since=mark)
    still_serves(stack.server)


def test_death_is_logged_with_its_signal(stack):
    mark = stack.server.log.mark()
    stack.server.request("GET", "/die/kill")
    stack.server.log.wait_for(r"(?i)worker.*(SIGKILL|signal:? 9|killed)", 5, since=mark)
    still_serves(stack.server)


@pytest.mark.parametrize(
    "how, cost",
    [("kill", "1 answered with 502, 0 cut"), ("kill-in-body", "0 answered with 502, 1 cut")],
)
def test_log_says_what_a_death_cost(stack, how, cost):
    mark = stack.server.log.mark()
    pid = stack.server.workers()[0]
    with contextlib.suppress(Truncated):
        stack.server.request("GET", f"/die/{how}")
    line = rf"requests lost by worker \d+ \(pid {pid}\): 1 \({cost}\)"
    stack.server.log.wait_for(line, 5, since=mark)
    still_serves(stack.server)


def test_death_at_rest_costs_nothing(stack):
    mark = stack.server.log.mark()
    before = stack.server.workers()
    os.kill(before[0], signal.SIGKILL)
    stack.server.wait_workers(1, without=before)
    still_serves(stack.server)
    assert "requests lost" not in stack.server.log.after(mark)


@pytest.mark.fronts("all")
def test_death_in_a_request_behind_every_front(front):
    with front.connect() as client:
        assert client.request("GET", "/die/kill").status == 502
    assert front.request("GET", "/pid?number=next").header("X-Number") == "next"


@pytest.mark.fronts("http")
def test_death_in_the_body_cuts_the_connection(front):
    with front.connect() as client, pytest.raises(Truncated):
        client.request("GET", "/die/kill-in-body")
    assert front.request("GET", "/pid?number=next").header("X-Number") == "next"


def serving(server):
    """Which workers answer eight requests sent at once."""
    clients = [server.connect() for _ in range(8)]
    for client in clients:
        client.send(encode_request("GET", "/pid?ms=30"))
    found = {json.loads(client.response().text)[0] for client in clients}
    for client in clients:
        client.close()
    return found


def test_death_harms_no_other_request(start, tmp_path):
    server = start("hygiene:application", workers=2, threads=2)
    server.wait_workers(2)
    wait_until(lambda: len(serving(server)) == 2, "both workers to serve", 10)
    gate, log = tmp_path / "gate", tmp_path / "log"
    path = f"/hold?until={gate}&log={log}"
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        client.send(encode_request("GET", path))
    wait_until(lambda: log.exists() and log.read_text().count("called") == 4, "4 calls", 5)
    pids = [int(line.split()[1]) for line in log.read_text().splitlines() if "called" in line]
    assert len(set(pids)) == 2
    victim = pids[0]
    with server.connect() as queued:
        queued.send(encode_request("GET", "/pid?number=queued"))
        os.kill(victim, signal.SIGKILL)
        # The queued request is served by the new worker: it was nobody's yet.
        assert queued.response().header("X-Number") == "queued"
    gate.touch()
    answers = sorted(client.response().status for client in clients)
    for client in clients:
        client.close()
    lost = pids.count(victim)
    assert answers == [200] * (4 - lost) + [502] * lost
