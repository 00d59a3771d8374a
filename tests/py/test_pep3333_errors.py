"""PEP 3333, wsgi.errors, and what becomes of an application that fails: 500 while nothing was sent,
a cut connection after that, a traceback in the log, and never more than its own request lost.
"""

import pytest

from harness.client import Truncated

STACK = dict(application="pep3333:application", threads=4)


def still_serves(front):
    assert front.request("GET", "/numbered?alive").body == b"alive"


def test_errors_takes_any_text_and_shows_it(front):
    log = front.stack.server.log
    token = front.stack.token()
    assert front.request("GET", f"/errors?token={token}").status == 200
    for text in ("plain", "caf", "surrogate", "one", "two", "print"):
        log.wait_for(f"{token} {text}", 5)


@pytest.mark.parametrize("case", ["raise-first", "raise-after-start", "raise-in-iteration"])
def test_exception_before_any_body_gives_500(front, case):
    token = front.stack.token()
    response = front.request("GET", f"/{case}?token={token}")
    assert response.status == 500
    assert response.header("X-Lost") is None
    assert token not in response.text, "the client is not told what failed"
    front.stack.server.log.wait_for(f"RuntimeError: {token} raised", 5)
    still_serves(front)


@pytest.mark.parametrize("case", ["raise-first", "raise-after-start", "raise-in-iteration"])
def test_exception_before_any_body_to_head_gives_500(front, case):
    response = front.request("HEAD", f"/{case}")
    assert (response.status, response.body) == (500, b"")
    still_serves(front)


def test_traceback_names_the_applications_file_and_line(front):
    token = front.stack.token()
    mark = front.stack.server.log.mark()
    front.request("GET", f"/raise-first?token={token}")
    front.stack.server.log.wait_for(f"RuntimeError: {token}", 5, since=mark)
    text = front.stack.server.log.after(mark)
    assert "Traceback (most recent call last)" in text
    assert "errors.py" in text and "_raise_first" in text


@pytest.mark.fronts("http")
@pytest.mark.parametrize("case", ["raise-after-piece", "raise-after-write"])
def test_exception_after_a_piece_cuts_the_connection(front, case):
    token = front.stack.token()
    with front.connect() as client, pytest.raises(Truncated) as cut:
        client.request("GET", f"/{case}?token={token}")
    assert cut.value.response.status == 200
    front.stack.server.log.wait_for(f"RuntimeError: {token} raised", 5)
    still_serves(front)


def test_exception_after_a_piece_of_stated_length_cuts_the_connection(front):
    with front.connect() as client, pytest.raises(Truncated) as cut:
        client.request("GET", "/raise-after-piece/length")
    assert cut.value.partial in (b"", b"a piece")
    still_serves(front)


def test_exception_in_close_leaves_the_answer_whole(front):
    token = front.stack.token()
    response = front.request("GET", f"/raise-in-close?token={token}")
    assert (response.status, response.body) == (200, b"body")
    assert front.stack.records(token) == ["close"]
    front.stack.server.log.wait_for(f"RuntimeError: {token} raised in close", 5)
    still_serves(front)


@pytest.mark.parametrize(
    "kind",
    [
        "unusual",
        "generator-exit",
        "system-exit",
        "keyboard-interrupt",
        "stop-iteration",
        "memory-error",
        "unprintable",
    ],
)
def test_any_exception_costs_its_request_only(front, kind):
    workers = front.stack.server.workers()
    assert front.request("GET", f"/raise-base/{kind}").status == 500
    still_serves(front)
    assert front.stack.server.workers() == workers


def test_exhausted_stack_costs_its_request_only(front):
    workers = front.stack.server.workers()
    assert front.request("GET", "/recurse").status == 500
    still_serves(front)
    assert front.stack.server.workers() == workers


@pytest.mark.parametrize(
    "kind",
    ["none", "number", "text", "list-of-text", "list-of-numbers", "list-of-none", "later-text"],
)
def test_what_is_not_an_iterable_of_bytes_gives_500(front, kind):
    mark = front.stack.server.log.mark()
    assert front.request("GET", f"/return/{kind}").status == 500
    front.stack.server.log.wait_for("TypeError|AssertionError", 5, since=mark)
    still_serves(front)


@pytest.mark.parametrize("case", ["never-start", "never-start-empty"])
def test_application_that_never_calls_start_response_gives_500(front, case):
    response = front.request("GET", f"/{case}")
    assert response.status == 500
    assert b"body without" not in response.body
    still_serves(front)


@pytest.mark.fronts("direct")
def test_connection_lives_on_after_a_500(front):
    with front.connect() as client:
        assert client.request("GET", "/raise-first").status == 500
        assert client.request("GET", "/numbered?after").body == b"after"
