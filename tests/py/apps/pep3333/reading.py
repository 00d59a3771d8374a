"""Cases about wsgi.input: the test says which calls to make, the case reports what they gave."""

import hashlib
import json
import threading

from shared import answer, record, token

from . import router


def call(stream, operation):
    """One call: ["read"], ["read", 5], ["readlines", 3], ["iterate"], ["next"]…"""
    name, *arguments = operation
    if name == "iterate":
        result = list(stream)
    elif name == "next":
        result = next(iter(stream), b"")
    else:
        result = getattr(stream, name)(*arguments)
    if isinstance(result, list):
        return [piece.decode("latin-1") for piece in result]
    return result.decode("latin-1") if isinstance(result, bytes) else repr(result)


@router.case
def _read(environ, start_response):
    """Makes the calls of the header X-Calls and reports each result (bytes as latin-1)."""
    calls = json.loads(environ["HTTP_X_CALLS"])
    results = [call(environ["wsgi.input"], operation) for operation in calls]
    return answer(
        start_response,
        {
            "results": results,
            "length": environ.get("CONTENT_LENGTH"),
            "coding": environ.get("HTTP_TRANSFER_ENCODING"),
            "terminated": environ.get("wsgi.input_terminated"),
        },
    )


@router.case
def _ignore_input(environ, start_response):
    """Answers without reading anything."""
    return answer(start_response, "ignored")


@router.case
def _read_some(environ, start_response):
    """Reads three bytes of the input and no more."""
    return answer(start_response, environ["wsgi.input"].read(3).decode("latin-1"))


@router.case
def _digest(environ, start_response):
    """Reads all of the input in pieces and answers its size and SHA-256."""
    digest = hashlib.sha256()
    size = 0
    try:
        while piece := environ["wsgi.input"].read(65536):
            digest.update(piece)
            size += len(piece)
    except Exception as error:
        record(token(environ), {"error": type(error).__name__, "os": isinstance(error, OSError)})
        raise
    record(token(environ), {"size": size})
    return answer(
        start_response,
        {
            "size": size,
            "sha256": digest.hexdigest(),
            "length": environ.get("CONTENT_LENGTH"),
            "terminated": environ.get("wsgi.input_terminated"),
        },
    )


@router.case
def _close_streams(environ, start_response):
    """Closes both streams, which an application must not do and servers must survive."""
    for name in ("wsgi.input", "wsgi.errors"):
        close = getattr(environ[name], "close", None)
        if close is not None:
            close()
    return answer(start_response, "closed")


@router.case
def _use_after_end(environ, start_response):
    """Keeps the request's objects, and uses them when the request is long over."""
    name = token(environ)
    stream = environ["wsgi.input"]
    write = start_response("200 OK", [("Content-Length", "4"), ("Content-Type", "text/plain")])
    over = threading.Event()

    def attempt(what, function, *arguments):
        try:
            function(*arguments)
            outcome = "accepted"
        except BaseException as error:
            outcome = type(error).__name__
        record(name, [what, outcome])

    def later():
        over.wait(10)
        # `close` runs before the request is given back; the test opens the gate after the answer.
        from shared import wait_gate

        wait_gate(name)
        attempt("read", stream.read)
        attempt("readline", stream.readline)
        attempt("readlines", stream.readlines)
        attempt("iterate", lambda: list(stream))
        attempt("start_response", start_response, "200 OK", [])
        attempt("write", write, b"late")

    threading.Thread(target=later, daemon=True).start()

    class Body:
        def __iter__(self):
            return iter([b"body"])

        def close(self):
            over.set()

    return Body()
