"""Flask, Bottle, Falcon and Pyramid, each with the same routes, on every front. Django has a file
of its own.
"""

import hashlib
import json
from pathlib import Path

import pytest

from harness import forms, fronts
from harness.client import chunked
from harness.server import APPS

FRAMEWORKS = ["flask", "bottle", "falcon", "pyramid"]
FOLDER = APPS / "frameworks"


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture(scope="module")
def stack(framework, interpreter):
    stack = fronts.Stack(
        f"{framework}_app:application", python=interpreter, threads=2, pythonpath=FOLDER
    ).start()
    yield stack
    stack.stop()


def test_path_and_query_in_unicode(front):
    response = front.request("GET", "/hello/J%C3%BCrgen%20%E2%82%AC?greeting=gr%C3%BC%C3%9Fe")
    assert response.text == "Hello J\u00fcrgen \u20ac, gr\u00fc\u00dfe"


def test_form(front):
    headers, body = forms.urlencoded([("b", "2"), ("a", "\u20ac & \u00fc"), ("b", "3")])
    response = front.request("POST", "/form", headers, body)
    assert json.loads(response.text) == [["a", ["\u20ac & \u00fc"]], ["b", ["2", "3"]]]


@pytest.mark.parametrize("size", [1, 200_000])
def test_json(front, size):
    value = {"text": "\u00e9" * size}
    headers = [("Content-Type", "application/json")]
    response = front.request("POST", "/json", headers, json.dumps(value).encode())
    assert json.loads(response.text) == {"received": value}


def test_chunked_json(front):
    headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    response = front.request("POST", "/json", headers, chunked(b'{"a":', b" [1, 2]}"))
    assert json.loads(response.text) == {"received": {"a": [1, 2]}}


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_file_upload(front, size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    headers, body = forms.multipart({"text": "words"}, {"file": ("name.bin", data)})
    response = front.request("POST", "/upload", headers, body)
    assert json.loads(response.text) == {
        "filename": "name.bin",
        "size": size,
        "sha256": hashlib.sha256(data).hexdigest(),
        "text": "words",
    }


def test_raw_body(front):
    with front.connect() as client:
        for size in (0, 5, 100_000):
            headers = [("Content-Type", "application/octet-stream")]
            response = client.request("POST", "/raw", headers, b"r" * size)
            assert json.loads(response.text) == {"size": size}


def test_streamed_response(front):
    with front.connect() as client:
        for _ in range(2):
            response = client.request("GET", "/stream")
            assert response.text == "".join(f"line {number}\n" for number in range(1000))


def test_file_response(front, framework):
    with front.connect() as client:
        for _ in range(2):
            response = client.request("GET", "/file")
            assert response.body == Path(FOLDER / f"{framework}_app.py").read_bytes()


def test_redirect(front):
    response = front.request("GET", "/redirect")
    assert response.status == 302
    assert response.header("Location").endswith("/hello/again")


def test_session_cookie(front):
    with front.connect() as client:
        login = client.request("GET", "/login")
        assert login.text == "in"
        assert client.request("GET", "/whoami").text == "nobody"
        headers = forms.cookies(login)
        assert client.request("GET", "/whoami", headers).text == "alice"


@pytest.mark.parametrize("path, status", [("/missing", 404), ("/not-a-route", 404)])
def test_not_found(front, path, status):
    assert front.request("GET", path).status == status


def test_method_not_allowed(front):
    assert front.request("DELETE", "/form").status in (404, 405)


def test_error_gives_500_and_a_traceback(front, framework):
    mark = front.stack.server.log.mark()
    assert front.request("GET", "/error").status == 500
    front.stack.server.log.wait_for(f"RuntimeError: an error in {framework}", 5, since=mark)
    assert front.request("GET", "/hello/x").status == 200


def test_head(front):
    with front.connect() as client:
        # Falcon answers HEAD only where a resource says so.
        assert client.request("HEAD", "/hello/x").status in (200, 405)
        assert client.request("GET", "/hello/x").text == "Hello x, "


def test_no_content(front):
    with front.connect() as client:
        assert client.request("GET", "/nothing").status == 204
        assert client.request("GET", "/hello/x").status == 200
