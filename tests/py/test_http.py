"""HTTP/1 as a client sees it: keep-alive, pipelining, Expect, HTTP/1.0, limits at, below and above,
timeouts, and clients that vanish at each stage.
"""

import json
import socket
import time

import pytest

from harness.client import Client, chunked, encode_request

STACK = dict(application="transfer:application", threads=4)
CHUNKED = [("Transfer-Encoding", "chunked")]


def still_serves(front):
    assert front.request("GET", "/hello?alive").text == '"alive"'


def test_keep_alive_serves_many_requests(front):
    with front.connect() as client:
        for number in range(200):
            assert client.request("GET", f"/hello?{number}").text == f'"{number}"'


@pytest.mark.fronts("direct")
def test_pipelined_requests_are_answered_in_order(front):
    sent = b""
    for number in range(40):
        if number % 3 == 1:
            body = chunked(b"c" * number, b"d") if number % 2 else b"b" * number
            headers = CHUNKED if number % 2 else []
            sent += encode_request("POST", f"/hello?{number}", headers, body)
        else:
            sent += encode_request("HEAD" if number % 3 else "GET", f"/hello?{number}")
    with front.connect() as client:
        client.send(sent)
        for number in range(40):
            method = "HEAD" if number % 3 == 2 else "GET"
            response = client.response(method)
            assert response.text == ("" if method == "HEAD" else f'"{number}"')
        assert client.is_silent(0.05)


@pytest.mark.fronts("direct")
def test_pipelined_requests_cut_anywhere(front):
    sent = b"".join(encode_request("POST", f"/hello?{number}", (), b"body") for number in range(10))
    for cut in range(1, len(sent), 61):
        with front.connect() as client:
            client.send(sent[:cut])
            client.send(sent[cut:])
            for number in range(10):
                assert client.response().text == f'"{number}"'


@pytest.mark.fronts("direct")
def test_what_follows_a_close_is_not_served(front):
    token = front.stack.token()
    front.stack.open_gate(token)
    first = encode_request("GET", "/hello?1", [("Connection", "close")])
    with front.connect() as client:
        client.send(first + encode_request("GET", f"/gate?token={token}"))
        assert client.response().text == '"1"'
        assert client.read_to_end() == b""
    assert front.stack.records(token, 1, 0.1) == []


@pytest.mark.fronts("direct")
def test_close_is_announced(front):
    response = front.request("GET", "/hello?1", [("Connection", "close")])
    assert response.header("Connection").lower() == "close"


@pytest.mark.fronts("direct")
def test_http_1_0_closes(front):
    with front.connect() as client:
        response = client.request("GET", "/hello?1", version="HTTP/1.0", host=None)
        assert response.text == '"1"'
        assert client.is_closed()


@pytest.mark.fronts("direct")
def test_http_1_0_keeps_the_connection_when_asked_and_told(front):
    with front.connect() as client:
        for _ in range(3):
            headers = [("Connection", "Keep-Alive")]
            response = client.request("GET", "/hello?1", headers, version="HTTP/1.0")
            if (response.header("Connection") or "").lower() != "keep-alive":
                assert client.is_closed()
                return
            assert response.framing == "length"


@pytest.mark.fronts("direct")
def test_expect_continue_is_answered_before_the_body(front):
    headers = [("Expect", "100-Continue"), ("Content-Length", "4")]
    with front.connect() as client:
        for _ in range(2):
            client.send(encode_request("POST", "/upload?token=x", headers))
            assert client.head().status == 100
            client.send(b"body")
            assert json.loads(client.response().text)["size"] == 4


@pytest.mark.fronts("direct")
def test_expect_continue_with_a_chunked_body(front):
    with front.connect() as client:
        headers = [("Expect", "100-continue"), *CHUNKED]
        client.send(encode_request("POST", "/upload?token=x", headers))
        assert client.head().status == 100
        client.send(chunked(b"bo", b"dy"))
        assert json.loads(client.response().text)["size"] == 4


@pytest.mark.fronts("direct")
def test_expect_continue_when_the_client_does_not_wait(front):
    with front.connect() as client:
        for _ in range(2):
            response = client.request(
                "POST", "/upload?token=x", [("Expect", "100-continue")], b"body"
            )
            assert json.loads(response.text)["size"] == 4


@pytest.mark.fronts("direct")
def test_expect_continue_of_http_1_0_is_ignored(front):
    with front.connect() as client:
        client.send(
            encode_request(
                "POST", "/upload?token=x", [("Expect", "100-continue")], b"body", "HTTP/1.0"
            )
        )
        response = client.response()
        assert (response.status, response.interim) == (200, [])


