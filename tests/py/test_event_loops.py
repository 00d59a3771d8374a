"""Event loops that are no more: the server ends at once and says so; it serves nobody by halves."""

import signal
import time

from harness import process
from harness.freeze import Frozen, threads
from harness.watch import wait_until


def test_hanging_event_loop_ends_the_server(start):
    """A loop that is stopped where it stands, while all other threads run."""
    one = start("hygiene:application", options=["--event-loops", "2"], workers=2)
    workers = one.wait_workers(2)
    [loop] = threads(one.pid, "event-loop-1")
    with Frozen(loop):
        began = time.monotonic()
        one.log.wait_for("error: event loop 1 has not turned for 10s: the server ends", 25)
        assert 9 < time.monotonic() - began < 20
    assert one.wait(5) == 6
    assert "hint:" in one.log.text
    for pid in workers:
        wait_until(lambda pid=pid: not process.is_alive(pid), f"worker {pid} to end", 5)


def test_loop_that_hangs_for_a_while_is_waited_for(start):
    one = start("hygiene:application")
    [loop] = threads(one.pid, "event-loop-0")
    with Frozen(loop):
        time.sleep(5)
    assert one.request("GET", "/pid").status == 200


def test_stopped_server_goes_on(start):
    """SIGSTOP stops all its threads: nobody hangs, time merely passed."""
    one = start("hygiene:application")
    one.signal(signal.SIGSTOP)
    time.sleep(13)
    one.signal(signal.SIGCONT)
    time.sleep(2.5)
    assert one.request("GET", "/pid").status == 200
    assert one.process.poll() is None
