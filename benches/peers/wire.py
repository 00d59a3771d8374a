"""The harness's own small HTTP client: is the server ready, and does it answer what it should?

Place: used by `measure.py` and `memory.py` outside the measured span. Invariant: an answer counts
only when its status and its whole body are as expected, so that no server is measured giving wrong
answers.
"""

import os
import socket
import time


class WrongAnswer(Exception):
    pass


def free_port():
    """A TCP port that was free a moment ago; a server that loses the race does not become ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def accepts(address):
    """Whether a connection to the address is taken."""
    with _socket(address) as client:
        try:
            client.connect(address.path or ("127.0.0.1", address.port))
        except OSError:
            return False
    return True


def connect(address, seconds=5):
    client = _socket(address)
    client.settimeout(seconds)
    try:
        client.connect(address.path or ("127.0.0.1", address.port))
    except OSError:
        client.close()
        raise
    return client


def request_bytes(path="/", body=b"", keep_alive=True):
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: localhost"]
    if body:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/octet-stream"]
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_answer(client):
    """Head and body of one response with a Content-Length; the socket's timeout bounds the wait."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        piece = client.recv(65536)
        if not piece:
            raise WrongAnswer(f"closed after {data[:200]!r}")
        data += piece
    head, pieces = data[:end], [data[end + 4 :]]
    missing = content_length(head) - len(pieces[0])
    while missing > 0:
        piece = client.recv(1 << 20)
        if not piece:
            raise WrongAnswer(f"closed {missing} bytes before the end of the body")
        pieces.append(piece)
        missing -= len(piece)
    return head, b"".join(pieces)


def content_length(head):
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise WrongAnswer(f"no Content-Length in {head[:200]!r}")


def ask(client, request, expected=None):
    """Sends one request and returns (bytes of the response, body)."""
    client.sendall(request)
    head, body = read_answer(client)
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise WrongAnswer(f"{head[:200]!r}")
    if expected is not None and body != expected:
        raise WrongAnswer(f"a body of {len(body)} bytes that starts with {body[:60]!r}")
    return len(head) + 4 + len(body), body


def answers(address, request, expected):
    """Bytes of the right response, or 0 while there is no server yet (a front's 502 included)."""
    try:
        with connect(address) as client:
            return ask(client, request, expected)[0]
    except (ConnectionError, FileNotFoundError):
        return 0
    except WrongAnswer as error:
        if b"502" in str(error).encode():
            return 0
        raise


def warm_up(address, request, expected, requests=300, seconds=0.3):
    """Up to that many requests over one connection at a time, for at most that long."""
    deadline = time.monotonic() + seconds
    client = None
    try:
        for _ in range(requests):
            if time.monotonic() > deadline:
                break
            client = client or connect(address)
            try:
                ask(client, request, expected)
            except (ConnectionError, WrongAnswer):
                client.close()  # the server may limit requests a connection
                client = None
    finally:
        if client:
            client.close()


def processes_seen(address, clients):
    """Asks `/pid` by that many connections at once; which processes answered."""
    seen = set()
    open_clients = []
    try:
        for _ in range(clients):
            client = connect(address)
            open_clients.append(client)
            client.sendall(request_bytes("/pid", keep_alive=False))
        for client in open_clients:
            seen.add(int(read_answer(client)[1]))
    except (ConnectionError, TimeoutError):
        pass  # asked again by the caller, whose deadline counts
    finally:
        for client in open_clients:
            client.close()
    return seen


def _socket(address):
    if address.path:
        return socket.socket(socket.AF_UNIX)
    client = socket.socket(socket.AF_INET)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def remove(path):
    """Removes a socket file that a killed server left."""
    if path and os.path.exists(path):
        os.unlink(path)
