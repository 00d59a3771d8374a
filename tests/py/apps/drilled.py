"""The application of the fault drills (`tests/py/faults`): every answer begins with the id of its
request, and the path says what happens on the way.
"""

import ctypes
import itertools
import os
import resource
import threading
import time
import urllib.parse

from shared import hold, note

# What `X-Release` says: a drill's own module sets it, so that a client sees who answered.
release = os.environ.get("DRILL_RELEASE", "1")
never = threading.Lock()
never.acquire()


def application(environ, start_response):
    parameters = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    action = ACTIONS[environ["PATH_INFO"]]
    if environ["REQUEST_METHOD"] == "POST":
        while environ["wsgi.input"].read(65536):
            pass
    action(environ, parameters)
    body = parameters.get("id", "").encode() + b"\n" + b"x" * int(parameters.get("size", "0"))
    headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(body))),
        ("X-Release", release),
    ]
    start_response("200 OK", headers)
    count = int(parameters.get("pieces", "1"))
    return [body] if count == 1 else slowly(body, count, milliseconds(parameters, "ms"))


def slowly(body, count, seconds):
    """The body in `count` pieces, with a pause before each but the first."""
    step = -(-len(body) // count)
    for start in range(0, len(body), step):
        if start:
            time.sleep(seconds)
        yield body[start : start + step]


def milliseconds(parameters, name):
    return float(parameters.get(name, "0")) / 1000


def burn(seconds):
    """Holds the interpreter's lock and a core."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def work(environ, parameters):
    """Sleeps `ms` (before each later piece, if there are several) and burns `burn` milliseconds,
    or counts to `spin`, which asks no clock."""
    if ms := milliseconds(parameters, "ms"):
        time.sleep(ms)
    if "burn" in parameters:
        burn(milliseconds(parameters, "burn"))
    for _ in range(int(parameters.get("spin", "0"))):
        pass


def held(environ, parameters):
    """Stands still until a file exists, and says in another that it does."""
    note(environ, f"called {os.getpid()}")
    hold(environ)


def segfault(environ, parameters):
    ctypes.string_at(0)


def leave(environ, parameters):
    os._exit(3)


def overflow(environ, parameters):
    """Overflows the C stack in earnest: the C library's regcomp calls itself for each bracket."""
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 1_000_000, 1)


def bomb(environ, parameters):
    """Takes memory, and writes to it, until there is none; a drill allows far less than 2 GiB."""
    hoard = []
    for _ in range(128):
        hoard.append(bytearray(b"x") * (1 << 24))
    raise AssertionError("there was no limit")


def hang_in_sleep(environ, parameters):
    time.sleep(60)


def hang_in_lock(environ, parameters):
    never.acquire()


def hang_in_native_code(environ, parameters):
    """C code that let go of the interpreter's lock, in a wait that no signal ends."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def hang_in_native_loop(environ, parameters):
    """A loop in C that keeps the interpreter's lock and asks for no signal."""
    all(itertools.repeat(True))


ACTIONS = {
    "/hang-in-sleep": hang_in_sleep,
    "/hang-in-lock": hang_in_lock,
    "/hang-in-native-code": hang_in_native_code,
    "/hang-in-native-loop": hang_in_native_loop,
    "/": work,
    "/work": work,
    "/hold": held,
    "/segfault": segfault,
    "/exit": leave,
    "/overflow": overflow,
    "/bomb": bomb,
}

if mib := os.environ.get("DRILL_ADDRESS_SPACE_MIB"):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + (int(mib) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
