"""Stops one thread of a process, as nothing but a debugger can. Purpose: an event loop that hangs
while the rest of its server runs.
"""

import ctypes
import os

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000  # waitpid: threads too

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_ulong, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def threads(pid, name):
    """Numbers of the threads of that name."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="ascii") as comm:
            if comm.read().strip() == name:
                found.append(int(thread))
    return found


class Frozen:
    """A thread that stands still inside the block. Whoever froze it must thaw it: ptrace knows
    only the thread that attached.
    """

    def __init__(self, thread):
        self.thread = thread

    def __enter__(self):
        _call(PTRACE_SEIZE, self.thread)
        _call(PTRACE_INTERRUPT, self.thread)
        os.waitpid(self.thread, WALL)
        return self

    def __exit__(self, *_):
        if _ptrace(PTRACE_DETACH, self.thread, None, None) == -1:
            # It ended meanwhile, and its process is not gone before we have heard of that.
            os.waitpid(self.thread, WALL)


def _call(request, thread):
    if _ptrace(request, thread, None, None) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
