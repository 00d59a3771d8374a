"""`wsgi.errors` and the report of an application's exception: all that a worker writes to stderr.

Used by the native module at each request (`ErrorStream`, one object for all) and when a request
goes wrong (`report`). Both look `sys.stderr` up at each call, so an application that replaces it is
heard where it wants to be.

Invariants: no `str` makes `ErrorStream.write` raise, lone surrogates included; closing it does
nothing (PEP 3333: the server owns the stream); one report is one write, so reports of threads do
not mix.
"""

import sys
import traceback


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
                stream.write(text)
            except UnicodeError:
                stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        stream = sys.stderr
        if stream is not None:
            stream.flush()

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
