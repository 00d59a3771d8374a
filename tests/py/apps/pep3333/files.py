"""Cases about wsgi.file_wrapper: files of all kinds, positions, and what becomes of close()."""

import io
import os
import tempfile

from shared import query, record, token

from . import router

CONTENT = bytes(range(256)) * 40


def real_file(content=CONTENT, at=0):
    handle = tempfile.TemporaryFile()
    handle.write(content)
    handle.seek(at)
    return handle


class Recording:
    """A file-like object with read() and close() only; its close() is recorded."""

    def __init__(self, name, content):
        self.name = name
        self.stream = io.BytesIO(content)

    def read(self, size=-1):
        return self.stream.read(size)

    def close(self):
        record(self.name, "close")


class NoClose:
    """A file-like object with read() only."""

    def __init__(self, content):
        self.stream = io.BytesIO(content)

    def read(self, size=-1):
        return self.stream.read(size)


class BadFileno(Recording):
    """Claims a descriptor it does not have."""

    def fileno(self):
        raise OSError("none")


def after_readline():
    """A buffered file whose Python position is far before its descriptor's."""
    handle = real_file(b"first line\n" + CONTENT)
    handle.readline()
    return handle


def pipe():
    """A descriptor that cannot seek."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(b"through a pipe")
    return os.fdopen(reading, "rb")


def files(name):
    return {
        "file": real_file,
        "file-at-100": lambda: real_file(at=100),
        "file-at-end": lambda: real_file(at=len(CONTENT)),
        "file-empty": lambda: real_file(b""),
        "file-large": lambda: real_file(b"0123456789abcdef" * 320_000),
        "file-after-readline": after_readline,
        "bytesio": lambda: io.BytesIO(CONTENT),
        "bytesio-at-100": lambda: seeked(io.BytesIO(CONTENT), 100),
        "recording": lambda: Recording(name, CONTENT),
        "no-close": lambda: NoClose(CONTENT),
        "bad-fileno": lambda: BadFileno(name, CONTENT),
        "pipe": pipe,
    }


def seeked(stream, position):
    stream.seek(position)
    return stream


@router.case
def _file(environ, start_response):
    """A wrapped file; `length` and `block` of the query are used when given."""
    parameters = query(environ)
    kind = environ["PATH_INFO"].rpartition("/")[2]
    headers = [("Content-Type", "application/octet-stream")]
    if "length" in parameters:
        headers.append(("Content-Length", parameters["length"]))
    handle = files(token(environ))[kind]()
    arguments = [int(parameters["block"])] if "block" in parameters else []
    wrapped = environ["wsgi.file_wrapper"](handle, *arguments)
    start_response("200 OK", headers)
    return wrapped


@router.case
def _file_facts(environ, start_response):
    """What the wrapper is like before it is returned; it does no I/O until then."""
    wrapper = environ["wsgi.file_wrapper"]
    with_close = Recording(token(environ), CONTENT)
    wrapped = wrapper(with_close, 512)
    facts = [
        f"untouched={with_close.stream.tell() == 0}",
        f"close={hasattr(wrapped, 'close')}",
        f"no-close={hasattr(wrapper(NoClose(CONTENT)), 'close')}",
        f"iterable={b''.join(wrapped) == CONTENT}",
    ]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(facts).encode()]


@router.case
def _file_in_middleware(environ, start_response):
    """A middleware iterates the wrapper by itself: it must be an ordinary iterable."""
    handle = Recording(token(environ), CONTENT)
    wrapped = environ["wsgi.file_wrapper"](handle, 1000)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])

    def upper():
        try:
            for piece in wrapped:
                yield piece.upper()
        finally:
            wrapped.close()

    return upper()


@router.case
def _file_dropped(environ, start_response):
    """Makes a wrapper and returns something else."""
    environ["wsgi.file_wrapper"](real_file())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"something else"]


@router.case
def _file_after_write(environ, start_response):
    """write() first, then the file."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"before ")
    return environ["wsgi.file_wrapper"](real_file(b"the file"))
