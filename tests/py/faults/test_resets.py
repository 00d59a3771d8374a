"""Clients that send RST at every stage of their connection, tens of thousands of times, beside
clients that behave: these see nothing of it, and neither server nor worker keeps anything.
"""

import contextlib
import time

import pytest

from faults.drill import Footprint, Running, has_all_slots, length
from harness import process, uwsgi
from harness.client import Client, encode_request

RESETS = length(short=6_000, full=100_000)
BATCH = 40
INFLIGHT = 256
# More than the rings, the server's buffers and the sockets' hold together: the worker still writes.
BIG = 16_000_000
SEATS = 4
POST = [("Content-Length", "100000")]
HEAD = encode_request("POST", "/work?id=r", POST)


def http(path):
    return encode_request("GET", path)


def packet(path, query="", **rest):
    return uwsgi.packet(uwsgi.variables(path=path, query=query, **rest))


# stage: (scheme, what is sent, bytes of the answer that are read before, seconds between)
STAGES = {
    "after connect": ("http", b"", 0, 0.0),
    "in the head": ("http", HEAD[:25], 0, 0.0),
    "after the head": ("http", HEAD, 0, 0.0),
    "in the body": ("http", HEAD + b"y" * 50_000, 0, 0.0),
    "in a chunked body": (
        "http",
        encode_request("POST", "/work?id=r", [("Transfer-Encoding", "chunked")]) + b"10\r\nabc",
        0,
        0.0,
    ),
    "queued": ("http", http("/work?id=r&ms=4"), 0, 0.0),
    "running": ("http", http("/work?id=r&ms=20"), 0, 0.01),
    "before the answer is read": ("http", http(f"/work?id=r&size={BIG}"), 0, 0.005),
    "in the answer": ("http", http(f"/work?id=r&size={BIG}"), 1000, 0.0),
    "after the answer": ("http", http("/work?id=r"), 100, 0.0),
    "between pieces": ("http", http("/work?id=r&pieces=3&ms=10&size=3000"), 1, 0.0),
    "in a packet": ("uwsgi", packet("/work")[:40], 0, 0.0),
    "in the body of a packet": ("uwsgi", packet("/work", body=b"x" * 50_000), 0, 0.0),
    "packet queued": ("uwsgi", packet("/work", "ms=4"), 0, 0.0),
    "in the answer to a packet": ("uwsgi", packet("/work", f"size={BIG}"), 1000, 0.0),
}


def reset_batch(address, sent, read, pause):
    """Opens connections, brings each to the stage, and resets all."""
    # Only as many answers as there are seats begin before others are taken.
    count = SEATS if read > 500 else BATCH
    with contextlib.ExitStack() as closing:
        clients = [closing.enter_context(Client(address, 20)) for _ in range(count)]
        for client in clients:
            if sent:
                client.send(sent)
        for client in clients:
            if read:
                client.read_some(read)
        time.sleep(pause)
        for client in clients:
            client.reset()
    return count


@pytest.mark.timeout(length(short=90, full=900))
def test_resets_at_every_stage(start, progress, figure, tmp_path):
    server = start(
        "drilled:application",
        binds=("http://127.0.0.1:0", "uwsgi://127.0.0.1:0"),
        workers=2,
        threads=SEATS // 2,
        options=["--max-inflight", INFLIGHT],
    )
    addresses = {address.scheme: address for address in server.addresses}
    server.wait_workers(2)
    for scheme, sent, read, pause in STAGES.values():
        reset_batch(addresses[scheme], sent, read, pause)
    before = Footprint.of(server)
    workers = {pid: footprint_of_worker(pid) for pid in server.workers()}
    count = 0
    with Running(server.address, 4, [{"path": "/work?ms=1"}], timeout=60) as load:
        while count < RESETS:
            for name, (scheme, sent, read, pause) in STAGES.items():
                count += reset_batch(addresses[scheme], sent, read, pause)
                progress(f"{count} of {RESETS}: {name}")
        account = load.stop()
    assert account.failed() == 0 and not account.retried and not any(account.closed.values())
    assert server.workers() == sorted(workers)
    assert has_all_slots(server, INFLIGHT, tmp_path)
    after = before.kept_from(server)
    figure(f"{count} resets at {len(STAGES)} stages, beside them {account}")
    figure(f"{count} resets: {before} before, {after} after")
    for pid, (descriptors, threads, pss) in workers.items():
        now = footprint_of_worker(pid)
        assert now[:2] == (descriptors, threads)
        assert now[2] < pss + (8 << 20), f"worker {pid}: PSS {pss} before, {now[2]} after"


def footprint_of_worker(pid):
    found = process.descriptors(pid)
    return len(found), process.status(pid)["Threads"], process.pss_bytes(pid)
