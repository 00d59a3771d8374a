"""Bounds: requests in flight, time in the queue, connections, buffers and spool files. Beyond each
the answer is 503 with Retry-After or a wait, and afterwards everything is as before.
"""

import contextlib
import json
import time

import pytest

from harness import bulk
from harness.client import Client, encode_request
from harness.watch import wait_until

MIB = 1 << 20


class Holders:
    """Requests that stand still in the application until `release()`."""

    def __init__(self, server, folder):
        self.server = server
        self.gate = folder / "gate"
        self.log = folder / "calls"
        self.log.touch()
        self.clients = []

    def add(self, count):
        """Sends `count` more and returns their connections; does not wait for any."""
        path = f"/hold?until={self.gate}&log={self.log}"
        added = [self.server.connect() for _ in range(count)]
        for client in added:
            client.send(encode_request("GET", path))
        self.clients += added
        return added

    def calls(self):
        """How often the application was called."""
        return self.log.read_text().count("called")

    def wait_calls(self, count):
        wait_until(lambda: self.calls() >= count, f"{count} calls of the application", 5)

    def release(self):
        self.gate.touch()

    def close(self):
        self.release()
        for client in self.clients:
            client.close()


@pytest.fixture
def hold(start, tmp_path):
    """Starts a server and gives what holds requests in it."""
    with contextlib.ExitStack() as closing:

        def serve(*options, threads=1):
            server = start("transfer:application", threads=threads, options=options)
            holders = Holders(server, tmp_path)
            closing.callback(holders.close)
            return holders

        yield serve


def is_shed(response):
    """The answer to a request that there is no room for."""
    return response.status == 503 and int(response.header("Retry-After")) >= 1


def test_queue_timeout_gives_503_with_retry_after(hold):
    holders = hold("--queue-timeout", "0.5", threads=2)
    running = holders.add(2)
    holders.wait_calls(2)
    started = time.monotonic()
    waiting = holders.add(3)
    assert all(is_shed(client.response()) for client in waiting)
    assert 0.4 < time.monotonic() - started < 3
    assert holders.calls() == 2, "a request that waited too long never reaches the application"
    holders.release()
    assert all(client.response().status == 200 for client in running)
    assert holders.server.request("GET", "/hello?after").status == 200


def test_queued_requests_are_served_in_time(hold):
    holders = hold("--queue-timeout", "5", threads=1)
    clients = holders.add(20)
    holders.wait_calls(1)
    holders.release()
    assert all(client.response().status == 200 for client in clients)


def test_max_inflight_gives_503_with_retry_after(hold):
    holders = hold("--max-inflight", "3", threads=1)
    holders.add(1)
    holders.wait_calls(1)
    taken = holders.add(2)
    # Queued ones make no sign: the bound shows by what is refused beyond it, and by who is served.
    answers = []

    def one_is_shed():
        with holders.server.connect() as client:
            client.send(encode_request("GET", "/hello?x"))
            if client.is_silent(0.2):
                return False
            answers.append(client.response())
            return True

    wait_until(one_is_shed, "a request beyond max-inflight to be answered", 5)
    assert is_shed(answers[0])
    holders.release()
    assert all(client.response().status == 200 for client in taken)
    for number in range(10):
        assert holders.server.request("GET", f"/hello?{number}").status == 200


def test_shed_connection_can_be_used_again_or_is_closed(hold):
    holders = hold("--queue-timeout", "0.3")
    holders.add(1)
    holders.wait_calls(1)
    with holders.server.connect() as client:
        shed = client.request("GET", "/hello?x")
        assert is_shed(shed)
        holders.release()
        if (shed.header("Connection") or "").lower() == "close":
            assert client.is_closed()
        else:
            assert client.request("GET", "/hello?x").status == 200


def test_client_gone_while_queued_is_dropped(hold):
    holders = hold(threads=1)
    holders.add(1)
    holders.wait_calls(1)
    for client in holders.add(10):
        client.reset()
    # The loop answers nonsense by itself, in the order of arrival: it has met those that left.
    for _ in range(3):
        with holders.server.connect() as nonsense:
            nonsense.send(b"nonsense\r\n\r\n")
            assert nonsense.response().status == 400
    with holders.server.connect() as last:
        last.send(encode_request("GET", f"/hold?until={holders.gate}&log={holders.log}.last"))
        holders.release()
        assert last.response().status == 200
    assert holders.calls() == 1, "requests of clients that left were still run"


def test_lost_clients_cost_no_room(hold):
    """With room for four in flight, a hundred vanished clients would take it all."""
    holders = hold("--max-inflight", "4", threads=2)
    holders.release()
    for number in range(100):
        with holders.server.connect() as client:
            client.send(encode_request("GET", "/download?token=x&size=3000000"))
            if number % 2:
                client.head()
            client.reset()
    wait_until(
        lambda: holders.server.request("GET", "/hello?x").status == 200, "room to be free", 5
    )
    for _ in range(4):
        assert holders.server.request("GET", "/hello?x").status == 200


def test_max_connections_makes_others_wait(start):
    server = start("transfer:application", threads=1, options=["--max-connections", "4"])
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        assert client.request("GET", "/hello?x").status == 200
    with Client(server.address) as fifth:
        fifth.send(encode_request("GET", "/hello?fifth"))
        assert fifth.is_silent(0.3), "a fifth connection was served"
        clients[0].close()
        assert fifth.response().status == 200
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "options",
    [
        ("--body-buffer-size", "64KiB", "--body-spool-size", "2MiB", "--spool-disk-max", "2MiB"),
        ("--body-buffer-size", "2MiB", "--buffer-memory-max", "2MiB"),
    ],
    ids=["spool-disk-max", "buffer-memory-max"],
)
def test_new_bodies_wait_or_get_503_when_buffers_are_full(start, options):
    server = start("transfer:application", threads=2, options=options)
    size = 1_900_000
    whole = b"".join(bulk.pieces(size))
    path = "/upload?token=x"
    with server.connect() as first, server.connect() as second:
        first.send(encode_request("POST", path, [("Content-Length", str(size))]))
        first.send(whole[:-1])
        second.send(encode_request("POST", path, [("Content-Length", str(size))]))
        bulk.send_in_background(second, [whole])
        # Refused at once where its length told; else not read on until there is room again.
        waits = second.is_silent(0.5)
        assert server.request("GET", "/hello?x").status == 200, "requests without body go on"
        first.send(whole[-1:])
        assert json.loads(first.response().text)["sha256"] == bulk.digest(size)
        answer = second.response()
        if waits and answer.status == 200:
            assert json.loads(answer.text)["sha256"] == bulk.digest(size)
        else:
            assert is_shed(answer), answer
    # The room is given back.
    for _ in range(3):
        with server.connect() as client:
            answer = client.request("POST", path, (), whole)
            assert json.loads(answer.text)["size"] == size


def test_spool_files_have_no_name_and_are_given_back(start, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    options = ["--body-buffer-size", "64KiB", "--spool-dir", spool]
    server = start("transfer:application", threads=2, options=options)
    whole = b"".join(bulk.pieces(3 * MIB))
    with server.connect() as client:
        client.send(encode_request("POST", "/upload?token=x", [("Content-Length", str(3 * MIB))]))
        client.send(whole[:-1])
        assert server.request("GET", "/hello?x").status == 200
        assert list(spool.iterdir()) == []
        client.send(whole[-1:])
        assert client.response().status == 200
    assert list(spool.iterdir()) == []
