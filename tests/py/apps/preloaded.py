"""An application that is imported once and forked (`--preload`): what is shared, what ran, and what
an application may do under it. Faults at import are asked for by the environment.
"""

import atexit
import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import shared

imported_by = os.getpid()
forked_in = []
marker = object()
signals_seen = []
settings = os.environ.get("PRELOADED", "").split()

os.register_at_fork(after_in_child=lambda: forked_in.append(os.getpid()))

if "raise" in settings:
    raise LookupError("no such release")
if "exit" in settings:
    os._exit(9)
if "hang" in settings:
    print("import hangs", file=sys.stderr, flush=True)
    threading.Event().wait()
if "slow" in settings:
    time.sleep(1)
if "thread" in settings:
    threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
if "refuse-fork" in settings:

    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = refuse
if "ignore-children" in settings:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if "handle-term" in settings:
    signal.signal(signal.SIGTERM, lambda number, frame: signals_seen.append(number))
if "hang-fork" in settings:
    os.register_at_fork(before=lambda: threading.Event().wait())
if "buffered" in settings:
    sys.stdout.write("written once")
if "atexit" in settings:
    atexit.register(lambda: print("atexit in", os.getpid(), file=sys.stderr, flush=True))

router = application = shared.Router()


@router.case
def _facts(environ, start_response):
    status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status"))
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgrp(),
        "imported by": imported_by,
        "forked in": forked_in,
        "marker": id(marker),
        "frozen": gc.get_freeze_count(),
        "gc": gc.isenabled(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "oom_score_adj": int(open("/proc/self/oom_score_adj").read()),
        "blocked": status["SigBlk"],
        "ignored": status["SigIgn"],
        "stdin": os.readlink("/proc/self/fd/0"),
        "descriptors": sorted(
            os.readlink(f"/proc/self/fd/{number}")
            for number in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{number}")
        ),
        "handlers": [
            getattr(signal.getsignal(number), "__name__", str(signal.getsignal(number)))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        ],
        "wakeup": wakeup_is_set(),
        "multiprocess": environ["wsgi.multiprocess"],
        "main": [sys.modules["__main__"].__name__, sys.argv],
    }
    return shared.answer(start_response, facts)


def wakeup_is_set():
    """Whether signals wake a waiting seat; asked in the main thread only."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    return descriptor >= 0


def _square(number):
    return os.getpid(), number * number


@router.case
def _children(environ, start_response):
    """Processes of the application's own: subprocess, fork, multiprocessing by fork and spawn."""
    said = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
    child = os.fork()
    if child == 0:
        os._exit(5)
    results = [said.stdout.strip(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            pid, square = pool.apply(_square, (7,))
            results += [square, pid != os.getpid()]
    return shared.answer(start_response, results)


@router.case
def _die(environ, start_response):
    os.kill(os.getpid(), signal.SIGKILL)


@router.case
def _exit(environ, start_response):
    os._exit(7)


@router.case
def _hold(environ, start_response):
    time.sleep(float(shared.query(environ)["seconds"]))
    return shared.answer(start_response, os.getpid())
