"""`wsgiref.validate` of the standard library around an application: the server's half of the
contract as its authors check it, on every front.
"""

import pytest

from harness.client import chunked

STACK = dict(application="pep3333:application", threads=2)

PATHS = ["", "/", "/a/b", "/caf%C3%A9", "/%E9%FF", "/a%20b", "/a+b", "/a;b=c"]


@pytest.fixture(autouse=True)
def no_complaint(stack):
    """The validator also complains in the log, when an iterator is dropped without close()."""
    mark = stack.server.log.mark()
    yield
    said = stack.server.log.after(mark)
    assert "AssertionError" not in said and "without being closed" not in said, said
    assert "WSGIWarning" not in said, said


@pytest.mark.parametrize("path", PATHS)
def test_get(front, path):
    response = front.request("GET", f"/validated{path}")
    assert (response.status, response.body) == (200, b"read 0")


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_post(front, size):
    assert front.request("POST", "/validated", (), b"b" * size).body == b"read %d" % size


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods(front, method):
    assert front.request(method, "/validated", (), b"body").body == b"read 4"


def test_chunked(front):
    headers = [("Transfer-Encoding", "chunked")]
    assert front.request("POST", "/validated", headers, chunked(b"ab", b"c")).body == b"read 3"


def test_head(front):
    with front.connect() as client:
        assert client.request("HEAD", "/validated").status == 200
        assert client.request("GET", "/validated").body == b"read 0"


@pytest.mark.parametrize("status", [204, 304, 301, 404, 500])
def test_statuses(front, status):
    with front.connect() as client:
        assert client.request("GET", f"/validated?{status}").status == status
        assert client.request("GET", "/validated").body == b"read 0"


@pytest.mark.parametrize("headers", [[("Cookie", "a=b"), ("Cookie", "c=d")], [("X-A", "\xff")]])
def test_headers(front, headers):
    assert front.request("GET", "/validated", headers).body == b"read 0"


@pytest.mark.fronts("direct")
def test_http_1_0(front):
    assert front.request("GET", "/validated", version="HTTP/1.0").body == b"read 0"
