"""The uwsgi protocol, spoken raw to the server over TCP and Unix: modifiers, variables, framing of
answers, trust.
"""

import json
import socket
import time

import pytest

from harness import uwsgi
from harness.client import Client, Truncated

STACK = dict(application="pep3333:application", threads=4)
PONG = b"\x64\x00\x00\x01"


@pytest.fixture(params=["tcp", "unix"])
def listener(request, stack):
    return stack.server.addresses[2 if request.param == "tcp" else 3]


def ask(address, path="/environ", method="GET", body=None, modifier1=0, **rest):
    """One request; the answer must be followed by the connection's end, and soon."""
    with Client(address) as client:
        client.send(uwsgi.request(path, body, modifier1, method=method, **rest))
        response = client.response(method)
        started = time.monotonic()
        assert client.is_closed(2)
        assert time.monotonic() - started < 1
        assert response.header("Transfer-Encoding") is None
        return response


def environ(address, **rest):
    response = ask(address, **rest)
    assert response.status == 200, response
    return json.loads(response.text)["plain"]


def ask_packet(address, pairs, **rest):
    with Client(address) as client:
        client.send(uwsgi.packet(pairs, **rest))
        return client.response()


def test_request_and_answer(listener):
    plain = environ(listener, query="a=b", headers=[("X-A", "b")])
    assert plain["REQUEST_METHOD"] == "GET"
    assert (plain["PATH_INFO"], plain["QUERY_STRING"]) == ("/environ", "a=b")
    assert plain["REQUEST_URI"] == "/environ?a=b"
    assert (plain["REMOTE_ADDR"], plain["REMOTE_PORT"]) == ("192.0.2.7", "40000")
    assert (plain["SERVER_NAME"], plain["SERVER_PORT"]) == ("front.example", "80")
    assert plain["HTTP_X_A"] == "b"


def test_own_variables_are_passed_on(listener):
    plain = environ(listener, REMOTE_USER="alice", DOCUMENT_ROOT="/srv", x_own="kept")
    assert (plain["REMOTE_USER"], plain["DOCUMENT_ROOT"]) == ("alice", "/srv")
    assert plain["x_own"] == "kept"


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000])
def test_body(listener, size):
    body = bytes(range(256)) * (size // 256 + 1)
    told = json.loads(ask(listener, "/digest", "POST", body[:size]).text)
    assert (told["size"], told["length"]) == (size, str(size))


def test_request_that_arrives_byte_by_byte(listener):
    sent = uwsgi.request("/validated", b"a body", method="POST")
    with Client(listener) as client:
        client.drip(sent, len(sent), 0.0005)
        assert client.response().body == b"read 6"


@pytest.mark.parametrize(
    "kind, body", [("one", b"one"), ("generator", b"generator"), ("large", b"l" * 3_000_000)]
)
def test_answers_are_never_chunked(listener, kind, body):
    response = ask(listener, f"/iterable/{kind}")
    assert response.body == body
    assert response.framing in ("length", "close")


@pytest.mark.parametrize("kind", ["one", "generator", "large"])
def test_head_ends_promptly_without_body(listener, kind):
    response = ask(listener, f"/iterable/{kind}", "HEAD")
    assert (response.status, response.body) == (200, b"")


@pytest.mark.parametrize("status", ["204", "304"])
@pytest.mark.parametrize("kind", ["one", "generator"])
def test_statuses_without_body(listener, status, kind):
    response = ask(listener, f"/iterable-with-status/{kind}", query=f"status={status}")
    assert (response.status, response.body) == (int(status), b"")


def test_exception_gives_500(listener):
    assert ask(listener, "/raise-first").status == 500


def test_short_body_ends_before_its_length(listener):
    with Client(listener) as client, pytest.raises(Truncated):
        client.send(uwsgi.request("/length", query="token=t&stated=100&given=40&piece=10"))
        client.response()


def test_excess_of_the_body_never_leaves(listener):
    with Client(listener) as client:
        client.send(uwsgi.request("/length", query="token=t&stated=40&given=100&piece=7"))
        assert client.response().body == b"x" * 40
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    "script, path, expected_script, expected_path",
    [
        ("/app", "/app/x", "/app", "/x"),
        ("/app", "/app", "/app", ""),
        ("/app", "/app/", "/app", "/"),
        ("/app", "/application", "/app", "/application"),
        ("/app", "/other", "/app", "/other"),
        ("", "/x", "", "/x"),
    ],
)
def test_modifier_30_cuts_script_name_at_a_boundary(
    listener, script, path, expected_script, expected_path
):
    plain = environ(
        listener, path=path, modifier1=30, SCRIPT_NAME=script, headers=[("X-Case", "environ")]
    )
    assert plain.get("SCRIPT_NAME", "") == expected_script
    assert plain.get("PATH_INFO", "") == expected_path


def test_modifier_0_leaves_path_info_alone(listener):
    plain = environ(listener, path="/app/x", SCRIPT_NAME="/app", headers=[("X-Case", "environ")])
    assert (plain["SCRIPT_NAME"], plain["PATH_INFO"]) == ("/app", "/app/x")


def test_ping_is_answered_by_pong(listener):
    with Client(listener) as client:
        client.send(b"\x64\x00\x00\x00")
        assert client.read_exactly(4) == PONG


@pytest.mark.parametrize("modifier1", [1, 22, 173, 255])
def test_other_modifiers_are_closed_and_logged(listener, stack, modifier1):
    mark = stack.server.log.mark()
    with Client(listener) as client:
        client.send(uwsgi.packet(uwsgi.variables(path="/environ"), modifier1))
        assert client.read_to_end() == b""
    stack.server.log.wait_for(rf"(?i)modifier.*\b{modifier1}\b", 2, since=mark)


