"""PEP 3333, wsgi.file_wrapper: from where and to where a file is sent, and its close()."""

import pytest

from harness.client import Truncated

STACK = dict(application="pep3333:application", threads=4)

CONTENT = bytes(range(256)) * 40
LARGE = b"0123456789abcdef" * 320_000

BODIES = {
    "file": CONTENT,
    "file-at-100": CONTENT[100:],
    "file-at-end": b"",
    "file-empty": b"",
    "file-large": LARGE,
    "file-after-readline": CONTENT,
    "bytesio": CONTENT,
    "bytesio-at-100": CONTENT[100:],
    "recording": CONTENT,
    "no-close": CONTENT,
    "bad-fileno": CONTENT,
    "pipe": b"through a pipe",
}


@pytest.mark.parametrize("kind", BODIES)
def test_file_is_sent_from_its_position(front, kind):
    with front.connect() as client:
        for _ in range(2):
            assert client.request("GET", f"/file/{kind}?token=unused").body == BODIES[kind]


@pytest.mark.parametrize("kind", BODIES)
def test_block_size_changes_nothing(front, kind):
    assert front.request("GET", f"/file/{kind}?token=unused&block=7000").body == BODIES[kind]


@pytest.mark.parametrize(
    "kind", ["file", "file-at-100", "file-after-readline", "bytesio", "recording"]
)
@pytest.mark.parametrize("length", [0, 1, 5000])
def test_file_keeps_to_content_length(front, kind, length):
    with front.connect() as client:
        response = client.request("GET", f"/file/{kind}?token=unused&length={length}")
        assert response.body == BODIES[kind][:length]
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("kind", ["file-at-100", "bytesio", "recording"])
def test_file_shorter_than_content_length_closes_the_connection(front, kind):
    with front.connect() as client, pytest.raises(Truncated):
        client.request("GET", f"/file/{kind}?token=unused&length=10300")


@pytest.mark.parametrize("kind", ["file", "file-large", "bytesio", "recording"])
def test_head_of_a_file(front, kind):
    with front.connect() as client:
        assert client.request("HEAD", f"/file/{kind}?token=unused").status == 200
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["recording", "bad-fileno"])
def test_file_is_closed_once(front, method, kind):
    token = front.stack.token()
    front.request(method, f"/file/{kind}?token={token}")
    assert front.stack.records(token) == ["close"]
    assert front.stack.records(token, 2, 0.2) == ["close"]


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("kind", ["file", "file-large", "bytesio"])
def test_file_to_http_1_0(front, kind):
    response = front.request("GET", f"/file/{kind}?token=unused", version="HTTP/1.0")
    assert response.body == BODIES[kind]


def test_wrapper_is_an_ordinary_iterable_without_early_io(front):
    told = front.request("GET", "/file-facts?token=unused").text
    assert told == "untouched=True close=True no-close=False iterable=True"


def test_wrapper_in_a_middleware_is_not_short_cut(front):
    token = front.stack.token()
    response = front.request("GET", f"/file-in-middleware?token={token}")
    assert response.body == b"".join(
        CONTENT[start : start + 1000].upper() for start in range(0, len(CONTENT), 1000)
    )
    assert front.stack.records(token) == ["close"]


def test_wrapper_that_is_not_returned_is_not_sent(front):
    assert front.request("GET", "/file-dropped").body == b"something else"


def test_file_after_write_keeps_its_place(front):
    assert front.request("GET", "/file-after-write").body == b"before the file"
