"""PEP 3333, start_response: its checks, its second call, exc_info, write(), and what the server
adds to the headers.
"""

import datetime
import re
from email.utils import parsedate_to_datetime

import pytest

from harness import server
from harness.client import Truncated

STACK = dict(application="pep3333:application", threads=4)
# The cases of apps/pep3333/responses.py that start_response must refuse.
REFUSED = (
    "status-bytes status-number status-none status-empty status-word status-two-digits "
    "status-four-digits status-negative status-crlf status-lf status-nul status-wide "
    "headers-tuple headers-dict headers-none header-list header-string header-one "
    "header-three name-bytes name-number name-empty name-space name-trailing-space name-colon "
    "name-crlf name-latin name-wide value-bytes value-number value-none value-cr value-lf "
    "value-crlf value-nul value-control value-wide length-word length-negative length-plus "
    "length-empty length-list length-repeated length-huge hop-connection hop-connection-case "
    "hop-keep-alive hop-proxy-authenticate hop-proxy-authorization hop-te hop-trailers "
    "hop-transfer-encoding hop-upgrade "
).split()

HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused_inside_the_call(front, name):
    response = front.request("GET", f"/refused/{name}")
    assert response.status == 200
    assert response.text.startswith("refused "), response.text
    assert response.header("X-Evil") is None


@pytest.mark.parametrize("name", ["status-crlf", "value-crlf", "hop-connection", "header-one"])
def test_wrong_arguments_not_caught_give_500(front, name):
    response = front.request("GET", f"/refused-uncaught/{name}")
    assert response.status == 500
    assert response.header("X-Evil") is None


@pytest.mark.parametrize(
    "sent, status, reason",
    [
        ("200%20OK", 200, "OK"),
        ("200%20Fine%20With%20Me", 200, "Fine With Me"),
        ("299%20Unheard%20Of", 299, "Unheard Of"),
        ("404%20Not%20Found", 404, "Not Found"),
        ("418%20I'm%20a%20teapot", 418, "I'm a teapot"),
        ("500%20Of%20The%20Application", 500, "Of The Application"),
        ("599%20Last", 599, "Last"),
    ],
)
def test_status_and_reason_are_sent_as_given(front, sent, status, reason):
    response = front.request("GET", f"/status?{sent}")
    assert (response.status, response.body) == (status, b"body")
    assert response.reason == reason


@pytest.mark.fronts("direct")
def test_reason_may_be_latin_1(front):
    assert front.request("GET", "/status?200%20Tr%E8s%20bien").reason == "Tr\u00e8s bien"


def test_header_fields_are_sent_as_given_and_in_order(front):
    response = front.request("GET", "/many-headers")
    assert response.values("Set-Cookie") == ["a=1; Path=/", "b=2", "c=3"]
    assert response.header("X-Latin") == "caf\u00e9 \u00ff"
    assert response.header("X-Empty") == ""
    assert response.header("X-Tab") == "a\tb"
    assert response.header("X-Long") == "v" * 8000
    assert "x-lOwEr" in [name for name, _ in response.headers]


@pytest.mark.fronts("direct")
def test_date_and_server_are_added(front):
    response = front.request("GET", "/lazy")
    assert HTTP_DATE.fullmatch(response.header("Date"))
    assert response.header("Server")


@pytest.mark.fronts("direct")
def test_date_is_now(front):
    told = parsedate_to_datetime(front.request("GET", "/lazy").header("Date"))
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs((now - told).total_seconds()) < 3


@pytest.mark.fronts("direct")
def test_date_and_server_of_the_application_are_kept(front):
    response = front.request("GET", "/own-date")
    assert response.header("Date") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert response.header("Server") == "of-the-app"


@pytest.mark.parametrize("first", ["good", "refused"])
def test_second_call_without_exc_info_is_refused(front, first):
    response = front.request("GET", f"/second-start/{first}")
    assert response.text.startswith("refused "), response.text