@pytest.mark.fronts("direct")
def test_unknown_expectation_gets_417(front):
    assert front.request("GET", "/hello?1", [("Expect", "miracles")]).status == 417


@pytest.mark.fronts("direct")
def test_upgrade_is_not_obeyed(front):
    headers = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]
    assert front.request("GET", "/hello?1", headers).status == 200


@pytest.mark.fronts("direct")
def test_half_closed_client_gets_its_answer(front):
    with front.connect() as client:
        client.send(encode_request("POST", "/hello?1", (), b"body"))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().text == '"1"'
        assert client.is_closed()


@pytest.mark.fronts("direct")
def test_answer_is_not_lost_when_the_body_is_unread(front):
    """Closing with unread input would reset the connection under the answer."""
    for _ in range(10):
        with front.connect() as client:
            headers = [("Connection", "close")]
            client.send(encode_request("POST", "/hello?1", headers, b"b" * 400_000))
            assert client.response().text == '"1"'
            assert client.read_to_end() == b""


VANISHING = {
    "at-once": b"",
    "in-the-request-line": b"GET /hel",
    "in-the-head": b"GET /hello?x HTTP/1.1\r\nHost: a\r\nX-",
    "before-the-body": encode_request("POST", "/upload?token=x", [("Content-Length", "100")]),
    "in-the-body": encode_request("POST", "/upload?token=x", [("Content-Length", "9")], b"half"),
    "in-a-chunk-size": encode_request("POST", "/upload?token=x", CHUNKED, b"1"),
    "in-a-chunk": encode_request("POST", "/upload?token=x", CHUNKED, b"5\r\nab"),
    "in-the-spool": encode_request(
        "POST", "/upload?token=x", [("Content-Length", "5000000")], b"b" * 3_000_000
    ),
    "after-the-request": encode_request("GET", "/download?token=x&size=100"),
    "in-the-answer": encode_request("GET", "/download?token=x&size=5000000"),
    "in-a-pipeline": encode_request("GET", "/hello?x") * 50,
}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("stage", VANISHING)
def test_client_that_vanishes(front, stage, end):
    for number in range(10):
        client = front.connect()
        try:
            client.send(VANISHING[stage])
            if stage == "in-the-answer" and number % 2:
                client.read_some(1000)
        except ConnectionError:
            pass
        getattr(client, end)()
    still_serves(front)
    workers = front.stack.server.workers()
    assert len(workers) == 1


# Limits: at the limit is fine, one beyond is not.


@pytest.fixture(scope="module")
def limited(interpreter):
    from harness.server import Server

    options = ["--limit-request-line", 200, "--limit-request-fields", 10]
    options += ["--limit-request-field-size", 300, "--limit-request-head", 1500]
    options += ["--limit-request-body", 1000]
    with Server("transfer:application", python=interpreter, options=options, threads=2) as server:
        yield server


def line_of(size):
    """A request whose request line has `size` bytes without its line end."""
    return encode_request("GET", "/hello?" + "q" * (size - len("GET /hello? HTTP/1.1")))


def fields_of(count):
    """A request with `count` header fields, Host among them."""
    return encode_request("GET", "/hello?x", [(f"X-{number}", "v") for number in range(count - 1)])


def field_of(size):
    """A request with one field of `size` bytes without its line end."""
    return encode_request("GET", "/hello?x", [("X-A", "v" * (size - len("X-A: ")))])


def head_of(size):
    """A request whose whole head has `size` bytes, each field within its limit."""
    fields = [(f"X-{number}", "v" * 250) for number in range(5)]
    missing = size - len(encode_request("GET", "/hello?x", fields)) - len("X-Z: \r\n")
    return encode_request("GET", "/hello?x", [*fields, ("X-Z", "v" * missing)])


def body_of(size):
    return encode_request("POST", "/upload?token=x", (), b"b" * size)


