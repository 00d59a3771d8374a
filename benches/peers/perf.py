"""Instructions of a server, where the machine's counters can be read: few virtual ones allow it.

Place: `--instructions` of `run.py`; `measure.py` counts between the same two moments as the CPU
time. It attaches to the threads that exist then, and those they start. Off by default: counting
costs a little. Invariant: counting has begun when the constructor returns: perf acknowledges it.
"""

import os
import signal
import subprocess

EVENTS = {"instructions_user": "instructions:u", "instructions_kernel": "instructions:k"}


class CannotCount(Exception):
    pass


class Counter:
    def __init__(self, pids, events=None):
        self._events = events or EVENTS
        command_read, command_write = os.pipe()
        ack_read, ack_write = os.pipe()
        argv = [
            "perf", "stat", "-x", ",", "-e", ",".join(self._events.values()),
            "-p", ",".join(map(str, pids)),
            "--delay", "-1", "--control", f"fd:{command_read},{ack_write}",
        ]  # fmt: skip
        self._child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "LC_ALL": "C"}, pass_fds=(command_read, ack_write),
        )  # fmt: skip
        os.close(command_read)
        os.close(ack_write)
        with (
            open(command_write, "w", encoding="ascii") as commands,
            open(ack_read, encoding="ascii") as acks,
        ):
            commands.write("enable\n")
            commands.flush()
            answer = acks.readline()
        if not answer.startswith("ack"):
            _, text = self._child.communicate(timeout=10)
            raise CannotCount(f"perf did not start: {text.strip()[:200]}")

    def stop(self):
        """Counts by our names; empty when the machine counted nothing."""
        self._child.send_signal(signal.SIGINT)
        _, text = self._child.communicate(timeout=10)
        counts = {}
        for line in text.splitlines():
            fields = line.split(",")
            for name, event in self._events.items():
                if (
                    len(fields) > 2
                    and fields[2] == event
                    and fields[0].replace(".", "", 1).isdigit()
                ):
                    counts[name] = float(fields[0])
        return counts


def why_not():
    """Why instructions cannot be counted here, or an empty string."""
    argv = ["perf", "stat", "-x", ",", "-e", ",".join(EVENTS.values()), "true"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return "perf is not installed"
    if "<not supported>" in done.stderr:
        return "this machine has no instruction counter (perf: <not supported>)"
    if done.returncode or "<not counted>" in done.stderr:
        return f"perf stat failed: {done.stderr.strip()[:200]}"
    return ""
