"""What a worker process is like from the inside; applications that fork, die and start others."""

import ctypes
import faulthandler
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from shared import Router, answer, hold, note, query

router = application = Router()
loaded_in_main_thread = threading.current_thread() is threading.main_thread()
signals_seen = []

CHILD_REPORT = """
import json, os, sys
lines = [line.rstrip() for line in open("/proc/self/status")]
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
print(json.dumps({
    "blocked": status["SigBlk"], "ignored": status["SigIgn"],
    "descriptors": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                          if fd not in ("0", "1", "2") and os.path.islink(f"/proc/self/fd/{fd}")),
}))
"""

if loaded_in_main_thread:
    signal.signal(signal.SIGUSR2, lambda number, frame: signals_seen.append(number))


@router.case
def _inside(environ, start_response):
    """The facts of the process that the kernel and the interpreter state."""
    status = Path("/proc/self/status").read_text()
    main = sys.modules["__main__"]
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgrp(),
        "status": dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        "stdin": os.readlink("/proc/self/fd/0"),
        "stdout": os.readlink("/proc/self/fd/1"),
        "faulthandler": faulthandler.is_enabled(),
        "executable": sys.executable,
        "path": sys.path,
        "main": [getattr(main, "__name__", None), getattr(main, "__file__", None)],
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "loaded in main thread": loaded_in_main_thread,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "affinity": sorted(os.sched_getaffinity(0)),
    }
    return answer(start_response, facts)


@router.case
def _pid(environ, start_response):
    """The worker's process id and the request's own number; `ms` of sleep in between."""
    parameters = query(environ)
    time.sleep(int(parameters.get("ms", "0")) / 1000)
    number = parameters.get("number", "")
    return answer(start_response, [os.getpid(), number], headers=[("X-Number", number)])


@router.case
def _hold(environ, start_response):
    """Notes its call with its process id, stands still until the file `until` exists, answers."""
    note(environ, f"called {os.getpid()}")
    hold(environ)
    note(environ, "done")
    return answer(start_response, "held")


@router.case
def _hold_in_body(environ, start_response):
    """The same after a first piece of the body."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")])
    yield b"first"
    note(environ, f"called {os.getpid()}")
    hold(environ)
    yield b"second"


@router.case
def _die(environ, start_response):
    """Ends the process in one of the ways there are."""
    how = environ["PATH_INFO"].rpartition("/")[2]
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)
    elif how == "exit":
        os._exit(3)
    elif how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "kill-in-body":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return dying()
    return answer(start_response, "survived " + how)


def dying():
    yield b"a piece"
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


def wait_child(pid):
    """The child's wait status; killed when it does not end."""
    for _ in range(500):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "the child did not end"


@router.case
def _fork(environ, start_response):
    """Forks; the child leaves in the way that the path names, the parent answers how it went."""
    how = environ["PATH_INFO"].rpartition("/")[2]
    pid = os.fork()
    if pid:
        return answer(start_response, {"status": wait_child(pid)})
    if how == "exit":
        os._exit(0)
    elif how == "sys-exit":
        sys.exit(0)
    elif how == "raise":
        raise RuntimeError("in the forked child")
    elif how == "write":
        start_response("200 OK", [])(b"written by the child")
    elif how == "read":
        environ["wsgi.input"].read()
    elif how == "yield":
        start_response("200 OK", [])
        return iter([b"yielded by", b"the child"])
    return answer(start_response, "returned by the child")


@router.case
def _fork_and_leave(environ, start_response):
    """Leaves a child behind that outlives the request."""
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
    return answer(start_response, "left")


@router.case
def _subprocess(environ, start_response):
    """What a child process is given."""
    command = [sys.executable, "-c", CHILD_REPORT]
    found = subprocess.run(command, capture_output=True, check=True, timeout=20)
    return answer(start_response, json.loads(found.stdout))


def square(number):
    """What children of multiprocessing do."""
    return number * number


def put_square(queue, number):
    queue.put(square(number))


@router.case
def _multiprocessing(environ, start_response):
    """A Process and a Pool by the start method that the path names."""
    context = multiprocessing.get_context(environ["PATH_INFO"].rpartition("/")[2])
    queue = context.SimpleQueue()
    process = context.Process(target=put_square, args=(queue, 7))
    process.start()
    result = queue.get()
    process.join(10)
    with context.Pool(2) as pool:
        squares = pool.map(square, range(5))
    return answer(start_response, [result, process.exitcode, squares])


@router.case
def _threads(environ, start_response):
    """Threads that the application starts work as anywhere."""
    found = []
    threads = [threading.Thread(target=found.append, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    return answer(start_response, sorted(found))


@router.case
def _signal_self(environ, start_response):
    """A Python signal handler of the application runs, whichever thread serves."""
    before = len(signals_seen)
    os.kill(os.getpid(), signal.SIGUSR2)
    deadline = time.monotonic() + 5
    while len(signals_seen) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer(start_response, len(signals_seen) > before)


@router.case
def _exit(environ, start_response):
    """SystemExit and friends, from the call or from the iteration."""
    kind, where = environ["PATH_INFO"].split("/")[2:4]
    error = {"system-exit": SystemExit, "keyboard-interrupt": KeyboardInterrupt}[kind]
    if where == "call":
        raise error(3)
    start_response("200 OK", [("Content-Type", "text/plain")])

    def pieces():
        raise error(3)
        yield b""

    return pieces()