@pytest.mark.parametrize("case", ["exc-info-before", "exc-info-generator"])
def test_exc_info_before_output_replaces_status_and_headers(front, case):
    response = front.request("GET", f"/{case}")
    assert (response.status, response.reason, response.body) == (503, "Replaced", b"replaced")
    assert response.header("X-First") is None
    assert response.header("X-Second") == "yes"
    assert response.header("Content-Length") in (None, "8")


@pytest.mark.fronts("direct")
def test_exc_info_after_output_raises_the_original(front):
    token = front.stack.token()
    with front.connect() as client:
        client.send(f"GET /exc-info-after?token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = client.head()
        assert head.status == 200
        front.stack.open_gate(token)
        client.read_to_end()
    told = front.stack.records(token)
    assert len(told) == 1 and told[0]["same"] is True
    assert told[0]["frames"] >= 1, "the traceback is kept"


@pytest.mark.fronts("http")
def test_exc_info_after_output_cuts_the_connection(front):
    token = front.stack.token()
    front.stack.open_gate(token)
    with front.connect() as client, pytest.raises(Truncated):
        client.request("GET", f"/exc-info-after?token={token}")


def test_exc_info_is_let_go(front):
    assert front.request("GET", "/exc-info-leak").body == b"let go"


def test_lazy_call_in_a_generator_keeps_status_and_headers(front):
    response = front.request("GET", "/lazy")
    assert (response.status, response.reason, response.body) == (404, "Lazy", b"lazy")
    assert response.header("X-Lazy") == "yes"


def test_start_response_returns_a_callable(front):
    assert front.request("GET", "/returned").body == b"callable"


@pytest.mark.parametrize(
    "case, body",
    [
        ("write", b"one two three"),
        ("write-only", b"one two"),
        ("write-in-iteration", b"one two three"),
        ("write-large", b"w" * 1_000_000 + b"end"),
    ],
)
def test_written_bytes_keep_their_place(front, case, body):
    with front.connect() as client:
        for _ in range(2):
            assert client.request("GET", f"/{case}").body == body


@pytest.mark.parametrize("case", ["write", "write-only", "write-in-iteration", "write-large"])
def test_written_bytes_do_not_answer_head(front, case):
    with front.connect() as client:
        response = client.request("HEAD", f"/{case}")
        assert (response.status, response.body) == (200, b"")
        assert client.request("GET", "/numbered?next").body == b"next"


def test_write_has_sent_when_it_returns(front):
    token = front.stack.token()
    with front.connect() as client:
        client.send(f"GET /write-sends?token={token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = client.head()
        size = b"" if head.header("Transfer-Encoding") is None else b"5\r\n"
        assert client.read_exactly(len(size) + 5) == size + b"first"
        front.stack.open_gate(token)


def test_write_takes_bytes_only(front):
    told = front.request("GET", "/write-kinds").text
    assert told == "TypeError TypeError TypeError TypeError"


def test_write_past_content_length_is_refused(front):
    token = front.stack.token()
    with front.connect() as client:
        assert client.request("GET", f"/write-past-length?token={token}").body == b"1234"
        assert front.stack.records(token)[0].startswith("refused ")


@pytest.mark.parametrize(
    "shape", ["instance", "method", "class", "positional", "partial", "lambda"]
)
def test_application_may_be_any_callable(front, shape):
    expected = {"partial": "positional", "lambda": "positional"}.get(shape, shape)
    assert front.request("GET", f"/shape/{shape}").text == expected


def test_headers_are_taken_at_the_call(front):
    assert front.request("GET", "/mutate-after").header("X-A") == "first"


def test_every_refused_case_is_listed():
    source = (server.APPS / "pep3333" / "responses.py").read_text()
    block = source[source.index("REFUSED = {") : source.index("\n}\n")]
    assert re.findall(r'^    "([a-z-]+)": ', block, re.MULTILINE) == REFUSED
