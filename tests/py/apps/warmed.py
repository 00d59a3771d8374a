"""Answers what was asked before the first client; its warm-up targets misbehave in every way."""

import json
import os
import threading

asked = []
closed = []
failing = {"/raise"}


def new():
    """A release that fails where the one before did not."""
    failing.add("/raise-if-new")


class Body:
    def __init__(self, pieces):
        self.pieces = iter(pieces)

    def __iter__(self):
        return self.pieces

    def close(self):
        closed.append(True)


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/asked":
        body = json.dumps({"asked": asked, "closed": len(closed), "pid": os.getpid()}).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    facts = {name: value for name, value in environ.items() if isinstance(value, str | bool)}
    facts["input"] = environ["wsgi.input"].read().decode()
    facts["errors"] = environ["wsgi.errors"].write("warming up\n")
    facts["thread"] = threading.current_thread().name
    facts["wrapper"] = callable(environ["wsgi.file_wrapper"])
    asked.append(facts)
    if path in failing:
        raise LookupError("cold")
    if path == "/raise-late":
        start_response("200 OK", [])
        return Body(b"x" * (1 // piece) for piece in (1, 0))
    if path == "/silent":
        return [b"x"]
    if path == "/text":
        start_response("200 OK", [])
        return ["text"]
    status = {"/busy": "503 Service Unavailable", "/gone": "404 Not Found"}.get(path, "200 OK")
    write = start_response(status, [("Content-Type", "text/plain")])
    write(b"by write")
    return Body([b"a", b"", b"b"])
