"""PEP 3333, wsgi.input: every way of reading it, its end, and what happens when nobody reads it.

`io.BytesIO` over the same bytes is the judge: whatever calls are made, the results must be equal.
"""

import io
import json
import random

import pytest

from harness.client import chunked, encode_request

STACK = dict(application="pep3333:application", threads=4)

LINES = b"first\nsecond line\r\n\nfourth \x00\xff\xe9\nno newline at the end"
CHUNKED = [("Transfer-Encoding", "chunked")]

CALLS = {
    "read": [["read"]],
    "read-to-end-twice": [["read"], ["read"], ["read", 5]],
    "read-minus-one": [["read", -1]],
    "read-none": [["read", None]],
    "read-zero": [["read", 0], ["read", 0], ["read"]],
    "read-pieces": [["read", 7]] * 12,
    "read-more-than-there-is": [["read", 100_000], ["read", 1]],
    "readline": [["readline"]] * 7,
    "readline-limited": [["readline", 3]] * 25,
    "readline-zero": [["readline", 0], ["readline"]],
    "readline-minus-one": [["readline", -1], ["readline", None]],
    "readline-long-limit": [["readline", 1000]] * 6,
    "readlines": [["readlines"], ["readlines"]],
    "readlines-hint": [["readlines", 8], ["readlines"]],
    "readlines-hint-zero": [["readlines", 0]],
    "readlines-hint-none": [["readlines", None]],
    "iterate": [["iterate"], ["iterate"]],
    "next-then-read": [["next"], ["read", 3], ["readline"], ["iterate"]],
    "mixed": [["read", 2], ["readline"], ["readline", 4], ["read", 1], ["readlines"], ["read"]],
}


def expected(calls, body):
    """What BytesIO gives for the same calls."""
    stream = io.BytesIO(body)
    results = []
    for name, *arguments in calls:
        if name == "iterate":
            result = list(stream)
        elif name == "next":
            result = next(iter(stream), b"")
        else:
            result = getattr(stream, name)(*arguments)
        if isinstance(result, list):
            results.append([piece.decode("latin-1") for piece in result])
        else:
            results.append(result.decode("latin-1"))
    return results


def read(front, calls, body, headers=(), sent=None):
    headers = [("X-Calls", json.dumps(calls)), *headers]
    response = front.request("POST", "/read", headers, body if sent is None else sent)
    assert response.status == 200, response
    return json.loads(response.text)


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS.keys())
def test_calls_give_what_a_file_gives(front, calls):
    assert read(front, calls, LINES)["results"] == expected(calls, LINES)


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS.keys())
def test_calls_on_a_chunked_body(front, calls):
    sent = chunked(LINES[:1], LINES[1:30], LINES[30:])
    told = read(front, calls, LINES, CHUNKED, sent)
    assert told["results"] == expected(calls, LINES)
    assert (told["length"], told["terminated"]) == (str(len(LINES)), True)


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS.keys())
def test_calls_without_a_body(front, calls):
    headers = [("X-Calls", json.dumps(calls))]
    told = json.loads(front.request("GET", "/read", headers).text)
    assert told["results"] == expected(calls, b"")


@pytest.mark.parametrize("seed", range(12))
def test_random_calls_on_random_bodies(front, seed):
    chance = random.Random(seed)
    size = chance.choice([1, 100, 5_000, 70_000, 200_000])
    body = bytes(chance.choice(b"abc\n\r\x00\xff") for _ in range(size))
    calls = []
    for _ in range(40):
        name = chance.choice(["read", "read", "readline", "readline", "readlines", "next"])
        limit = chance.choice([0, 1, 2, 10, 1000, 20_000])
        calls.append([name] if name == "next" else [name, limit])
    calls.append(["read"])
    calls = [call for call in calls if call != ["readlines", 0]]
    assert read(front, calls, body)["results"] == expected(calls, body)


def test_every_byte_value_arrives(front):
    body = bytes(range(256)) * 3
    assert read(front, [["read"]], body)["results"] == [body.decode("latin-1")]


@pytest.mark.fronts("direct")
def test_end_of_input_is_at_content_length(front):
    body = b"12345"
    headers = [("X-Calls", json.dumps([["read"], ["read"], ["readline"]]))]
    first = encode_request("POST", "/read", headers, body)
    second = encode_request("GET", "/numbered?second")
    with front.connect() as client:
        client.send(first + second)
        assert json.loads(client.response().text)["results"] == ["12345", "", ""]
        assert client.response().body == b"second"


@pytest.mark.parametrize("path, answer", [("/ignore-input", "ignored"), ("/read-some", "abc")])
@pytest.mark.parametrize("size", [3, 5_000, 300_000])
def test_unread_input_is_not_taken_for_the_next_request(front, path, answer, size):
    body = (b"abc" + b"GET /environ HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)[:size]
    with front.connect() as client:
        for number in range(3):
            assert json.loads(client.request("POST", path, (), body).text) == answer
            told = client.request("GET", f"/numbered?{number}")
            assert told.body == str(number).encode()


@pytest.mark.parametrize("path, answer", [("/ignore-input", "ignored"), ("/read-some", "abc")])
def test_unread_chunked_input_is_not_taken_for_the_next_request(front, path, answer):
    sent = chunked(b"abc", b"GET /environ HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    with front.connect() as client:
        assert json.loads(client.request("POST", path, CHUNKED, sent).text) == answer
        assert client.request("GET", "/numbered?next").body == b"next"


def test_closing_the_streams_is_harmless(front):
    with front.connect() as client:
        for _ in range(2):
            assert client.request("POST", "/close-streams", (), b"body").status == 200
            headers = [("X-Calls", json.dumps([["read"]]))]
            told = json.loads(client.request("POST", "/read", headers, b"again").text)
            assert told["results"] == ["again"]


def test_objects_used_after_their_request_raise(front):
    token = front.stack.token()
    response = front.request("POST", f"/use-after-end?token={token}", (), b"some input")
    assert response.body == b"body"
    # A request on the same seats in between: its bytes must not be reachable through old objects.
    front.request("POST", "/ignore-input", (), b"another request's input")
    front.stack.open_gate(token)
    outcomes = dict(front.stack.records(token, 6))
    assert outcomes == dict.fromkeys(
        ["read", "readline", "readlines", "iterate", "start_response", "write"], "ValueError"
    )


@pytest.mark.parametrize("pieces", [2, 40])
def test_body_that_arrives_in_pieces(front, pieces):
    calls = [["readline"], ["read"]]
    headers = [("X-Calls", json.dumps(calls))]
    with front.connect() as client:
        client.drip(encode_request("POST", "/read", headers, LINES), pieces, 0.002)
        assert json.loads(client.response().text)["results"] == expected(calls, LINES)


@pytest.mark.fronts("direct")
def test_chunked_body_that_arrives_byte_by_byte(front):
    sent = b"3;ext=1\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: dropped\r\n\r\n"
    headers = [("X-Calls", json.dumps([["read"]])), *CHUNKED]
    with front.connect() as client:
        client.send(encode_request("POST", "/read", headers))
        client.drip(sent, len(sent), 0.001)
        assert json.loads(client.response().text)["results"] == ["abc0123456789"]
        assert client.request("GET", "/numbered?next").body == b"next"
