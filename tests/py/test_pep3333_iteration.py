"""PEP 3333, the returned iterable: its kinds, when its pieces leave, when its close() is called,
and how the end of the body is marked.
"""

import concurrent.futures

import pytest

from harness.client import Truncated

STACK = dict(application="pep3333:application", threads=6)

BODIES = {
    "list": b"alist",
    "one": b"one",
    "tuple": b"atuple",
    "tuple-one": b"one",
    "set": b"set",
    "generator": b"generator",
    "iterator": b"iterator",
    "dict": b"dict",
    "indexed": b"indexed",
    "iter-only": b"iter-only",
    "empty": b"",
    "empty-generator": b"",
    "only-empty-pieces": b"",
    "with-empty-pieces": b"ab",
    "closing": b"closing",
    "closing-one": b"closing",
    "watched": b"watched",
    "large": b"l" * 3_000_000,
    "many": b"".join(b"%d," % number for number in range(20_000)),
}


@pytest.mark.parametrize("kind", BODIES)
def test_body_of_every_kind_of_iterable(front, kind):
    with front.connect() as client:
        for _ in range(2):
            response = client.request("GET", f"/iterable/{kind}?token=unused")
            assert response.status == 200
            assert response.body == BODIES[kind]


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("kind", BODIES)
def test_body_of_every_kind_to_http_1_0(front, kind):
    with front.connect() as client:
        response = client.request("GET", f"/iterable/{kind}?token=unused", version="HTTP/1.0")
        assert response.body == BODIES[kind]
        assert response.header("Transfer-Encoding") is None
        assert client.is_closed()


@pytest.mark.parametrize("kind", BODIES)
def test_head_has_no_body(front, kind):
    with front.connect() as client:
        assert client.request("HEAD", f"/iterable/{kind}?token=unused").status == 200
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("status", ["204", "304"])
@pytest.mark.parametrize("kind", ["one", "list", "generator", "closing", "empty", "many"])
def test_statuses_without_body_have_none(front, status, kind):
    with front.connect() as client:
        path = f"/iterable-with-status/{kind}?token=unused&status={status}"
        response = client.request("GET", path)
        assert (response.status, response.body) == (int(status), b"")
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("kind", ["one", "generator"])
def test_204_drops_the_applications_content_length(front, kind):
    path = f"/iterable-with-status/{kind}?token=unused&status=204&length=9"
    response = front.request("GET", path)
    assert (response.status, response.header("Content-Length")) == (204, None)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("kind", ["empty", "generator"])
def test_304_keeps_the_applications_content_length(front, kind):
    path = f"/iterable-with-status/{kind}?token=unused&status=304&length=9"
    with front.connect() as client:
        assert client.request("GET", path).header("Content-Length") == "9"
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("kind", ["empty", "one", "generator"])
def test_head_keeps_the_applications_content_length(front, kind):
    path = f"/iterable-with-status/{kind}?token=unused&status=200&length=12345"
    with front.connect() as client:
        response = client.request("HEAD", path)
        assert response.header("Content-Length") == "12345"
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("kind", ["one", "tuple-one", "large"])
def test_single_piece_gets_a_content_length(front, kind):
    response = front.request("GET", f"/iterable/{kind}?token=unused")
    assert response.header("Content-Length") == str(len(BODIES[kind]))


@pytest.mark.fronts("direct")
def test_empty_body_gets_content_length_zero(front):
    for kind in ("empty", "empty-generator", "only-empty-pieces", "empty-bytes"):
        response = front.request("GET", f"/iterable/{kind}")
        assert (response.header("Content-Length"), response.body) == ("0", b""), kind


@pytest.mark.fronts("direct")
def test_unknown_length_is_chunked_and_keeps_the_connection(front):
    with front.connect() as client:
        for _ in range(3):
            response = client.request("GET", "/iterable/generator")
            assert (response.framing, response.body) == ("chunked", b"generator")


def read_piece(client, head, piece):
    """Reads `piece` as it comes: bare or as one chunk."""
    if head.header("Transfer-Encoding"):
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
    assert client.read_exactly(len(piece)) == piece


