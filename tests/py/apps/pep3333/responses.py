"""Cases about start_response: its checks, its second call, exc_info, write()."""

import functools
import gc
import sys
import weakref

from shared import answer, record, token, wait_gate

from . import router

GOOD = [("Content-Type", "text/plain")]

# What start_response must refuse, by name: (status, headers).
REFUSED = {
    "status-bytes": (b"200 OK", GOOD),
    "status-number": (200, GOOD),
    "status-none": (None, GOOD),
    "status-empty": ("", GOOD),
    "status-word": ("abc", GOOD),
    "status-two-digits": ("20 OK", GOOD),
    "status-four-digits": ("2000 OK", GOOD),
    "status-negative": ("-20 OK", GOOD),
    "status-crlf": ("200 OK\r\nX-Evil: yes", GOOD),
    "status-lf": ("200 OK\nX-Evil: yes", GOOD),
    "status-nul": ("200 O\0K", GOOD),
    "status-wide": ("200 \u20ac", GOOD),
    "headers-tuple": ("200 OK", tuple(GOOD)),
    "headers-dict": ("200 OK", dict(GOOD)),
    "headers-none": ("200 OK", None),
    "header-list": ("200 OK", [["X-A", "b"]]),
    "header-string": ("200 OK", ["X-A: b"]),
    "header-one": ("200 OK", [("X-A",)]),
    "header-three": ("200 OK", [("X-A", "b", "c")]),
    "name-bytes": ("200 OK", [(b"X-A", "b")]),
    "name-number": ("200 OK", [(1, "b")]),
    "name-empty": ("200 OK", [("", "b")]),
    "name-space": ("200 OK", [("X A", "b")]),
    "name-trailing-space": ("200 OK", [("X-A ", "b")]),
    "name-colon": ("200 OK", [("X-A:", "b")]),
    "name-crlf": ("200 OK", [("X-A\r\nX-Evil", "b")]),
    "name-latin": ("200 OK", [("X-\u00e9", "b")]),
    "name-wide": ("200 OK", [("X-\u20ac", "b")]),
    "value-bytes": ("200 OK", [("X-A", b"b")]),
    "value-number": ("200 OK", [("Content-Length", 5)]),
    "value-none": ("200 OK", [("X-A", None)]),
    "value-cr": ("200 OK", [("X-A", "b\rX-Evil: yes")]),
    "value-lf": ("200 OK", [("X-A", "b\nX-Evil: yes")]),
    "value-crlf": ("200 OK", [("X-A", "b\r\nX-Evil: yes")]),
    "value-nul": ("200 OK", [("X-A", "b\0c")]),
    "value-control": ("200 OK", [("X-A", "b\x07c")]),
    "value-wide": ("200 OK", [("X-A", "\u20ac")]),
    "length-word": ("200 OK", [("Content-Length", "five")]),
    "length-negative": ("200 OK", [("Content-Length", "-5")]),
    "length-plus": ("200 OK", [("Content-Length", "+5")]),
    "length-empty": ("200 OK", [("Content-Length", "")]),
    "length-list": ("200 OK", [("Content-Length", "5, 5")]),
    "length-repeated": ("200 OK", [("Content-Length", "5"), ("content-length", "6")]),
    "length-huge": ("200 OK", [("Content-Length", "9" * 40)]),
    "hop-connection": ("200 OK", [("Connection", "close")]),
    "hop-connection-case": ("200 OK", [("cOnNeCtIoN", "keep-alive")]),
    "hop-keep-alive": ("200 OK", [("Keep-Alive", "timeout=5")]),
    "hop-proxy-authenticate": ("200 OK", [("Proxy-Authenticate", "Basic")]),
    "hop-proxy-authorization": ("200 OK", [("Proxy-Authorization", "Basic")]),
    "hop-te": ("200 OK", [("TE", "trailers")]),
    "hop-trailers": ("200 OK", [("Trailers", "X-A")]),
    "hop-transfer-encoding": ("200 OK", [("Transfer-Encoding", "chunked")]),
    "hop-upgrade": ("200 OK", [("Upgrade", "h2c")]),
}


