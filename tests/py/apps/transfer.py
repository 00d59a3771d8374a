"""Bodies large and slow, in both directions, with records of how far the application came."""

import hashlib
import sys
from pathlib import Path

from shared import Router, answer, hold, note, query, record, token, wait_gate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import bulk  # noqa: E402

router = application = Router()


@router.case
def _upload(environ, start_response):
    """Reads the input to its end in pieces; records the start, the first piece and the end."""
    name = token(environ)
    record(name, "called")
    stream = environ["wsgi.input"]
    found = hashlib.sha256()
    size = 0
    try:
        while piece := stream.read(65536):
            if size == 0:
                record(name, "first piece")
            found.update(piece)
            size += len(piece)
    except OSError as error:
        record(name, f"OSError after {size > 0}")
        raise error
    record(name, "end")
    facts = {
        "size": size,
        "sha256": found.hexdigest(),
        "length": environ.get("CONTENT_LENGTH"),
        "terminated": environ["wsgi.input_terminated"],
    }
    return answer(start_response, facts)


@router.case
def _upload_slowly(environ, start_response):
    """Reads nothing until its gate is open, then everything."""
    wait_gate(token(environ))
    return _upload(environ, start_response)


class Download:
    """A body in pieces that counts what was taken of it and records its close()."""

    def __init__(self, name, size):
        self.name = name
        self.stream = bulk.pieces(size)
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        piece = next(self.stream)
        self.taken += len(piece)
        return piece

    def close(self):
        record(self.name, {"taken": self.taken})


@router.case
def _download(environ, start_response):
    """`size` bytes in pieces; with a Content-Length when `length` is asked for."""
    parameters = query(environ)
    size = int(parameters["size"])
    headers = [("Content-Type", "application/octet-stream")]
    if "length" in parameters:
        headers.append(("Content-Length", str(size)))
    start_response("200 OK", headers)
    return Download(token(environ), size)


@router.case
def _download_at_once(environ, start_response):
    """`size` bytes as one piece."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [b"".join(bulk.pieces(int(query(environ)["size"])))]


@router.case
def _gate(environ, start_response):
    """Records the call, stands still until the gate is open, and answers."""
    name = token(environ)
    record(name, "called")
    wait_gate(query(environ).get("gate", name))
    return answer(start_response, "through")


@router.case
def _hello(environ, start_response):
    """Answers its query string."""
    return answer(start_response, environ.get("QUERY_STRING", ""))


@router.case
def _hold(environ, start_response):
    """Notes the call, stands still until the file `until` exists, notes the end, and answers."""
    note(environ, "called")
    hold(environ)
    note(environ, "done")
    return answer(start_response, "held")
