"""A raw HTTP/1 client: it sends the bytes it is told and reads answers strictly. Purpose: every
answer any test reads is also a check of the wire format (RFC 9112): CRLF line ends, a legal status
line, at most one framing, chunks that end properly. A violation raises; nothing is repaired.
"""

import re
import socket
import struct
import time
from dataclasses import dataclass, field

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9]) ([^\x00-\x08\x0a-\x1f\x7f]*)\Z")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\Z", re.DOTALL)


class BadAnswer(AssertionError):
    """The answer breaks the protocol."""


class Truncated(AssertionError):
    """The connection ended before the answer did. `partial` holds what came of the body."""

    def __init__(self, what, response=None, partial=b""):
        super().__init__(f"{what}; got {len(partial)} bytes of body: {partial[:80]!r}")
        self.response = response
        self.partial = partial


@dataclass
class Response:
    """One answer. `framing` is "none", "length", "chunked" or "close"; names keep their case."""

    version: str
    status: int
    reason: str
    headers: list
    framing: str = "none"
    body: bytes = b""
    interim: list = field(default_factory=list)

    def values(self, name):
        """All values of a header field, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name):
        """The only value of a header field, or None; more than one is a failure."""
        found = self.values(name)
        assert len(found) <= 1, f"{name} came {len(found)} times: {found}"
        return found[0] if found else None

    @property
    def text(self):
        return self.body.decode("utf-8")


def encode_request(
    method="GET", path="/", headers=(), body=None, version="HTTP/1.1", host="localhost"
):
    """The bytes of a request; a Content-Length is added when there is a body and no framing."""
    lines = [f"{method} {path} {version}"]
    names = {name.lower() for name, _ in headers}
    if host is not None and "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head + (body or b"")


def chunked(*pieces, last=b"0\r\n\r\n"):
    """Pieces in chunked coding, with its end unless `last` says otherwise."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + last


class Client:
    """One connection. Reads are bounded by `timeout` each."""

    def __init__(self, address, timeout=10.0, receive_buffer=None):
        self.address = address
        self.sock = address.connect(timeout, receive_buffer)
        # A bytearray gives up its front cheaply; slices of bytes would make many chunks quadratic.
        self.buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def drip(self, data, pieces, pause=0.0):
        """Sends `data` in about `pieces` writes."""
        step = max(1, len(data) // pieces)
        for start in range(0, len(data), step):
            self.send(data[start : start + step])
            if pause:
                time.sleep(pause)

    def request(self, method="GET", path="/", headers=(), body=None, **rest):
        """Sends one request and reads its answer."""
        self.send(encode_request(method, path, headers, body, **rest))
        return self.response(method)

    def response(self, method="GET"):
        """Reads one final answer; 1xx answers before it are kept in `interim`."""
        interim = []
        while True:
            response = self.head()
            if response.status >= 200 or response.status == 101:
                break
            interim.append(response)
        response.interim = interim
        self._body(response, method)
        return response

    def head(self):
        """Reads only the head of an answer: for answers whose body is watched as it arrives."""
        matched = STATUS_LINE.match(line := self._line())
        if not matched:
            raise BadAnswer(f"no status line: {line!r}")
        headers = []
        while line := self._line():
            found = FIELD_LINE.match(line)
            if not found:
                raise BadAnswer(f"no header field: {line!r}")
            headers.append(tuple(part.decode("latin-1") for part in found.groups()))
        version, status, reason = matched.groups()
        return Response(
            f"HTTP/1.{version.decode()}", int(status), reason.decode("latin-1"), headers
        )

    def is_closed(self, seconds=5.0):
        """Whether the server ends the connection within `seconds` without sending anything more."""
        if self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def is_silent(self, seconds):
        """Whether nothing at all arrives for `seconds`, not even the end."""
        if self.buffer:
            return False
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self.buffer += self.sock.recv(65536)
            return False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(before)

    def read_to_end(self):
        """Everything until the connection ends; a reset ends it too."""
        data = self._take(len(self.buffer))
        try:
            while piece := self.sock.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
        return data

    def read_exactly(self, count):
        while len(self.buffer) < count:
            self._more(Truncated(f"wanted {count} bytes", partial=bytes(self.buffer)))
        return self._take(count)

    def read_some(self, most):
        """At least one byte and at most `most`."""
        if not self.buffer:
            self._more(Truncated("wanted more of the body"))
        return self._take(most)

    def reset(self):
        """Ends the connection by a reset where the socket knows one (TCP), else by closing."""
        if not self.address.is_unix:
            linger = struct.pack("ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    def _take(self, count):
        """Takes at most `count` bytes from the front of the buffer."""
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def _more(self, truncated):
        try:
            piece = self.sock.recv(262144)
        except (ConnectionResetError, BrokenPipeError):
            raise truncated from None
        if not piece:
            raise truncated
        self.buffer += piece

    def _line(self):
        while b"\n" not in self.buffer:
            self._more(Truncated("no whole line", partial=bytes(self.buffer)))
        line = self._take(self.buffer.index(b"\n") + 1)[:-1]
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise BadAnswer(f"a line does not end in CRLF only: {line!r}")
        return line[:-1]

    def _body(self, response, method):
        lengths = response.values("Content-Length")
        codings = response.values("Transfer-Encoding")
        if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
            raise BadAnswer(f"ambiguous framing: {lengths} {codings}")
        if lengths and not re.fullmatch("[0-9]+", lengths[0]):
            raise BadAnswer(f"Content-Length: {lengths[0]!r}")
        if codings and (codings[0] != "chunked" or response.version != "HTTP/1.1"):
            raise BadAnswer(f"Transfer-Encoding: {codings[0]!r} in {response.version}")
        if response.status == 204 and (lengths or codings):
            raise BadAnswer("a 204 must not state a body (RFC 9110 section 8.6)")
        if method == "HEAD" or response.status in (204, 304) or response.status < 200:
            response.framing = "none"
        elif codings:
            response.framing = "chunked"
            self._chunks(response)
        elif lengths:
            response.framing = "length"
            self._length(response, int(lengths[0]))
        else:
            response.framing = "close"
            response.body = self._until_close(response)

    def _length(self, response, length):
        pieces = [self._take(length)]
        missing = length - len(pieces[0])
        while missing:
            try:
                piece = self.sock.recv(min(missing, 262144))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Truncated(f"body of {length} bytes cut", response, b"".join(pieces))
            pieces.append(piece)
            missing -= len(piece)
        response.body = b"".join(pieces)

    def _until_close(self, response):
        pieces = [self._take(len(self.buffer))]
        while True:
            try:
                piece = self.sock.recv(262144)
            except ConnectionResetError:
                raise Truncated("reset", response, b"".join(pieces)) from None
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)

    def _chunks(self, response):
        pieces = []
        while True:
            try:
                line = self._line()
            except Truncated:
                raise Truncated("no next chunk", response, b"".join(pieces)) from None
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", line):
                raise BadAnswer(f"chunk size {line!r}")
            size = int(line, 16)
            if size == 0:
                break
            try:
                pieces.append(self.read_exactly(size))
                end = self.read_exactly(2)
            except Truncated as cut:
                raise Truncated("chunk cut", response, b"".join(pieces) + cut.partial) from None
            if end != b"\r\n":
                raise BadAnswer(f"a chunk ends in {end!r}")
        if self._line():
            raise BadAnswer("trailers, though none were announced")
        response.body = b"".join(pieces)