@router.case
def _refused(environ, start_response):
    """Calls start_response with what it must refuse; then recovers by exc_info and reports."""
    status, headers = REFUSED[environ["PATH_INFO"].rpartition("/")[2]]
    try:
        start_response(status, headers)
    except Exception as error:
        report = "refused " + type(error).__name__
        start_response("200 OK", GOOD, sys.exc_info())
        return [report.encode()]
    return [b"accepted"]


@router.case
def _refused_uncaught(environ, start_response):
    """The same without catching: the client gets a 500."""
    status, headers = REFUSED[environ["PATH_INFO"].rpartition("/")[2]]
    start_response(status, headers)
    return [b"accepted"]


@router.case
def _status(environ, start_response):
    """The status line that the query asks for (percent-decoded)."""
    import urllib.parse

    start_response(urllib.parse.unquote(environ["QUERY_STRING"], "latin-1"), list(GOOD))
    return [b"body"]


@router.case
def _many_headers(environ, start_response):
    """Repeated, latin-1 and oddly cased header fields, in this order."""
    start_response(
        "200 OK",
        [
            ("Content-Type", "text/plain"),
            ("Set-Cookie", "a=1; Path=/"),
            ("Set-Cookie", "b=2"),
            ("X-Latin", "caf\u00e9 \u00ff"),
            ("x-lOwEr", "kept"),
            ("X-Empty", ""),
            ("X-Tab", "a\tb"),
            ("Set-Cookie", "c=3"),
            ("X-Long", "v" * 8000),
        ],
    )
    return [b"body"]


