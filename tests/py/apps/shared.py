"""What the applications under test share: a router over named cases, records that a test can read
back, and gates a test opens. Purpose: an application can stand still in the middle of an answer
until its client has seen what it should see, without any sleep.

All of it lives in one worker process; tests that use it run with one worker and several threads.
"""

import json
import os
import threading
import time
import urllib.parse

GATE_SECONDS = 10

_condition = threading.Condition()
_records = {}
_gates = set()


def query(environ):
    """The query string as a dict of the last values."""
    return dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))


def token(environ):
    """The name a test gave to this request."""
    return query(environ).get("token", "")


def record(name, entry):
    """Adds a JSON-able entry to the records of a token."""
    with _condition:
        _records.setdefault(name, []).append(entry)
        _condition.notify_all()


def wait_gate(name):
    """Stands still until the test opens the gate."""
    with _condition:
        if not _condition.wait_for(lambda: name in _gates, GATE_SECONDS):
            raise AssertionError(f"nobody opened the gate {name}")


def answer(start_response, value, status="200 OK", headers=()):
    """A JSON answer of known length."""
    body = json.dumps(value).encode()
    start_response(
        status,
        [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers],
    )
    return [body]


class Router:
    """Calls the case named by the header X-Case, else by the first path segment."""

    def __init__(self):
        self.cases = {"shared": _shared}

    def case(self, function):
        """Decorator: the function's name, "_" as "-", is its path."""
        self.cases[function.__name__.strip("_").replace("_", "-")] = function
        return function

    def __call__(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        name = environ.get("HTTP_X_CASE") or path.strip("/").split("/")[0]
        case = self.cases.get(name)
        if case is None:
            return answer(start_response, {"no such case": name}, "404 Not Found")
        return case(environ, start_response)


def _shared(environ, start_response):
    parameters = query(environ)
    name = parameters["token"]
    with _condition:
        if environ["PATH_INFO"] == "/shared/open":
            _gates.add(name)
            _condition.notify_all()
            return answer(start_response, "open")
        count = int(parameters["count"])
        _condition.wait_for(
            lambda: len(_records.get(name, [])) >= count, float(parameters["seconds"])
        )
        return answer(start_response, _records.get(name, []))


# Notes and holds by file: they work across worker processes and when no thread is free to be asked.


def note(environ, text):
    """Appends a line to the file `log` of the query, if there is one."""
    if path := query(environ).get("log"):
        with open(path, "a", encoding="utf-8") as log:
            log.write(text + "\n")


def hold(environ):
    """Stands still until the file `until` of the query exists."""
    path = query(environ)["until"]
    deadline = time.monotonic() + GATE_SECONDS
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody made {path}")
        time.sleep(0.005)
