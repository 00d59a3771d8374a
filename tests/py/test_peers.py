"""What other servers get wrong, each seen by running them, and this one does not. Each point of the
list has its own named test here, even where another file tests the same more widely, so that the
claim can be checked by name.
"""

import json
import time

import pytest

from harness import uwsgi
from harness.client import Client, Truncated, chunked, encode_request

STACK = dict(application="pep3333:application", threads=4)


def still_serves(front):
    assert front.request("GET", "/numbered?alive").body == b"alive"


def test_body_shorter_than_content_length_closes_the_connection(front):
    with front.connect() as client, pytest.raises(Truncated):
        client.request("GET", "/length?token=t&stated=100&given=40&piece=10")
    still_serves(front)


def test_bytes_beyond_content_length_never_leave(front):
    with front.connect() as client:
        path = "/length?token=t&stated=40&given=100&piece=7"
        assert client.request("GET", path).body == b"x" * 40
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.fronts("direct")
def test_no_final_chunk_after_an_exception(front):
    with front.connect() as client:
        client.send(encode_request("GET", "/raise-after-piece"))
        everything = client.read_to_end()
    assert b"a piece" in everything
    assert not everything.endswith(b"0\r\n\r\n")
    still_serves(front)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_malformed_chunked_body_is_refused_before_the_application_runs(front, body):
    token = front.stack.token()
    with front.connect() as client:
        headers = [("Transfer-Encoding", "chunked")]
        client.send(encode_request("POST", f"/digest?token={token}", headers, body))
        assert client.response().status == 400
        assert client.is_closed()
    assert front.stack.records(token, 1, 0.1) == []
    still_serves(front)


@pytest.mark.fronts("direct")
def test_truncated_chunked_body_never_reaches_the_application_as_whole(front):
    token = front.stack.token()
    with front.connect() as client:
        headers = [("Transfer-Encoding", "chunked")]
        sent = chunked(b"abc", b"def", last=b"")
        client.send(encode_request("POST", f"/digest?token={token}", headers, sent))
    still_serves(front)
    told = front.stack.records(token, 1, 0.3)
    assert all(entry.get("os") for entry in told), "wsgi.input ended as if the body were whole"


def test_head_sends_no_body(front):
    with front.connect() as client:
        client.send(encode_request("HEAD", "/iterable/generator?token=t"))
        assert client.response("HEAD").status == 200
        assert client.is_silent(0.1)


def test_exc_info_before_output_replaces_status_and_headers(front):
    response = front.request("GET", "/exc-info-before")
    assert (response.status, response.reason) == (503, "Replaced")
    assert response.header("X-First") is None


def test_headers_leave_with_the_first_non_empty_piece(front):
    token = front.stack.token()
    with front.connect() as client:
        client.send(encode_request("GET", f"/stepwise?token={token}"))
        assert len(front.stack.records(token, 2)) == 2
        assert client.is_silent(0.2)
        front.stack.open_gate(token + "-1")
        assert client.head().status == 200
        front.stack.open_gate(token + "-2")


def test_bytes_object_returned_as_the_iterable_is_sent_whole(front):
    assert front.request("GET", "/iterable/bytes?token=t").body == b"a bytes object"


def test_file_wrapper_starts_at_the_files_own_position(front):
    content = bytes(range(256)) * 40
    assert front.request("GET", "/file/file-at-100?token=t").body == content[100:]
    assert front.request("GET", "/file/file-after-readline?token=t").body == content


def test_file_wrapper_keeps_to_content_length(front):
    with front.connect() as client:
        assert len(client.request("GET", "/file/file?token=t&length=77").body) == 77
        assert client.request("GET", "/numbered?next").body == b"next"


@pytest.mark.parametrize("kind", ["system-exit", "keyboard-interrupt"])
def test_exit_raised_by_an_application_costs_that_request_only(front, kind):
    workers = front.stack.server.workers()
    assert front.request("GET", f"/raise-base/{kind}").status == 500
    still_serves(front)
    assert front.stack.server.workers() == workers


def uwsgi_environ(stack, pairs):
    with Client(stack.uwsgi) as client:
        client.send(uwsgi.packet(pairs))
        return json.loads(client.response().text)


def test_repeated_keys_of_a_uwsgi_packet_are_joined(stack):
    pairs = uwsgi.variables(path="/environ")
    pairs += [("HTTP_X_A", "one"), ("HTTP_COOKIE", "a=1"), ("HTTP_X_A", "two")]
    pairs += [("HTTP_COOKIE", "b=2")]
    plain = uwsgi_environ(stack, pairs)["plain"]
    assert (plain["HTTP_X_A"], plain["HTTP_COOKIE"]) == ("one, two", "a=1; b=2")


@pytest.mark.parametrize(
    "key", ["wsgi.input", "wsgi.url_scheme", "wsgi.errors", "wsgi.version", "wsgi.multithread"]
)
def test_wsgi_keys_are_never_taken_from_a_packet(stack, key):
    told = uwsgi_environ(stack, uwsgi.variables(path="/environ") + [(key, "evil")])
    assert "evil" not in told["plain"].values()
    assert told["plain"]["wsgi.url_scheme"] == "http"


@pytest.mark.fronts("direct")
@pytest.mark.parametrize(
    "value", ["close", "CLOSE", "Close, x-other", "x-other , close", "keep-alive, close"]
)
def test_connection_is_a_list_of_tokens_in_any_case(front, value):
    with front.connect() as client:
        response = client.request("GET", "/numbered?1", [("Connection", value)])
        assert response.body == b"1"
        assert client.is_closed()


@pytest.mark.fronts("direct")
@pytest.mark.parametrize("value", ["x-close", "closed", "not-close", "x-other"])
def test_connection_tokens_are_compared_whole(front, value):
    with front.connect() as client:
        client.request("GET", "/numbered?1", [("Connection", value)])
        assert client.request("GET", "/numbered?2").body == b"2"


@pytest.mark.fronts("direct")
@pytest.mark.parametrize(
    "host",
    ["a b", "a/b", "a@b", "a:b", "a:99999", "a:-1", "[::1", "::1", "a\x7fb", "<a>", "a:80:80", ""],
)
def test_host_is_validated_in_full(front, host):
    with front.connect() as client:
        assert client.request("GET", "/numbered?1", host=host).status == 400
        assert client.is_closed()
    still_serves(front)


@pytest.mark.fronts("direct")
@pytest.mark.parametrize(
    "host", ["a", "a.b-c_d", "a:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:8000"]
)
def test_valid_hosts_are_served(front, host):
    assert front.request("GET", "/numbered?1", [("Host", host)]).status == 200


@pytest.mark.fronts("direct")
def test_forty_half_sent_requests_do_not_keep_a_whole_one_waiting(front):
    whole = encode_request("POST", "/numbered?half", (), b"body" * 100)
    halves = [front.connect() for _ in range(40)]
    try:
        for number, client in enumerate(halves):
            client.send(whole[: 10 + number * (len(whole) - 20) // 40])
        started = time.monotonic()
        assert front.request("GET", "/numbered?whole").body == b"whole"
        assert time.monotonic() - started < 1.0
        for number, client in enumerate(halves):
            client.send(whole[10 + number * (len(whole) - 20) // 40 :])
            assert client.response().body == b"half"
    finally:
        for client in halves:
            client.close()
