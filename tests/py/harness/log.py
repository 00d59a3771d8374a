"""Collects a process's output. Purpose: the process never blocks on its pipe, and tests can wait
for a line instead of sleeping.
"""

import re
import threading
import time

from .watch import WaitedTooLong

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Log:
    """The lines of a stream, read by a thread of its own."""

    def __init__(self, stream):
        self.lines = []
        self.condition = threading.Condition()
        self.ended = False
        self.thread = threading.Thread(target=self._collect, args=(stream,), daemon=True)
        self.thread.start()

    def _collect(self, stream):
        with stream:
            for raw in stream:
                line = COLOUR.sub("", raw.decode("utf-8", "backslashreplace").rstrip("\n"))
                with self.condition:
                    self.lines.append(line)
                    self.condition.notify_all()
        with self.condition:
            self.ended = True
            self.condition.notify_all()

    @property
    def text(self):
        with self.condition:
            return "\n".join(self.lines)

    def mark(self):
        """A position: `wait_for(..., since=mark)` looks only at lines after it."""
        with self.condition:
            return len(self.lines)

    def after(self, mark):
        """The text of the lines after a position."""
        with self.condition:
            return "\n".join(self.lines[mark:])

    def wait_for(self, pattern, seconds=10.0, since=0):
        """The match of the first line (after `since`) that the pattern is found in."""
        pattern = re.compile(pattern)
        deadline = time.monotonic() + seconds
        seen = since
        with self.condition:
            while True:
                for line in self.lines[seen:]:
                    if found := pattern.search(line):
                        return found
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    tail = "\n".join(self.lines[-30:])
                    state = "stream ended" if self.ended else f"waited {seconds} s"
                    raise WaitedTooLong(f"no line matches {pattern.pattern!r} ({state}):\n{tail}")
                self.condition.wait(left)
