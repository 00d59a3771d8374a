"""Requests that hang in every way there is, that catch what interrupts them, or that watch whether
their client is still there. Each notes what becomes of it in the file `log` of the query.
"""

import contextlib
import hashlib
import os
import threading
import time

from ringhorn import ClientDisconnected, RequestTimeout
from shared import Router, answer, hold, note, query

router = Router()
never = threading.Lock()
never.acquire()
HEADERS = [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")]


def seconds(environ, default=30.0):
    return float(query(environ).get("seconds", default))


@contextlib.contextmanager
def noted(environ):
    """Notes the start, and the end if nothing was raised."""
    note(environ, f"start {os.getpid()} {threading.current_thread().name}")
    yield
    note(environ, "end")


def note_error(environ, error):
    try:
        note(environ, f"{type(error).__name__}: {error}")
    except (RequestTimeout, ClientDisconnected) as later:
        # It came while another exception, of the same cause, was noted.
        note(environ, f"{type(later).__name__}: {later}")


def application(environ, start_response):
    """Notes what is raised here and nowhere further in: an interrupt may hit any line, that of a
    context manager's own code, too."""
    try:
        return router(environ, start_response)
    except BaseException as error:
        note_error(environ, error)
        raise


@router.case
def _hello(environ, start_response):
    """A quick answer: who it was, and the request's own number."""
    number = query(environ).get("number", "")
    return answer(start_response, [os.getpid(), number], headers=[("X-Number", number)])


@router.case
def _hang(environ, start_response):
    """Hangs the way that the path says."""
    with noted(environ):
        WAYS[environ["PATH_INFO"].rpartition("/")[2]](seconds(environ))
    return answer(start_response, "woke up")


def sleeps(span):
    time.sleep(span)


def waits_for_a_lock(span):
    never.acquire(timeout=span)


def loops_in_python(span):
    end = time.monotonic() + span
    while time.monotonic() < end:
        pass


def hashes_without_the_lock(span):
    """One call that lets the interpreter's lock go for all of its time."""
    hash_in_rounds(rounds_in(hash_in_rounds, 100_000, span))


def hash_in_rounds(rounds):
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", rounds)


def counts_with_the_lock(span):
    """One call that keeps the interpreter's lock for all of its time."""
    count_in_rounds(rounds_in(count_in_rounds, 1_000_000, span))


def count_in_rounds(rounds):
    sum(range(rounds))


def rounds_in(work, rounds, span):
    """How many rounds take so long at least: counted in CPU time, since others may have the core
    while this is measured."""
    began = time.thread_time()
    work(rounds)
    return int(rounds * span / (time.thread_time() - began))


WAYS = {
    "sleep": sleeps,
    "lock": waits_for_a_lock,
    "python": loops_in_python,
    "hash": hashes_without_the_lock,
    "sum": counts_with_the_lock,
}


@router.case
def _catches(environ, start_response):
    """Catches the exception; then it returns, or goes on for as long as the query says."""
    try:
        with noted(environ):
            time.sleep(30)
    except RequestTimeout:
        time.sleep(seconds(environ, 0))
    note(environ, "went on")
    return answer(start_response, "caught")


@router.case
def _broad(environ, start_response):
    """What frameworks do: every Exception becomes a page."""
    try:
        with noted(environ):
            time.sleep(30)
    except Exception as error:
        return answer(start_response, repr(error), "500 Internal Server Error")
    return answer(start_response, "woke up")


class Body:
    """Pieces with a pause before each; notes how it ends."""

    def __init__(self, environ, pause):
        self.environ = environ
        self.pieces = pieces(environ, pause)

    def __iter__(self):
        return self.pieces

    def close(self):
        note(self.environ, "close")
        self.pieces.close()


def pieces(environ, pause):
    try:
        for _ in range(int(30 / pause)):
            yield b"piece\n"
            time.sleep(pause)
    except BaseException as error:
        note_error(environ, error)
        raise


@router.case
def _stream(environ, start_response):
    start_response("200 OK", HEADERS)
    return Body(environ, seconds(environ, 0.02))


@router.case
def _fill(environ, start_response):
    """More than any buffer takes: waits for its reader."""
    write = start_response("200 OK", HEADERS)
    with noted(environ):
        for _ in range(100):
            write(b"x" * 1_000_000)
    return []


@router.case
def _write(environ, start_response):
    """The imperative way: write() until the client is known to have left, and a little beyond."""
    write = start_response("200 OK", HEADERS)
    has_left = environ["ringhorn.client_disconnected"]
    with noted(environ):
        for _ in range(int(30 / seconds(environ, 0.02))):
            write(b"piece\n")
            time.sleep(seconds(environ, 0.02))
            if has_left():
                break
        for _ in range(100):
            write(b"x" * 100_000)
    return []


@router.case
def _read(environ, start_response):
    """Reads all of the body, which may never come."""
    with noted(environ):
        size = len(environ["wsgi.input"].read())
    return answer(start_response, size)


@router.case
def _watch(environ, start_response):
    """Looks whether the client is there until it is not, or until the file `until` exists."""
    has_left = environ["ringhorn.client_disconnected"]
    until = query(environ).get("until")
    with noted(environ):
        end = time.monotonic() + seconds(environ)
        while not has_left() and time.monotonic() < end:
            if until and os.path.exists(until):
                break
            time.sleep(0.005)
    note(environ, f"left {has_left()}")
    return answer(start_response, "watched")


kept = []


@router.case
def _keep(environ, start_response):
    """Keeps the callable beyond the request."""
    kept.append(environ["ringhorn.client_disconnected"])
    return answer(start_response, [callable() for callable in kept])


@router.case
def _cancelled(environ, start_response):
    """Hangs until its client leaves, if that is to be told by an exception."""
    try:
        with noted(environ):
            time.sleep(seconds(environ))
    except ClientDisconnected:
        note(environ, "cancelled")
        raise
    return answer(start_response, "woke up")


@router.case
def _stubborn(environ, start_response):
    """Goes on when it is cancelled."""
    try:
        with noted(environ):
            time.sleep(30)
    except ClientDisconnected as error:
        note_error(environ, error)
    with noted(environ):
        time.sleep(30)
    return answer(start_response, "woke up")


@router.case
def _hold(environ, start_response):
    """Stands still until the file `until` exists."""
    with noted(environ):
        hold(environ)
    return answer(start_response, "held")


@router.case
def _around(environ, start_response):
    """Runs about as long as the query says, in Python code all the while."""
    span = seconds(environ, 0.05)
    number = query(environ).get("number", "")
    with noted(environ):
        end = time.monotonic() + span
        while time.monotonic() < end:
            sum(range(50))
    return answer(start_response, number, headers=[("X-Number", number)])
