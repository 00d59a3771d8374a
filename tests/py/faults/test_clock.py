"""The wall clock is set back and forth, days at a time: no request fails and no deadline moves,
since all of them go by the monotonic clock; dates and logs follow the wall.

The server and its workers run under libfaketime, which reads the offset of the wall clock from a
file; their monotonic clock is left alone, as it is when somebody sets the clock.
"""

import email.utils
import glob
import os
import re
import signal
import time

import pytest

from faults.drill import Footprint, Running, length
from harness.watch import wait_until

LIBRARY = "libfaketimeMT.so.1"
INFLIGHT = 64
# The application counts: under libfaketime Python's time.sleep() raises EINVAL, and asking for the
# time or for the lock of the interpreter is slow.
MIX = ({"path": "/work?spin=20000"}, {"path": "/work?spin=20000", "post": 2000})
DAY = 86_400
STEPS = (DAY, -DAY, 3600, -30 * DAY, 366 * DAY, -1, 1, 0)
KEEP_ALIVE = 2


@pytest.fixture
def clock(tmp_path):
    """The file that says how far the wall clock is off, and the environment that obeys it."""
    found = glob.glob(f"/usr/lib/*/faketime/{LIBRARY}") + glob.glob(f"/usr/lib/faketime/{LIBRARY}")
    assert found, "the clock drill needs libfaketime (Debian: apt-get install faketime)"
    return Clock(tmp_path / "clock", found[0])


class Clock:
    def __init__(self, file, library):
        self.file = file
        self.set(0)
        self.env = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds):
        fresh = self.file.with_suffix(".fresh")
        fresh.write_text(f"{seconds:+d}\n")
        os.replace(fresh, self.file)
        self.offset = seconds

    def is_told_by(self, moment):
        return abs(moment - (time.time() + self.offset)) < 3


def date_of(response):
    return email.utils.parsedate_to_datetime(response.header("Date")).timestamp()


@pytest.mark.timeout(length(short=60, full=300))
def test_clock_set_back_and_forth(start, clock, progress, figure, tmp_path):
    log = tmp_path / "access.log"
    options = ["--max-inflight", INFLIGHT, "--access-logfile", log]
    options += ["--access-logformat", "%(t)s %(m)s", "--keep-alive", KEEP_ALIVE]
    server = start("drilled:application", workers=2, threads=1, options=options, env=clock.env)
    server.wait_workers(2)
    assert clock.is_told_by(date_of(server.request("GET", "/?id=x")))
    with Running(server.address, 8, MIX) as load:
        load.wait_answers(100)
        before = Footprint.of(server)
        steps = STEPS * length(short=1, full=8)
        for number, offset in enumerate(steps):
            clock.set(offset)
            wait_until(
                lambda: clock.is_told_by(date_of(server.request("GET", "/?id=x"))),
                f"the Date header to follow {offset:+d} s",
                5,
            )
            wait_until(lambda: clock.is_told_by(last_logged(log)), "the access log to follow", 5)
            load.wait_answers(100)
            progress(f"{number + 1} of {len(steps)} steps")
        account = load.stop()
    figure(f"clock set {len(steps)} times by up to a year: {account}")
    assert account.failed() == 0 and account.retried == 0 and not any(account.closed.values())
    before.kept_from(server)


def last_logged(log):
    times = re.findall(r"^\[([^]]+)\]", log.read_text(), re.MULTILINE)
    return time.mktime(time.strptime(times[-1].split()[0], "%d/%b/%Y:%H:%M:%S"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("offset", [DAY, -DAY])
def test_deadlines_do_not_follow_the_wall_clock(start, clock, offset):
    options = ["--keep-alive", KEEP_ALIVE]
    server = start("drilled:application", workers=1, options=options, env=clock.env)
    with server.connect() as idle:
        assert idle.request("GET", "/?id=x").status == 200
        began = time.monotonic()
        clock.set(offset)
        with server.connect() as running:
            assert running.request("GET", "/work?id=x&spin=5000000").status == 200
        assert idle.is_silent(0.1), "an idle connection was closed since the clock was set"
        assert b"HTTP" not in idle.read_to_end()
        assert KEEP_ALIVE - 0.5 < time.monotonic() - began < KEEP_ALIVE + 3
    # Whoever waits for a new worker waits no longer either.
    (old,) = server.workers()
    os.kill(old, signal.SIGKILL)
    server.wait_workers(1, 5, without=[old])
    assert server.request("GET", "/?id=x").status == 200
