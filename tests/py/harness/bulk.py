"""Large bodies whose content is known without keeping it: byte i of a stream is fixed by its seed.
Purpose: transfers of 100 MB are checked by SHA-256 at both ends and cost no memory at either.
"""

import hashlib
import threading

BLOCK = 65536


def block(seed):
    """64 KiB that compress badly and differ by seed."""
    out = b""
    counter = 0
    while len(out) < BLOCK:
        out += hashlib.sha256(f"{seed}-{counter}".encode()).digest()
        counter += 1
    return out[:BLOCK]


def pieces(size, seed=0):
    """`size` bytes in pieces of 64 KiB."""
    one = block(seed)
    for start in range(0, size, BLOCK):
        yield one[: min(BLOCK, size - start)]


def digest(size, seed=0):
    """The SHA-256 of such a stream."""
    found = hashlib.sha256()
    for piece in pieces(size, seed):
        found.update(piece)
    return found.hexdigest()


def receive(client, head, size):
    """Reads a body of `size` bytes framed as `head` says; its SHA-256, without keeping it."""
    found = hashlib.sha256()
    chunked = head.header("Transfer-Encoding") is not None
    got = 0
    while got < size:
        if chunked:
            wanted = int(read_line(client), 16)
            assert wanted, f"the body ended after {got} bytes"
        else:
            wanted = size - got
        while wanted:
            piece = client.read_some(min(wanted, 1 << 20))
            found.update(piece)
            wanted -= len(piece)
            got += len(piece)
        if chunked:
            assert client.read_exactly(2) == b"\r\n"
    assert got == size
    if chunked:
        assert client.read_exactly(5) == b"0\r\n\r\n"
    return found.hexdigest()


def read_line(client):
    line = b""
    while not line.endswith(b"\r\n"):
        line += client.read_exactly(1)
    return line[:-2]


def send_in_background(client, stream):
    """Sends pieces from a thread: a server may answer before it has all of them."""

    def run():
        try:
            for piece in stream:
                client.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