@router.case
def _own_date(environ, start_response):
    """States Date and Server by itself."""
    start_response(
        "200 OK", [*GOOD, ("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("SERVER", "of-the-app")]
    )
    return [b"body"]


@router.case
def _second_start(environ, start_response):
    """A second call without exc_info: an error, whatever became of the first."""
    first = environ["PATH_INFO"].rpartition("/")[2]
    try:
        if first == "good":
            start_response("200 First", list(GOOD))
        else:
            start_response("200 First", [("X-A", "b\r\n")])
    except Exception:
        pass
    try:
        start_response("200 Second", list(GOOD))
        report = "accepted"
    except Exception as error:
        report = "refused " + type(error).__name__
        start_response("200 Third", list(GOOD), sys.exc_info())
    return [report.encode()]


@router.case
def _exc_info_before(environ, start_response):
    """exc_info before any output replaces status and headers whole."""
    start_response("200 OK", [*GOOD, ("X-First", "yes"), ("Content-Length", "1000")])
    try:
        raise ValueError("handled")
    except ValueError:
        start_response("503 Replaced", [("X-Second", "yes")], sys.exc_info())
    return [b"replaced"]


@router.case
def _exc_info_generator(environ, start_response):
    """The same from inside a generator, after an empty piece."""
    start_response("200 OK", [*GOOD, ("X-First", "yes")])
    yield b""
    try:
        raise ValueError("handled")
    except ValueError:
        start_response("503 Replaced", [("X-Second", "yes")], sys.exc_info())
    yield b"replaced"


@router.case
def _exc_info_after(environ, start_response):
    """exc_info after output raises the very exception, with its traceback."""
    start_response("200 OK", list(GOOD))
    yield b"sent"
    wait_gate(token(environ))
    original = ValueError("the original")
    try:
        try:
            raise original
        except ValueError:
            start_response("500 Too Late", list(GOOD), sys.exc_info())
            record(token(environ), "start_response returned")
    except ValueError as error:
        frames = 0
        trace = error.__traceback__
        while trace:
            frames += 1
            trace = trace.tb_next
        record(token(environ), {"same": error is original, "frames": frames})
        raise


@router.case
def _exc_info_leak(environ, start_response):
    """Whether the frame of a handled exception is let go when the call returns."""

    class Canary:
        pass

    def fail():
        canary = Canary()
        references.append(weakref.ref(canary))
        raise ValueError("handled")

    references = []
    gc.disable()
    try:
        try:
            fail()
        except ValueError:
            start_response("200 OK", list(GOOD), sys.exc_info())
        alive = references[0]() is not None
    finally:
        gc.enable()
    return [b"kept" if alive else b"let go"]


@router.case
def _lazy(environ, start_response):
    """A generator: start_response is called during the first next()."""
    start_response("404 Lazy", [*GOOD, ("X-Lazy", "yes")])
    yield b"lazy"


@router.case
def _write(environ, start_response):
    """write() before, and a piece after."""
    write = start_response("200 OK", list(GOOD))
    write(b"one ")
    write(b"two ")
    return [b"three"]


@router.case
def _write_only(environ, start_response):
    """All of the body by write(), with a stated length."""
    write = start_response("200 OK", [*GOOD, ("Content-Length", "7")])
    write(b"one ")
    write(b"two")
    return []


@router.case
def _write_in_iteration(environ, start_response):
    """write() between pieces keeps its place."""
    write = start_response("200 OK", list(GOOD))
    yield b"one "
    write(b"two ")
    yield b"three"


@router.case
def _write_sends(environ, start_response):
    """write() has sent its bytes when it returns: the client reads them while we stand still."""
    write = start_response("200 OK", [*GOOD, ("X-Accel-Buffering", "no")])
    write(b"first")
    wait_gate(token(environ))
    write(b" second")
    return []


@router.case
def _write_kinds(environ, start_response):
    """write() takes bytes and nothing else."""
    write = start_response("200 OK", list(GOOD))
    report = []
    for value in ("text", None, 7, ["list"]):
        try:
            write(value)
            report.append("accepted")
        except TypeError:
            report.append("TypeError")
        except Exception as error:
            report.append(type(error).__name__)
    return [" ".join(report).encode()]


@router.case
def _write_past_length(environ, start_response):
    """write() past the stated Content-Length is an error in the application."""
    write = start_response("200 OK", [*GOOD, ("Content-Length", "4")])
    write(b"1234")
    try:
        write(b"5678")
        record(token(environ), "accepted")
    except Exception as error:
        record(token(environ), "refused " + type(error).__name__)
    return []


@router.case
def _write_large(environ, start_response):
    """A megabyte in one write()."""
    write = start_response("200 OK", list(GOOD))
    write(b"w" * 1_000_000)
    return [b"end"]


# Applications of every shape: what may stand for `app` in `app(environ, start_response)`.


class Instance:
    def __call__(self, environ, start_response):
        start_response("200 OK", list(GOOD))
        return [b"instance"]

    def method(self, environ, start_response):
        start_response("200 OK", list(GOOD))
        return [b"method"]


class Class:
    def __init__(self, environ, start_response):
        start_response("200 OK", list(GOOD))

    def __iter__(self):
        yield b"class"


def positional(any_name, another_name, *, unused=None):
    another_name("200 OK", list(GOOD))
    return [b"positional"]


SHAPES = {
    "instance": Instance(),
    "method": Instance().method,
    "class": Class,
    "positional": positional,
    "partial": functools.partial(lambda extra, e, s: positional(e, s), None),
    "lambda": lambda e, s: positional(e, s),
}


@router.case
def _shape(environ, start_response):
    return SHAPES[environ["PATH_INFO"].rpartition("/")[2]](environ, start_response)


@router.case
def _returned(environ, start_response):
    """What start_response returned."""
    write = start_response("200 OK", list(GOOD))
    return [b"callable" if callable(write) else repr(write).encode()]


@router.case
def _mutate_after(environ, start_response):
    """Changes its list after the call: what was said stays said."""
    headers = [*GOOD, ("X-A", "first")]
    start_response("200 OK", headers)
    headers.clear()
    return answer(lambda *_: None, "body")