def test_headers_wait_for_the_first_non_empty_piece(front):
    token = front.stack.token()
    with front.connect() as client:
        client.send(f"GET /stepwise?token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert front.stack.records(token, 2) == ["started", "after the empty piece"]
        assert client.is_silent(0.2), "start_response or an empty piece sent the headers"
        front.stack.open_gate(token + "-1")
        read_piece(client, client.head(), b"first")
        front.stack.open_gate(token + "-2")


def test_each_piece_leaves_before_the_next_is_asked_for(front):
    token = front.stack.token()
    front.stack.open_gate(token + "-1")
    with front.connect() as client:
        client.send(f"GET /stepwise?token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = client.head()
        read_piece(client, head, b"first")
        front.stack.open_gate(token + "-2")
        read_piece(client, head, b"second")


@pytest.mark.parametrize(
    "kind, taken", [("closing", 2), ("closing-one", 1), ("closing-never-iterated", 0)]
)
def test_close_is_called_once_at_the_end(front, kind, taken):
    token = front.stack.token()
    front.request("GET", f"/iterable/{kind}?token={token}")
    assert front.stack.records(token) == [{"close": True, "taken": taken}]
    assert len(front.stack.records(token, 2, 0.2)) == 1


def test_close_is_called_for_head(front):
    token = front.stack.token()
    front.request("HEAD", f"/iterable/closing?token={token}")
    assert len(front.stack.records(token)) == 1


@pytest.mark.parametrize("status", ["204", "304"])
def test_close_is_called_for_statuses_without_body(front, status):
    token = front.stack.token()
    front.request("GET", f"/iterable-with-status/closing?token={token}&status={status}")
    assert len(front.stack.records(token)) == 1


@pytest.mark.parametrize("kind", ["closing-fails", "closing-fails-first"])
def test_close_is_called_when_the_iterable_raises(front, kind):
    token = front.stack.token()
    with front.connect() as client:
        client.send(f"GET /iterable/{kind}?token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert len(front.stack.records(token)) == 1


def test_close_is_called_when_content_length_is_reached(front):
    token = front.stack.token()
    path = f"/iterable-with-length/closing-long?token={token}&length=2500"
    assert front.request("GET", path).body == b"x" * 2500
    [told] = front.stack.records(token)
    assert told["close"] and told["taken"] < 10, "iteration stops when the length is reached"


@pytest.mark.parametrize("case", ["endless", "late-endless"])
def test_close_is_called_when_the_client_goes(front, case):
    token = front.stack.token()
    with front.connect() as client:
        client.send(f"GET /{case}?token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.head().status == 200
        client.read_exactly(50_000)
    assert len(front.stack.records(token, 1, 10)) == 1


def test_nothing_but_the_iterable_protocol_is_touched(front):
    token = front.stack.token()
    front.request("GET", f"/iterable/watched?token={token}")
    touched = set(front.stack.records(token, 1, 0.5))
    assert touched <= {"close", "__iter__", "__next__", "__len__"}


@pytest.mark.parametrize("stated, given, piece", [(10, 10, 3), (10, 10, 10), (3, 3, 1), (0, 0, 1)])
def test_body_of_the_stated_length(front, stated, given, piece):
    with front.connect() as client:
        for _ in range(2):
            path = f"/length?token=unused&stated={stated}&given={given}&piece={piece}"
            response = client.request("GET", path)
            assert (response.header("Content-Length"), response.body) == (
                str(stated),
                b"x" * given,
            )


@pytest.mark.parametrize(
    "stated, given, piece", [(10, 11, 3), (10, 1000, 10), (0, 5, 5), (3, 9, 9)]
)
def test_body_longer_than_stated_is_cut_at_the_length(front, stated, given, piece):
    with front.connect() as client:
        for _ in range(2):
            path = f"/length?token=unused&stated={stated}&given={given}&piece={piece}"
            assert client.request("GET", path).body == b"x" * stated
            assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("stated, given, piece", [(10, 9, 3), (10, 1, 1), (5, 0, 1)])
def test_body_shorter_than_stated_closes_the_connection(front, stated, given, piece):
    path = f"/length?token=unused&stated={stated}&given={given}&piece={piece}"
    with front.connect() as client:
        if given == 0:
            # Nothing was sent when the shortness is known: an error page is as honest as a cut.
            try:
                assert client.request("GET", path).status in (500, 502)
            except Truncated:
                pass
        else:
            with pytest.raises(Truncated) as cut:
                client.request("GET", path)
            assert cut.value.partial in (b"", b"x" * given)
    assert front.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("stated, given", [(10, 10), (10, 20), (0, 3)])
def test_single_piece_is_held_to_its_stated_length(front, stated, given):
    with front.connect() as client:
        path = f"/length-list?stated={stated}&given={given}"
        assert client.request("GET", path).body == b"x" * stated
        assert client.request("GET", "/numbered?next").body == b"next"


def test_single_piece_shorter_than_stated_closes_the_connection(front):
    with front.connect() as client, pytest.raises(Truncated):
        client.request("GET", "/length-list?stated=10&given=5")


def test_answers_are_never_mixed_up(front):
    def ask(worker):
        with front.connect() as client:
            for number in range(50):
                mark = f"{worker}-{number}"
                response = client.request("GET", f"/numbered?{mark}")
                assert (response.text, response.header("X-Number")) == (mark, mark)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ask, worker) for worker in range(8)]:
            done.result()
