"""Every golden HTTP case, legal or not, sent to the real server whole and drop by drop: the exact
answer, then the connection's end where there is one, and the server serves afterwards.
"""

import contextlib
import socket

import pytest

from harness import golden
from harness.client import Client

STACK = dict(application="echo:application", threads=2)
CASES = golden.cases("http1")
DRIP_PIECES = 200


def send(client, data, pieces):
    """Sends all of it; a server that has refused may close before it has read everything."""
    try:
        if pieces == 1:
            client.send(data)
        else:
            client.drip(data, pieces)
    except (BrokenPipeError, ConnectionResetError):
        pass


def check_end(client, last):
    """What follows the last answer."""
    if last == "partial":
        assert client.is_silent(0.05), "an answer to half a request"
        return
    if last.isdigit() and int(last) >= 400:
        assert client.is_closed(), "open after an error"
        return
    if last == "close":
        assert client.read_to_end() == b""
        return
    with contextlib.suppress(OSError):
        client.sock.shutdown(socket.SHUT_WR)
    assert client.read_to_end() == b"", "bytes after the last answer"


def check(address, case, pieces):
    is_head = case.sent.startswith(b"HEAD ")
    with Client(address) as client:
        send(client, case.sent, pieces)
        for number, word in enumerate(case.expected):
            if not word.isdigit():
                break
            response = client.response("HEAD" if is_head and number == 0 else "GET")
            assert response.status == int(word)
            if number == 0 and case.body is not None and not is_head:
                assert response.body == case.body
        check_end(client, case.expected[-1])


@pytest.mark.parametrize("pieces", [1, DRIP_PIECES], ids=["whole", "dripped"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_case(stack, case, pieces):
    check(stack.server.address, case, pieces)
    assert stack.server.request("POST", "/", (), b"alive").body == b"alive"


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case.name)
def test_golden_case_over_unix(stack, case):
    check(stack.server.addresses[1], case, 1)


def test_there_are_enough_cases():
    assert len(CASES) >= 150


def test_no_case_harmed_the_worker(stack):
    assert "respawn" not in stack.server.log.text
    assert "Traceback" not in stack.server.log.text
