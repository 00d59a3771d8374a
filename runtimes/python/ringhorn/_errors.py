"""`wsgi.errors` and the report of an application's exception: all that a worker writes to stderr;
and the exceptions that interrupt a request.

Used by the native module at each request (`ErrorStream`, one object for all) and when a request
goes wrong (`report`). Both look `sys.stderr` up at each call, so an application that replaces it is
heard where it wants to be. `take_stack` and `log_stack` are called by a thread of the server's own
about a request that runs too long.

Invariants: no `str` makes `ErrorStream.write` raise, lone surrogates included, nor does a target
that takes nothing (a full disk): that costs text, never a request. Closing it does nothing (PEP
3333: the server owns the stream); one report is one write, so reports of threads do not mix.
"""

import os
import sys
import traceback

FRAMES_MAX = 1000


class RequestTimeout(BaseException):
    """Raised in the thread of a request that ran longer than `--timeout`.

    Its client has got 504 already (or was cut), so nothing that the application still answers
    arrives. Clean up and let it pass. Not an Exception: frameworks turn those into pages.
    """

    def __str__(self):
        return super().__str__() or "the request ran longer than --timeout"


class ClientDisconnected(BaseException):
    """Raised in the thread of a request whose client left, with `--cancel-on-disconnect`."""

    def __str__(self):
        return super().__str__() or "the client left (--cancel-on-disconnect)"


# Where applications import them from.
PUBLIC = (RequestTimeout, ClientDisconnected)
for exception in PUBLIC:
    exception.__module__ = "ringhorn"


class ErrorStream:
    """A text stream over whatever `sys.stderr` is now."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    closed = False

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError("wsgi.errors.write() takes str, not " + type(text).__name__)
        stream = sys.stderr
        if stream is not None:
            try:
                self._write(stream, text)
            except OSError:
                # Nobody is left to be told: the server counts lines that its own log loses.
                pass
        return len(text)

    @staticmethod
    def _write(stream, text):
        try:
            stream.write(text)
        except UnicodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        stream = sys.stderr
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                pass

    def close(self):
        """Harmless: the stream is the server's."""

    def fileno(self):
        return sys.stderr.fileno()

    def isatty(self):
        return False

    def readable(self):
        return False

    def writable(self):
        return True

    def seekable(self):
        return False


def report(what, request_id, method, path, error):
    """Writes one incident: `what` happened in that request, with `error`'s traceback if any.

    Never raises: it runs where an exception of its own would have nobody to go to.
    """
    try:
        named = tuple(plain(part) for part in (request_id, method, path))
        text = "ringhorn: %s (request %s: %s %s)\n" % (what, *named)
        if error is not None:
            text += "".join(traceback.format_exception(type(error), error, error.__traceback__))
        stream = ErrorStream()
        stream.write(text)
        stream.flush()
    except Exception:  # stderr is gone or an exception's __str__ raises: keep serving
        try:
            sys.__stderr__.write("ringhorn: %s; its traceback cannot be printed\n" % what)
        except Exception:
            pass


def plain(text):
    """What a client sent, as part of one log line: escaped, so that it cannot pass for another."""
    return text if text.isprintable() else ascii(text)[1:-1]


def take_stack(thread):
    """Where a thread stands, outermost frame first: (file, line, function) each.

    Quick, and reads no file: the exception that interrupts the thread follows at once.
    """
    frame = sys._current_frames().get(thread)
    stack = []
    while frame is not None and len(stack) < FRAMES_MAX:
        stack.append((frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
        frame = frame.f_back
    stack.reverse()
    return stack


def log_stack(what, request_id, request, stack):
    """Writes `what` happened to a request, and the stack of its thread.

    Straight to the descriptor: the thread that hangs may hold the lock of `sys.stderr`.
    """
    text = "ringhorn: %s (request %s: %s)\n" % (what, request_id, request)
    try:
        frames = [traceback.FrameSummary(*frame) for frame in stack]
        text += "Stack of its thread (most recent call last):\n"
        text += "".join(traceback.format_list(frames))
    except Exception as error:  # a source file that cannot be read must not cost the line itself
        text += "its stack cannot be printed: %r: %r\n" % (error, stack)
    rest = text.encode("utf-8", "backslashreplace")
    try:
        while rest:
            rest = rest[os.write(2, rest) :]
    except OSError:  # nobody listens
        pass
