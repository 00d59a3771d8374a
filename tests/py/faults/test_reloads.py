"""Reloads under load: no request fails, no connection is closed and nobody waits longer than
without, however long the import takes and whatever a broken release does.
"""

import statistics
import time

import pytest

from faults.drill import Footprint, Running, has_all_slots, length
from harness import fronts
from harness.release import Release, ask
from harness.server import APPS

CLIENTS = 64
INFLIGHT = 256
RELOADS = length(short=3, full=20)
# What the import takes; long enough to span many requests.
IMPORT_SECONDS = length(short=0.5, full=2.0)
# The longest wait of a client is so much longer in a reload than in as long a time without, by the
# medians of all reloads: the promise, and what the bounded version allows beside other tests on the
# same two cores. One longest wait alone says more of the machine's other work than of the server.
STALL_MS = length(short=400, full=50)
SLEEP = "import time\ntime.sleep({seconds})\n"
BURN = """import time
until = time.thread_time() + {seconds}
while time.thread_time() < until:
    pass
"""
IMPORTS = {"sleeps": SLEEP, "burns CPU": BURN}
BROKEN = {
    "raises": "raise ValueError('this release is broken')\n",
    "exits": "import os\nos._exit(7)\n",
    "segfaults": "import ctypes\nctypes.string_at(0)\n",
    "hangs": "import time\ntime.sleep(3600)\n",
}
MIX = ({"path": "/work?ms=1"}, {"path": "/work?ms=2", "size": 0})


APPLICATION = f"""
import sys
sys.path.insert(0, {str(APPS)!r})
import drilled
drilled.release = "{{release}}"
from drilled import application
"""


class Drilled:
    """A server of an application on disk that a drill replaces by one release after the other."""

    def __init__(self, folder, python, options=()):
        self.disk = Release(folder)
        self.write(1)
        options = ["--chdir", folder, "--max-inflight", INFLIGHT, *options]
        self.stack = fronts.Stack(
            "app:application", python=python, workers=2, threads=2, options=options
        )

    def __enter__(self):
        self.stack.start()
        self.server.wait_workers(2)
        return self

    def __exit__(self, *_):
        self.stack.stop()

    @property
    def server(self):
        return self.stack.server

    def write(self, release, before=""):
        """Puts a release in place; `before` is the beginning of its import."""
        self.disk.write_text(before + APPLICATION.format(release=release))


@pytest.fixture
def drilled(tmp_path, interpreter):
    with Drilled(tmp_path, interpreter) as one:
        yield one


@pytest.mark.timeout(length(short=80, full=600))
@pytest.mark.parametrize("how", IMPORTS)
@pytest.mark.parametrize("name", ["direct-http-tcp", "nginx-proxy-unix"])
def test_reloads_in_a_row(drilled, progress, figure, tmp_path, how, name):
    server = drilled.server
    front = drilled.stack.front(name)
    with Running(front.address, CLIENTS, MIX) as load:
        load.wait_answers(500)
    before = Footprint.of(server)
    with Running(front.address, CLIENTS, MIX) as load:
        load.wait_answers(500)
        for number in range(2, RELOADS + 2):
            drilled.write(number, IMPORTS[how].format(seconds=IMPORT_SECONDS))
            # As long as the reload takes at least, so that the longest waits can be compared.
            load.window(f"without {number}")
            time.sleep(2 * IMPORT_SECONDS)
            load.window(f"with {number}")
            code, said = ask(server, "reload")
            assert code == 0, said
            progress(f"{number - 1} of {RELOADS} reloads")
        # What was answered before the command returned may lie in the client's sockets still.
        load.wait_answers(2 * CLIENTS)
        load.window("after")
        load.wait_answers(200)
        account = load.stop()
    without, beside = (
        [account.longest(f"{word} {number}") for number in range(2, RELOADS + 2)]
        for word in ("without", "with")
    )
    more = statistics.median(beside) - statistics.median(without)
    figure(
        f"{RELOADS} reloads, import {how} {IMPORT_SECONDS} s, {name}: {account}; longest wait in "
        f"a reload {more:+.0f} ms of {statistics.median(without):.0f} ms without (medians; at "
        f"most {max(beside):.0f} with, {max(without):.0f} without)"
    )
    assert account.failed() == 0 and account.retried == 0
    assert not any(account.closed.values())
    assert set(account.releases) == {str(number) for number in range(1, RELOADS + 2)}
    assert account.windows["after"]["releases"].keys() == {str(RELOADS + 1)}
    assert more < STALL_MS
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)


@pytest.mark.timeout(length(short=60, full=300))
@pytest.mark.parametrize("strategy", ["rolling", "all"])
def test_reload_onto_broken_releases(tmp_path, interpreter, figure, strategy):
    options = ["--startup-timeout", "1.5", "--reload-strategy", strategy]
    with Drilled(tmp_path, interpreter, options=options) as drilled:
        server = drilled.server
        with Running(server.address, CLIENTS, MIX) as load:
            load.wait_answers(100)
        before, workers = Footprint.of(server), server.workers()
        with Running(server.address, CLIENTS, MIX) as load:
            load.wait_answers(300)
            for number, (how, text) in enumerate(BROKEN.items(), 2):
                mark = server.log.mark()
                drilled.write(number, text)
                code, said = ask(server, "reload")
                assert code != 0 and "reload failed" in said and "hint:" in said, f"{how}: {said}"
                server.log.wait_for("reload failed", 5, since=mark)
                load.wait_answers(100)
            account = load.stop()
        figure(f"reloads onto {len(BROKEN)} broken releases, {strategy}: {account}")
        assert account.failed() == 0 and account.retried == 0
        assert not any(account.closed.values())
        assert set(account.releases) == {"1"}
        assert server.workers() == workers
        # The next one that works is taken.
        drilled.write(9)
        assert ask(server, "reload")[0] == 0
        assert server.request("GET", "/?id=x").header("X-Release") == "9"
        before.kept_from(server)
