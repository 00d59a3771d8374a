"""`--warm-up`: requests that a worker answers to itself before it says READY.

Used by `_bootstrap.py` in the main thread, after the application was imported; shared by all
runtimes. No socket, no event loop and no slot takes part: the application is called here, with an
environ as complete as that of a request (PEP 3333), and its answer is read to the end and dropped.

A target is a path, or a URL where the application looks at the host (`ALLOWED_HOSTS`) or the scheme
(a redirect to https).

Invariant: what an application raises, an answer of 5xx and an answer that breaks PEP 3333 end in
`ApplicationError`: the worker does not become READY. A release that cannot answer the page its
operator chose would fail its first clients as well, and with a reload the old one still serves.
"""

import io
import sys
import traceback

HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")


def warm_up(application, targets, facts, loader):
    """Asks for each target once; raises ApplicationError."""
    for target in targets:
        status = ask(application, target, facts, loader)
        if status.startswith("5"):
            raise loader.ApplicationError(
                "the warm-up request GET %s was answered %s" % (target, status),
                "the worker does not serve before it can answer that; see what the application "
                "logs, or choose another --warm-up",
            )
        if status.startswith("4"):
            sys.stderr.write(
                "ringhorn: the warm-up request GET %s was answered %s; "
                "--warm-up http://HOST/path sets the host\n" % (target, status)
            )


def ask(application, target, facts, loader):
    """One request; returns the status."""
    answer = Answer()
    body = None
    try:
        try:
            body = application(environ_of(target, facts), answer.start_response)
            for piece in body:
                answer.write(piece)
        finally:
            if hasattr(body, "close"):
                body.close()
        if answer.status is None:
            raise RuntimeError("start_response was not called (PEP 3333)")
    except BaseException as error:
        raise loader.ApplicationError(
            "the warm-up request GET %s raised %s" % (target, type(error).__name__),
            "the worker does not serve before it can answer that; choose another with --warm-up",
            "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next)),
        ) from None
    return answer.status


class Answer:
    """Takes an answer and checks what a server relies on."""

    def __init__(self):
        self.status = None
        self.began = False

    def start_response(self, status, headers, exc_info=None):
        if exc_info is not None:
            if self.began:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self.status is not None:
            raise RuntimeError("start_response was called twice without exc_info (PEP 3333)")
        if not isinstance(status, str) or not status[:3].isdigit():
            raise ValueError("%r is no status such as '200 OK' (PEP 3333)" % (status,))
        for name, value in headers:
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError("header %r: %r is not made of two str (PEP 3333)" % (name, value))
        self.status = status
        return self.write

    def write(self, piece):
        if not isinstance(piece, bytes):
            raise TypeError("the body is %s, not bytes (PEP 3333)" % type(piece).__name__)
        if self.status is None:
            raise RuntimeError("the body came before start_response (PEP 3333)")
        self.began = self.began or bool(piece)


def environ_of(target, facts):
    """The environ of `GET target`."""
    scheme, host, target = split(target, facts)
    path, _, query = target.partition("?")
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path),
        "QUERY_STRING": query,
        "REQUEST_URI": target,
        "RAW_URI": target,
        "SERVER_NAME": facts["server_name"],
        "SERVER_PORT": facts["server_port"],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": facts["server_software"],
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": host,
        "HTTP_USER_AGENT": "ringhorn-warm-up",
        "HTTP_ACCEPT": "*/*",
        "ringhorn.request_id": "warm-up",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": facts["errors"],
        "wsgi.multithread": facts["multithread"],
        "wsgi.multiprocess": facts["multiprocess"],
        "wsgi.run_once": False,
        "wsgi.file_wrapper": facts["file_wrapper"],
    }


def split(target, facts):
    """(scheme, host, path and query) of a path or a URL."""
    for scheme in ("http", "https"):
        if target.startswith(scheme + "://"):
            host, slash, rest = target[len(scheme) + 3 :].partition("/")
            return scheme, host, slash + rest or "/"
    name, port = facts["server_name"], facts["server_port"]
    name = "[%s]" % name if ":" in name else name
    return "http", name if port == "80" else "%s:%s" % (name, port), target


def unquote(path):
    """`%41` becomes `A`; bytes beyond ASCII are code points of latin-1 (PEP 3333)."""
    first, *rest = path.encode("utf-8").split(b"%")
    decoded = [first]
    for part in rest:
        if len(part) >= 2 and HEXADECIMAL.issuperset(part[:2]):
            decoded.append(bytes([int(part[:2], 16)]) + part[2:])
        else:
            decoded.append(b"%" + part)
    return b"".join(decoded).decode("latin-1")