def chunked_body_of(size):
    body = chunked(*[b"b" * 100] * (size // 100), b"b" * (size % 100))
    return encode_request("POST", "/upload?token=x", CHUNKED, body)


LIMITS = {
    "request-line": (line_of, 200, 414),
    "request-fields": (fields_of, 10, 431),
    "request-field-size": (field_of, 300, 431),
    "request-head": (head_of, 1500, 431),
    "request-body": (body_of, 1000, 413),
    "request-body-chunked": (chunked_body_of, 1000, 413),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limit_below_and_at(limited, name):
    make, limit, _ = LIMITS[name]
    with limited.connect() as client:
        for size in (limit - 1, limit):
            client.send(make(size))
            assert client.response().status == 200


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("beyond", [1, 500, 20_000])
def test_limit_above(limited, name, beyond):
    make, limit, status = LIMITS[name]
    if name == "request-fields":
        beyond = min(beyond, 30)
    if name == "request-head":
        beyond = min(beyond, 40)
    with limited.connect() as client:
        try:
            client.send(make(limit + beyond))
        except ConnectionError:
            pass
        assert client.response().status == status
        assert client.is_closed()
    assert limited.request("GET", "/hello?x").status == 200


def test_body_beyond_its_limit_is_refused_without_100(limited):
    headers = [("Expect", "100-continue"), ("Content-Length", "1001")]
    with limited.connect() as client:
        client.send(encode_request("POST", "/upload?token=x", headers))
        response = client.response()
        assert (response.status, response.interim) == (413, [])


# Timeouts, small ones: what they end, and what they leave alone.


@pytest.fixture(scope="module")
def hurried(interpreter):
    from harness.server import Server

    options = ["--keep-alive", 1, "--header-timeout", 0.6, "--body-timeout", 0.6]
    options += ["--send-timeout", 0.6]
    with Server("transfer:application", python=interpreter, options=options, threads=4) as server:
        yield server


def ends_between(client, low, high, status):
    """The connection ends in this time, with this status or silently."""
    started = time.monotonic()
    client.sock.settimeout(high + 5)
    data = client.read_to_end()
    waited = time.monotonic() - started
    assert data == b"" or data.startswith(b"HTTP/1.1 %d " % status), data
    assert low <= waited <= high, f"ended after {waited:.2f} s"


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX-"])
def test_header_timeout(hurried, sent):
    with hurried.connect() as client:
        client.send(sent)
        ends_between(client, 0.3, 3, 408)


def test_header_timeout_on_a_used_connection(hurried):
    with hurried.connect() as client:
        assert client.request("GET", "/hello?x").status == 200
        client.send(b"GET /hel")
        ends_between(client, 0.3, 3, 408)


@pytest.mark.parametrize("framing", [("Content-Length", "10"), *CHUNKED])
def test_body_timeout(hurried, framing):
    with hurried.connect() as client:
        client.send(encode_request("POST", "/upload?token=x", [framing], b"5\r\nab"))
        ends_between(client, 0.3, 3, 408)


def test_slow_but_steady_body_is_served(hurried):
    with hurried.connect() as client:
        client.send(encode_request("POST", "/upload?token=x", [("Content-Length", "20")]))
        client.drip(b"b" * 20, 10, 0.12)
        assert json.loads(client.response().text)["size"] == 20


def test_slowloris_is_cut(hurried):
    """A head that comes byte by byte, each in time, does not hold its connection for long."""
    started = time.monotonic()
    with hurried.connect() as client:
        for byte in encode_request("GET", "/hello?x", [("X-Slow", "s" * 200)]):
            try:
                client.send(bytes([byte]))
            except ConnectionError:
                break
            if not client.is_silent(0.1):
                break
        rest = client.read_to_end()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 5


def test_keep_alive_timeout(hurried):
    with hurried.connect() as client:
        assert client.request("GET", "/hello?x").status == 200
        ends_between(client, 0.7, 4, 408)


def test_connection_that_sends_nothing_is_closed(hurried):
    with hurried.connect() as client:
        ends_between(client, 0.3, 4, 408)


def test_send_timeout(hurried):
    token = "send-timeout"
    with Client(hurried.address, receive_buffer=4096) as client:
        client.send(encode_request("GET", f"/download?token={token}&size=200000000"))
        assert client.head().status == 200
        path = f"/shared/records?token={token}&count=1&seconds=6"
        assert len(json.loads(hurried.request("GET", path).text)) == 1, "the application goes on"


def test_slow_application_is_not_timed_out(hurried, tmp_path):
    gate = tmp_path / "gate"
    with hurried.connect() as client:
        client.send(encode_request("GET", f"/hold?until={gate}"))
        assert client.is_silent(1.5)
        gate.touch()
        assert client.response().text == '"held"'


def test_keep_alive_zero_closes_after_each_answer(start):
    server = start("transfer:application", options=["--keep-alive", "0"])
    with server.connect() as client:
        response = client.request("GET", "/hello?x")
        assert response.header("Connection").lower() == "close"
        assert client.is_closed()