def test_keys_of_the_http_framing_are_dropped(listener):
    extra = {
        "HTTP_TRANSFER_ENCODING": "chunked",
        "HTTP_CONTENT_LENGTH": "5",
        "HTTP_CONTENT_TYPE": "text/plain",
    }
    plain = environ(listener, **extra)
    assert not set(extra) & set(plain)
    assert "CONTENT_LENGTH" not in plain and "CONTENT_TYPE" not in plain


@pytest.mark.parametrize("count", [2, 5, 40])
def test_repeated_fields_are_joined(listener, count):
    pairs = uwsgi.variables(path="/environ")
    pairs += [("HTTP_X_A", f"v{number}") for number in range(count)]
    pairs += [("HTTP_COOKIE", f"c{number}=1") for number in range(count)]
    plain = json.loads(ask_packet(listener, pairs).text)["plain"]
    assert plain["HTTP_X_A"] == ", ".join(f"v{number}" for number in range(count))
    assert plain["HTTP_COOKIE"] == "; ".join(f"c{number}=1" for number in range(count))


def test_largest_packet_by_one_value(listener):
    pairs = uwsgi.variables(path="/environ")
    filled = len(uwsgi.packet(pairs)) - 4 + len(uwsgi.field("HTTP_X_LARGE")) + 2
    value = "v" * (65_535 - filled)
    packet = uwsgi.packet([*pairs, ("HTTP_X_LARGE", value)])
    assert len(packet) == 65_539
    with Client(listener) as client:
        client.send(packet)
        assert json.loads(client.response().text)["plain"]["HTTP_X_LARGE"] == value


def test_largest_packet_by_many_variables(listener):
    pairs = uwsgi.variables(path="/environ")
    filled = len(uwsgi.packet(pairs)) - 4
    pairs += [(f"K{number:05}", "") for number in range((65_535 - filled) // 10)]
    plain = json.loads(ask_packet(listener, pairs).text)["plain"]
    assert plain["K00000"] == "" and len([key for key in plain if key[0] == "K"]) > 6000


def test_values_are_latin_1(listener):
    plain = environ(listener, headers=[("X-A", "caf\u00e9 \u00ff")])
    assert plain["HTTP_X_A"] == "caf\u00e9 \u00ff"


@pytest.mark.parametrize("path", ["/environ/a%20b", "/environ/caf\u00c3\u00a9", "/environ/%zz"])
def test_path_info_is_not_decoded_again(listener, path):
    assert environ(listener, path=path)["PATH_INFO"] == path


@pytest.mark.parametrize("extra, scheme", [({"HTTPS": "on"}, "https"), ({"HTTPS": ""}, "http")])
def test_https_sets_the_scheme(listener, extra, scheme):
    response = ask(listener, "/environ-object", **extra)
    assert json.loads(response.text)["url_scheme"] == scheme


@pytest.mark.parametrize(
    "key, value",
    [
        ("UWSGI_FILE", "/etc/hostname"),
        ("UWSGI_SCRIPT", "hello"),
        ("UWSGI_MODULE", "hello"),
        ("UWSGI_SETENV", "REQUEST_METHOD=EVIL"),
        ("UWSGI_CHDIR", "/"),
        ("UWSGI_POSTFILE", "/etc/hostname"),
        ("UWSGI_SCHEME", "https"),
        ("UWSGI_TOUCH_RELOAD", "/"),
    ],
)
def test_magic_variables_are_not_obeyed(listener, key, value):
    plain = environ(listener, **{key: value})
    assert (plain["REQUEST_METHOD"], plain["wsgi.url_scheme"]) == ("GET", "http")


def test_http_on_a_uwsgi_port_is_closed(listener):
    with Client(listener) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_to_end() == b""


def test_uwsgi_on_an_http_port_is_refused(stack):
    with Client(stack.server.address) as client:
        client.send(uwsgi.request("/environ"))
        assert client.response().status == 400
        assert client.is_closed()


def test_unread_body_does_not_lose_the_answer(listener):
    for _ in range(5):
        with Client(listener) as client:
            client.send(uwsgi.request("/ignore-input", b"b" * 300_000, method="POST"))
            assert client.response().status == 200
            assert client.read_to_end() == b""


def test_half_closed_client_gets_its_answer(listener):
    with Client(listener) as client:
        client.send(uwsgi.request("/validated", b"body", method="POST"))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().body == b"read 4"


def test_body_cut_short_never_reaches_the_application(listener, stack):
    token = stack.token()
    pairs = uwsgi.variables("POST", "/digest", f"token={token}", b"b" * 100)
    with Client(listener) as client:
        client.send(uwsgi.packet(pairs) + b"b" * 99)
        client.sock.shutdown(socket.SHUT_WR)
        client.read_to_end()
    assert stack.records(token, 1, 0.2) == []


def test_peers_not_allowed_are_closed(start, tmp_path):
    path = tmp_path / "uwsgi.sock"
    server = start(
        "pep3333:application",
        binds=("http://127.0.0.1:0", "uwsgi://127.0.0.1:0", f"uwsgi://unix:{path}"),
        options=["--uwsgi-allow-from", "192.0.2.1"],
    )
    with Client(server.addresses[1]) as client:
        try:
            client.send(uwsgi.request("/environ"))
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert client.read_to_end() == b""
    assert environ(server.addresses[2])["PATH_INFO"] == "/environ"
