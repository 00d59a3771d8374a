"""Large bodies in both directions on every front: 100 MB with checksums, chunked uploads, slow
readers and slow applications, spooling and streaming.
"""

import json

import pytest

from harness import bulk, process
from harness.client import encode_request

STACK = dict(
    application="transfer:application",
    threads=6,
    options=["--body-buffer-size", "64KiB", "--body-spool-size", "1MiB"],
)
LARGE = 100_000_000
KIB = 1024
MIB = 1024 * KIB
MEMORY_BYTES_MAX = 120 * MIB


@pytest.fixture(autouse=True)
def bounded_memory(stack):
    """Whatever a test transfers, the server's own memory stays bounded."""
    yield
    assert process.anonymous_bytes(stack.server.pid) < MEMORY_BYTES_MAX


def upload(client, size, path="/upload?token=unused", chunked=False, pieces=None):
    """Uploads `size` bytes and returns what the application says of them."""
    pieces = pieces or bulk.pieces(size)
    if chunked:
        client.send(encode_request("POST", path, [("Transfer-Encoding", "chunked")]))
        framed = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        for piece in framed:
            client.send(piece)
        client.send(b"0\r\n\r\n")
    else:
        client.send(encode_request("POST", path, [("Content-Length", str(size))]))
        for piece in pieces:
            client.send(piece)
    response = client.response()
    assert response.status == 200
    told = json.loads(response.text)
    assert told["size"] == size
    assert told["sha256"] == bulk.digest(size)
    assert told["terminated"] is True
    return told


def download(client, size, path):
    client.send(encode_request("GET", path))
    head = client.head()
    assert head.status == 200
    assert bulk.receive(client, head, size) == bulk.digest(size)


def test_hundred_megabytes_up(front):
    with front.connect(30) as client:
        assert upload(client, LARGE)["length"] == str(LARGE)


def test_hundred_megabytes_up_chunked(front):
    with front.connect(30) as client:
        upload(client, LARGE, chunked=True)


@pytest.mark.parametrize("length", ["", "&length=yes"], ids=["unknown-length", "stated-length"])
def test_hundred_megabytes_down(front, length):
    with front.connect(30) as client:
        download(client, LARGE, f"/download?token=unused&size={LARGE}{length}")


def test_thirty_megabytes_in_one_piece(front):
    with front.connect(30) as client:
        download(client, 30_000_000, "/download-at-once?size=30000000")


@pytest.mark.fronts("direct", "nginx-uwsgi-unix")
@pytest.mark.parametrize(
    "size",
    [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 3 * MIB],
)
def test_sizes_around_the_thresholds(front, size):
    with front.connect() as client:
        for _ in range(2):
            assert upload(client, size)["length"] == str(size)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("size", [1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB])
def test_gathered_chunked_body_has_a_content_length(front, size):
    with front.connect() as client:
        assert upload(client, size, chunked=True)["length"] == str(size)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("size", [MIB + 100_000, 3 * MIB])
def test_streamed_chunked_body_has_no_content_length(front, size):
    with front.connect() as client:
        for _ in range(2):
            assert upload(client, size, chunked=True)["length"] is None


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("size", [10 * KIB, 64 * KIB, 500 * KIB, MIB])
def test_application_runs_when_the_body_is_whole(front, size):
    token = front.stack.token()
    *first, last = bulk.pieces(size, 0)
    with front.connect() as client:
        path = f"/upload?token={token}"
        client.send(encode_request("POST", path, [("Content-Length", str(size))]))
        client.send(b"".join(first) + last[:-1])
        assert front.stack.records(token, 1, 0.2) == []
        client.send(last[-1:])
        assert json.loads(client.response().text)["sha256"] == bulk.digest(size)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_body_beyond_the_spool_is_streamed(front, chunked):
    token = front.stack.token()
    size = 8 * MIB
    stream = bulk.pieces(size)
    sent = [next(stream) for _ in range(64)]

    def pieces():
        yield from sent
        assert front.stack.records(token, 2)[:2] == ["called", "first piece"]
        yield from stream

    with front.connect() as client:
        upload(client, size, f"/upload?token={token}", chunked, pieces())


@pytest.mark.fronts("direct")
def test_streamed_upload_waits_for_a_slow_application(front):
    token = front.stack.token()
    size = 40 * MIB
    with front.connect(30) as client:
        path = f"/upload-slowly?token={token}"
        client.send(encode_request("POST", path, [("Content-Length", str(size))]))
        sender = bulk.send_in_background(client, bulk.pieces(size))
        sender.join(0.5)
        assert sender.is_alive(), "40 MiB went somewhere while nobody read them"
        assert process.anonymous_bytes(front.stack.server.pid) < MEMORY_BYTES_MAX
        front.stack.open_gate(token)
        assert json.loads(client.response().text)["sha256"] == bulk.digest(size)
        sender.join(10)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_streamed_body_cut_short_raises_oserror(front, chunked, end):
    token = front.stack.token()
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(9 * MIB))
    client = front.connect()
    client.send(encode_request("POST", f"/upload?token={token}", [framing]))
    for piece in bulk.pieces(4 * MIB):
        client.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
    assert front.stack.records(token, 2)[:2] == ["called", "first piece"]
    getattr(client, end)()
    assert front.stack.records(token, 3)[2] == "OSError after True"


@pytest.mark.fronts("direct")
def test_streamed_chunked_body_that_turns_bad_raises_oserror(front):
    token = front.stack.token()
    headers = [("Transfer-Encoding", "chunked")]
    with front.connect() as client:
        client.send(encode_request("POST", f"/upload?token={token}", headers))
        for piece in bulk.pieces(4 * MIB):
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"no chunk size\r\n")
        assert front.stack.records(token, 3)[2] == "OSError after True"
        assert b"HTTP/1.1 200" not in client.read_to_end()


@pytest.mark.fronts("direct", "nginx-uwsgi-unix")
def test_slow_reader_gets_everything(front):
    size = 20_000_000
    with front.connect(30, receive_buffer=8192) as client:
        client.send(encode_request("GET", f"/download?token=unused&size={size}"))
        head = client.head()
        assert bulk.receive(client, head, size) == bulk.digest(size)


@pytest.mark.fronts("direct")
def test_slow_reader_holds_the_application_back(front):
    """An endless answer to a client that does not read stops being produced."""
    token = front.stack.token()
    size = 1 << 30
    with front.connect(30, receive_buffer=8192) as client:
        client.send(encode_request("GET", f"/download?token={token}&size={size}"))
        assert client.head().status == 200
        assert front.stack.records(token, 1, 0.5) == []
        assert process.anonymous_bytes(front.stack.server.pid) < MEMORY_BYTES_MAX
    [told] = front.stack.records(token)
    assert told["taken"] < 16 * MIB


@pytest.mark.parametrize("pieces", [5, 300])
def test_body_in_many_writes(front, pieces):
    size = 200_000
    body = b"".join(bulk.pieces(size))
    with front.connect() as client:
        client.drip(encode_request("POST", "/upload?token=unused", (), body), pieces, 0.0005)
        assert json.loads(client.response().text)["sha256"] == bulk.digest(size)
