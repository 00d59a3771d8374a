"""Every golden uwsgi case, legal or not, sent to the real server whole and drop by drop: the exact
answer, the connection's end, and the server serves afterwards.
"""

import socket

import pytest

from harness import golden, uwsgi
from harness.client import Client

STACK = dict(application="echo:application", threads=2)
CASES = golden.cases("uwsgi")
PONG = b"\x64\x00\x00\x01"


def send(client, data, pieces):
    """Sends all of it; a server that has refused may close before it has read everything."""
    try:
        if pieces == 1:
            client.send(data)
        else:
            client.drip(data, pieces)
    except (BrokenPipeError, ConnectionResetError):
        pass


def is_head(case):
    return uwsgi.field("REQUEST_METHOD") + uwsgi.field("HEAD") in case.sent


def check(address, case, pieces):
    [expected] = case.expected
    with Client(address) as client:
        send(client, case.sent, pieces)
        if expected == "partial":
            assert client.is_silent(0.05), "an answer to half a packet"
        elif expected == "pong":
            assert client.read_exactly(len(PONG)) == PONG
            client.sock.shutdown(socket.SHUT_WR)
            assert client.read_to_end() == b""
        elif expected == "close":
            assert client.read_to_end() == b""
        else:
            response = client.response("HEAD" if is_head(case) else "GET")
            assert response.status == int(expected)
            assert response.header("Transfer-Encoding") is None
            if case.body is not None and not is_head(case):
                assert response.body == case.body
            assert client.is_closed()


@pytest.mark.parametrize("pieces", [1, 200], ids=["whole", "dripped"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_case(stack, case, pieces):
    check(stack.uwsgi, case, pieces)
    with Client(stack.uwsgi) as client:
        client.send(uwsgi.request(method="POST", body=b"alive"))
        assert client.response().body == b"alive"


@pytest.mark.parametrize("case", CASES[::5], ids=lambda case: case.name)
def test_golden_case_over_unix(stack, case):
    check(stack.server.addresses[3], case, 1)


def test_there_are_enough_cases():
    assert len(CASES) >= 60


def test_no_case_harmed_the_worker(stack):
    assert "respawn" not in stack.server.log.text
    assert "Traceback" not in stack.server.log.text
