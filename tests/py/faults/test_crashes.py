"""Applications that end their process under load, each in another way: the clients see as many
failures as the server says that the deaths cost; memory that runs out costs its request alone.
"""

import contextlib
import os
from pathlib import Path

import pytest

from faults.drill import Footprint, Running, has_all_slots, length, lost_by_log
from harness.client import Truncated
from harness.watch import wait_until

WORKERS = 3
THREADS = 2
INFLIGHT = 64
TIMES = length(short=4, full=40)
MIX = ({"path": "/work?ms=1"}, {"path": "/work?ms=2&pieces=2&size=9000", "size": 9000})


@pytest.fixture
def drilled(start):
    def serve(**settings):
        options = ["--max-inflight", INFLIGHT]
        server = start(
            "drilled:application", workers=WORKERS, threads=THREADS, options=options, **settings
        )
        server.wait_workers(WORKERS)
        with Running(server.address, 16, MIX) as load:
            load.wait_answers(300)
        return server

    return serve


def fatal(server, path):
    """Sends the request that ends its worker: the answer's status, "cut" if it had none."""
    with contextlib.suppress(Truncated), server.connect(30) as client:
        return client.request("GET", path).status
    return "cut"


@pytest.mark.timeout(length(short=60, full=300))
@pytest.mark.parametrize("how", ["segfault", "exit", "overflow"])
def test_crash_costs_what_its_worker_ran(drilled, progress, figure, tmp_path, how):
    server = drilled()
    before, mark = Footprint.of(server), server.log.mark()
    with Running(server.address, 16, MIX) as load:
        for number in range(TIMES):
            workers = server.wait_workers(WORKERS, 20)
            load.wait_answers(20)
            assert fatal(server, f"/{how}?id=fatal") == 502
            wait_until(lambda old=workers: set(old) - set(server.workers()), "the death", 5)
            progress(f"{number + 1} of {TIMES}")
        server.wait_workers(WORKERS, 20)
        load.wait_answers(200)
        account = load.stop()
    lost = lost_by_log(server, mark)
    requests = sum(one[0] for one in lost.values())
    figure(f"{how} {TIMES} times: {account}; the log says {requests} lost, the culprits included")
    assert len(lost) == TIMES
    assert account.failed() == requests - TIMES
    assert all(one[0] <= THREADS for one in lost.values())
    assert set(account.kinds) <= {"ok", "502", "cut"} and not account.retried
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)


@pytest.mark.timeout(length(short=60, full=300))
def test_memory_bomb_under_rlimit_costs_its_request(drilled, figure, tmp_path):
    """RLIMIT_AS: the interpreter raises MemoryError, nothing dies."""
    server = drilled(env={"DRILL_ADDRESS_SPACE_MIB": "256"})
    before, mark, workers = Footprint.of(server), server.log.mark(), server.workers()
    with Running(server.address, 16, MIX) as load:
        for _ in range(TIMES):
            load.wait_answers(20)
            assert fatal(server, "/bomb?id=bomb") == 500
        load.wait_answers(200)
        account = load.stop()
    figure(f"memory bomb under RLIMIT_AS {TIMES} times: {account}, no worker died")
    assert account.failed() == 0
    assert server.log.after(mark).count("MemoryError") >= TIMES
    assert server.workers() == workers
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)


@contextlib.contextmanager
def memory_group(pids, limit):
    """Puts processes into a memory cgroup of their own below ours."""
    own = dict(
        line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    if "memory" in own:
        parent = Path(f"/sys/fs/cgroup/memory{own['memory']}")
        limit_file = "memory.limit_in_bytes"
    else:
        parent, limit_file = Path(f"/sys/fs/cgroup{own.get('', '/')}"), "memory.max"
    folder = parent / f"ringhorn-drill-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        if not (folder / limit_file).exists():
            pytest.skip(f"{parent} gives its children no memory limit")
        (folder / limit_file).write_text(str(limit))
        for pid in pids:
            (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(pid)
        wait_until(lambda: not (folder / "cgroup.procs").read_text().strip(), "the group", 10)
        folder.rmdir()


@pytest.mark.timeout(60)
def test_memory_bomb_under_a_cgroup_costs_its_worker(drilled, figure, tmp_path):
    """The kernel's OOM killer ends the worker as SIGKILL does."""
    server = drilled()
    before, mark = Footprint.of(server), server.log.mark()
    with Running(server.address, 16, MIX) as load:
        for _ in range(TIMES):
            load.wait_answers(20)
            workers = server.wait_workers(WORKERS, 20)
            with memory_group(workers, 96 << 20):
                assert fatal(server, "/bomb?id=bomb") == 502
                wait_until(lambda old=workers: set(old) - set(server.workers()), "the kill", 5)
        server.wait_workers(WORKERS, 20)
        account = load.stop()
    lost = lost_by_log(server, mark)
    requests = sum(one[0] for one in lost.values())
    figure(f"OOM kill of {len(lost)} workers: {account}; the log says {requests} lost")
    # The kernel may take another worker of the group too, before the one that grows.
    assert len(lost) >= TIMES
    assert account.failed() == requests - TIMES
    assert set(account.kinds) <= {"ok", "502", "cut"} and not account.retried
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)
