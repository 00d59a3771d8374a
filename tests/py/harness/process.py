"""What /proc says about a process and its children. Purpose: the tests of process hygiene (signals,
limits, groups, memory) judge by the kernel's word, not by the server's.
"""

import os
from pathlib import Path


def status(pid):
    """The fields of /proc/PID/status as a dict of str; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def is_alive(pid):
    """Whether the process exists and is not a zombie."""
    state = status(pid).get("State", "Z")
    return not state.startswith(("Z", "X"))


def children(pid):
    """Direct children of a process, over all its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def pss_bytes(pid):
    """Proportional set size: memory of the process, shared pages counted by their share."""
    return _rollup(pid, "Pss:")


def anonymous_bytes(pid):
    """Private memory of the process that no file backs: what its own allocations cost."""
    return _rollup(pid, "Anonymous:")


def _rollup(pid, name):
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} line for process {pid}")


def descriptors(pid):
    """What each open descriptor of a process points at."""
    found = {}
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found[int(entry.name)] = os.readlink(entry.path)
        except FileNotFoundError:
            continue
    return found


def signal_set(mask):
    """The signal numbers of a hexadecimal mask of /proc/PID/status, without 32 and 33: they are
    the C library's own, and a child of CPython 3.13 may have them ignored in any program."""
    bits = int(mask, 16)
    own = (32, 33)
    return {number for number in range(1, 65) if bits & (1 << (number - 1))} - set(own)
