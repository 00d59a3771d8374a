"""Bounded waits. Purpose: a test that waits for something outside its reach (a process to go, a
line to appear) says what it waits for, and fails with these words when the time is over.
"""

import time


class WaitedTooLong(AssertionError):
    """A condition did not come true in time."""


def wait_until(condition, what, seconds=10.0, interval=0.01):
    """Returns the first true value of `condition()`; raises `WaitedTooLong` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise WaitedTooLong(f"waited {seconds} s for: {what}")
        time.sleep(interval)
