"""Cases about wsgi.errors and about applications that fail."""

from shared import answer, record, token

from . import router


@router.case
def _errors(environ, start_response):
    """Writes text of every kind to wsgi.errors."""
    errors = environ["wsgi.errors"]
    name = token(environ)
    errors.write(f"{name} plain\n")
    errors.write(f"{name} caf\u00e9 \u20ac \U0001f40f\n")
    errors.write(f"{name} surrogate \udc80\n")
    errors.writelines([f"{name} one\n", f"{name} two\n"])
    errors.flush()
    print(f"{name} print", file=errors)
    errors.flush()
    return answer(start_response, "written")


@router.case
def _raise_first(environ, start_response):
    """Raises before anything."""
    raise RuntimeError(token(environ) + " raised before start_response")


@router.case
def _raise_after_start(environ, start_response):
    """Raises after start_response, before any body."""
    start_response("200 OK", [("X-Lost", "yes"), ("Content-Length", "5")])
    raise RuntimeError(token(environ) + " raised after start_response")


@router.case
def _raise_in_iteration(environ, start_response):
    """Raises from the iterator before its first piece."""
    start_response("200 OK", [("X-Lost", "yes")])

    def pieces():
        if environ:
            raise RuntimeError(token(environ) + " raised before the first piece")
        yield b""

    return pieces()


@router.case
def _raise_after_piece(environ, start_response):
    """Raises when a piece of the body is already on its way."""
    headers = [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")]
    if "length" in environ["PATH_INFO"]:
        headers.append(("Content-Length", "100"))
    start_response("200 OK", headers)
    yield b"a piece"
    raise RuntimeError(token(environ) + " raised after a piece")


@router.case
def _raise_after_write(environ, start_response):
    """The same through write()."""
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"a piece")
    raise RuntimeError(token(environ) + " raised after write")


@router.case
def _raise_in_close(environ, start_response):
    """Its close() raises; the answer was whole before."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])

    class Body:
        def __iter__(self):
            return iter([b"body"])

        def close(self):
            record(token(environ), "close")
            raise RuntimeError(token(environ) + " raised in close")

    return Body()


class Unusual(BaseException):
    """Not an Exception: frameworks that catch those do not catch this."""


@router.case
def _raise_base(environ, start_response):
    """Raises what `except Exception` lets through."""
    kind = environ["PATH_INFO"].rpartition("/")[2]
    kinds = {
        "unusual": Unusual,
        "generator-exit": GeneratorExit,
        "system-exit": SystemExit,
        "keyboard-interrupt": KeyboardInterrupt,
        "stop-iteration": StopIteration,
        "memory-error": MemoryError,
        "unprintable": Unprintable,
    }
    raise kinds[kind](token(environ))


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


@router.case
def _recurse(environ, start_response):
    """Exhausts the stack."""
    return _recurse(environ, start_response)


@router.case
def _return(environ, start_response):
    """Returns or yields what is not an iterable of bytes."""
    kind = environ["PATH_INFO"].rpartition("/")[2]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return {
        "none": None,
        "number": 7,
        "text": "text",
        "list-of-text": ["text"],
        "list-of-numbers": [1, 2],
        "list-of-none": [None],
        "later-text": iter([b"", "text"]),
    }[kind]


@router.case
def _never_start(environ, start_response):
    """Forgets start_response."""
    return [b"body without a head"]


@router.case
def _never_start_empty(environ, start_response):
    """Forgets start_response and has no body either."""
    return []
