"""Eight thousand idle keep-alive connections: what they cost in memory, and that new requests are
answered in time beside them. The figures are printed in the summary.
"""

import resource
import time

import pytest

from harness import process
from harness.client import Client, encode_request

CONNECTIONS = 8_000
DESCRIPTORS = CONNECTIONS + 1_000
# A connection's own share, and what the allocator and page tables may round up in all.
CONNECTION_BYTES_MAX = 1024
SLACK_BYTES = 2 << 20
PSS_BYTES_MAX = 25 << 20


@pytest.fixture
def many_descriptors():
    """This process needs a descriptor for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS, f"hard limit of files: {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_idle_connections(start, many_descriptors, record_property, tmp_path, kind):
    bind = "http://127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/http.sock"
    server = start("hello:application", threads=2, binds=(bind,))
    assert server.request("GET", "/").status == 200
    before = process.anonymous_bytes(server.pid)
    whole = encode_request("GET", "/")
    clients = []
    try:
        for _ in range(CONNECTIONS // 100):
            batch = [Client(server.address) for _ in range(100)]
            clients += batch
            for client in batch:
                client.send(whole)
            for client in batch:
                assert client.response().status == 200
        after = process.anonymous_bytes(server.pid)
        pss = process.pss_bytes(server.pid)
        slowest = max(timed(server) for _ in range(200))
        each = (after - before) / CONNECTIONS
        record_property(
            "figure",
            f"{CONNECTIONS} idle {kind} connections: {each:.0f} bytes of own memory each, "
            f"PSS {pss / 2**20:.1f} MiB; slowest of 200 new requests {slowest * 1000:.1f} ms",
        )
        assert after - before < CONNECTIONS * CONNECTION_BYTES_MAX + SLACK_BYTES
        assert pss < PSS_BYTES_MAX
        assert slowest < 1.0
        for client in clients[:: CONNECTIONS // 400]:
            assert client.request("GET", "/").status == 200
    finally:
        for client in clients:
            client.close()
    assert server.request("GET", "/").status == 200


def timed(server):
    started = time.monotonic()
    assert server.request("GET", "/").status == 200
    return time.monotonic() - started


@pytest.mark.timeout(90)
def test_burst_gives_its_memory_back(start, record_property):
    """A thousand parallel requests with bodies; what they took returns when they are over."""
    server = start("echo:application", threads=2)
    assert server.request("GET", "/").status == 200
    before = process.pss_bytes(server.pid)
    body = b"b" * 65536
    head = encode_request("POST", "/", [("Content-Length", str(len(body)))])
    clients = [Client(server.address) for _ in range(1000)]
    try:
        for client in clients:
            client.send(head + body[:32768])
        for client in clients:
            client.send(body[32768:])
        for client in clients:
            assert client.response().body == body
    finally:
        for client in clients:
            client.close()
    peak = process.pss_bytes(server.pid)
    deadline = time.monotonic() + 35
    while process.pss_bytes(server.pid) > PSS_BYTES_MAX and time.monotonic() < deadline:
        time.sleep(0.5)
    after = process.pss_bytes(server.pid)
    record_property(
        "figure",
        f"burst of 1000 bodies of 64 KiB: PSS {before / 2**20:.1f} MiB before, "
        f"{peak / 2**20:.1f} right after, {after / 2**20:.1f} later",
    )
    assert after < PSS_BYTES_MAX
