"""The applications all servers of `benches/peers` serve: plain WSGI, standard library only.

Place: the far end of a request; every server imports this module by `--pythonpath` or its like. Its
own folder keeps the names of the harness off the servers' `sys.path`. Invariants: each answer has
an exact Content-Length, so that no server has to choose a framing, and a body the harness knows to
the byte.
"""

import os
import time

MEBIBYTE = b"0123456789abcdef" * 65536
HELLO = b"Hello, world!\n"
SLOW_SECONDS = 0.2
SLEEP_SECONDS = 0.010


def _answer(start_response, body):
    start_response(
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))],
    )
    return [body]


def hello(environ, start_response):
    """The least an application can do."""
    return _answer(start_response, HELLO)


def sleeping(environ, start_response):
    """Waits 10 ms, as for a database, and holds its thread meanwhile."""
    time.sleep(SLEEP_SECONDS)
    return _answer(start_response, HELLO)


def mixed(environ, start_response):
    """`/slow` waits 200 ms; `/pid` waits 20 ms and names its process; all else answers at once."""
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(SLOW_SECONDS)
    elif path == "/pid":
        time.sleep(0.020)
        return _answer(start_response, b"%d\n" % os.getpid())
    return _answer(start_response, HELLO)


def mebibyte(environ, start_response):
    """A body of 1 MiB in one piece."""
    return _answer(start_response, MEBIBYTE)


def echo(environ, start_response):
    """The request's body as the response's; empty without one."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    return _answer(start_response, body)
