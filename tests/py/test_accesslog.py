"""The access log: gunicorn's atoms, escaping, where it goes, and the request id that ties a
request's environ, log line and errors together.
"""

import json
import re
import secrets
import time

import pytest

from harness.client import encode_request
from harness.watch import wait_until

SEPARATOR = " || "
ATOMS = (
    "h l u t r m U q H s B b f a T M D L p {x-own}i {x-answer}o {set-cookie}o {REMOTE_PORT}e "
    "{wsgi.url_scheme}e {missing}i {missing}o {missing}e request_id queue_wait first_byte "
    "{x-mark}i"
).split()
FORMAT = SEPARATOR.join(f"%({atom})s" for atom in ATOMS)
DEFAULT = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    r'"GET /environ\?q=1 HTTP/1\.1" 200 \d+ "-" "agent/1"'
)


@pytest.fixture(scope="module")
def logged(interpreter, tmp_path_factory):
    """A server that logs every atom to a file."""
    from harness.server import Server

    path = tmp_path_factory.mktemp("access") / "access.log"
    options = ["--access-logfile", path, "--access-logformat", FORMAT]
    one = Server("pep3333:application", python=interpreter, threads=2, options=options)
    with one as running:
        running.path = path
        yield running


def lines_of(path, mark):
    """The log lines of the requests that carried `X-Mark: mark`."""
    return [line for line in path.read_text().splitlines() if line.endswith(SEPARATOR + mark)]


def atoms_of(logged, method, path, headers=(), body=None):
    """Makes a request; its answer and the atoms of its log line."""
    mark = secrets.token_hex(8)
    response = logged.request(method, path, [*headers, ("X-Mark", mark)], body)
    [line] = wait_until(lambda: lines_of(logged.path, mark), "a log line", 5)
    return response, dict(zip(ATOMS, line.split(SEPARATOR), strict=True))


def test_request_atoms(logged):
    headers = [("Referer", "http://from/"), ("User-Agent", "agent/1"), ("X-Own", "own value")]
    _, atoms = atoms_of(logged, "GET", "/environ/a%20b?q=%C3%A9", headers)
    assert atoms["h"] == "127.0.0.1"
    assert (atoms["l"], atoms["u"]) == ("-", "-")
    assert atoms["r"] == "GET /environ/a%20b?q=%C3%A9 HTTP/1.1"
    assert (atoms["m"], atoms["H"]) == ("GET", "HTTP/1.1")
    assert (atoms["U"], atoms["q"]) == ("/environ/a b", "q=%C3%A9")
    assert (atoms["f"], atoms["a"]) == ("http://from/", "agent/1")
    assert atoms["{x-own}i"] == "own value"
    assert atoms["{REMOTE_PORT}e"].isdigit()


def test_response_atoms(logged):
    response, atoms = atoms_of(logged, "GET", "/numbered?five!")
    assert atoms["s"] == "200"
    assert atoms["B"] == atoms["b"] == "5"
    assert response.body == b"five!"
    _, atoms = atoms_of(logged, "GET", "/many-headers")
    assert atoms["{set-cookie}o"] == "a=1; Path=/, b=2, c=3"


def test_missing_values_are_dashes(logged):
    _, atoms = atoms_of(logged, "GET", "/numbered")
    for name in ("f", "a", "{x-own}i", "{x-answer}o", "{missing}i", "{missing}o", "{missing}e"):
        assert atoms[name] == "-"


@pytest.mark.parametrize(
    "method, path, status, size",
    [
        ("HEAD", "/numbered?12345", "200", "0"),
        ("GET", "/nowhere", "404", None),
        ("GET", "/raise-first", "500", None),
        ("GET", "/iterable-with-status/one?status=204", "204", "0"),
        ("GET", "/iterable/large", "200", "3000000"),
        ("GET", "/iterable/generator", "200", "9"),
        ("POST", "/ignore-input", "200", "9"),
    ],
)
def test_status_and_size(logged, method, path, status, size):
    _, atoms = atoms_of(logged, method, path, body=b"b" * 1000 if method == "POST" else None)
    assert atoms["s"] == status
    if size is not None:
        assert atoms["B"] == size, "size of the body without framing"


def test_times(logged):
    before = time.time()
    _, atoms = atoms_of(logged, "GET", "/numbered")
    assert int(atoms["T"]) == 0
    assert 0 < int(atoms["D"]) < 5_000_000
    assert int(atoms["M"]) == int(atoms["D"]) // 1000
    assert abs(float(atoms["L"]) - int(atoms["D"]) / 1e6) < 0.0001
    assert 0 <= float(atoms["queue_wait"]) < 5
    assert 0 <= float(atoms["first_byte"]) < 5
    told = time.mktime(time.strptime(atoms["t"][1:-7], "%d/%b/%Y:%H:%M:%S"))
    assert re.fullmatch(r"\[.{20} [+-]\d{4}\]", atoms["t"])
    assert abs(told - before) < 5


def test_worker_pid(logged):
    _, atoms = atoms_of(logged, "GET", "/numbered")
    assert atoms["p"] == f"<{logged.workers()[0]}>"


def test_user_of_basic_credentials(logged):
    headers = [("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")]
    assert atoms_of(logged, "GET", "/numbered", headers)[1]["u"] == "Aladdin"


def test_values_cannot_break_the_line(logged):
    headers = [("User-Agent", 'a"b\\c'), ("Referer", "caf\u00e9\t\u00ff"), ("X-Own", "%(h)s")]
    _, atoms = atoms_of(logged, "GET", '/numbered?"%0a\\', headers)
    assert atoms["a"] == r"a\x22b\x5Cc"
    assert atoms["f"] == r"caf\xE9\x09\xFF"
    assert atoms["{x-own}i"] == "%(h)s"
    assert '"' not in atoms["r"]


def test_decoded_path_cannot_break_the_line(logged):
    _, atoms = atoms_of(logged, "GET", "/numbered/%0A%22%0Dnext")
    assert atoms["U"] == r"/numbered/\x0A\x22\x0Dnext"


def test_request_id_is_the_same_everywhere(logged):
    response, atoms = atoms_of(logged, "GET", "/environ")
    plain = json.loads(response.text)["plain"]
    assert plain["ringhorn.request_id"] == atoms["request_id"] != "-"


def test_request_id_of_a_trusted_peer_is_taken(logged):
    headers = [("X-Request-ID", "given-id-42")]
    response, atoms = atoms_of(logged, "GET", "/environ", headers)
    assert json.loads(response.text)["plain"]["ringhorn.request_id"] == "given-id-42"
    assert atoms["request_id"] == "given-id-42"


def test_request_id_stands_at_the_error(logged):
    mark = logged.log.mark()
    logged.request("GET", "/raise-first?token=x", [("X-Request-ID", "failing-id-7")])
    logged.log.wait_for("RuntimeError: x raised", 5, since=mark)
    assert "failing-id-7" in logged.log.after(mark)


def test_every_request_of_a_connection_has_a_line(logged):
    headers = [("X-Mark", "fifty")]
    with logged.connect() as client:
        client.send(b"".join(encode_request("GET", f"/numbered?{n}", headers) for n in range(50)))
        for number in range(50):
            assert client.response().body == str(number).encode()
    wait_until(lambda: len(lines_of(logged.path, "fifty")) == 50, "fifty log lines", 5)
    targets = [line.split(SEPARATOR)[4] for line in lines_of(logged.path, "fifty")]
    assert targets == [f"GET /numbered?{number} HTTP/1.1" for number in range(50)]


def test_request_id_of_an_untrusted_peer_is_not_taken(start):
    server = start("pep3333:application", options=["--forwarded-allow-ips", "192.0.2.1"])
    response = server.request("GET", "/environ", [("X-Request-ID", "given-id-42")])
    assert json.loads(response.text)["plain"]["ringhorn.request_id"] != "given-id-42"


def test_default_format_on_standard_output(start):
    server = start("pep3333:application", options=["--access-logfile", "-"])
    server.request("GET", "/environ?q=1", [("User-Agent", "agent/1")])
    line = server.out.wait_for("GET", 5).string
    assert DEFAULT.fullmatch(line), line


def test_no_access_log_by_default(start):
    server = start("pep3333:application")
    server.request("GET", "/numbered")
    server.stop()
    assert server.out.text == ""
    assert "/numbered" not in server.log.text


def test_lines_are_written_before_the_server_ends(start, tmp_path):
    path = tmp_path / "access.log"
    server = start("pep3333:application", options=["--access-logfile", path], threads=2)
    with server.connect() as client:
        for number in range(500):
            client.request("GET", f"/numbered?{number}")
    server.stop()
    assert len(path.read_text().splitlines()) == 500


def test_uwsgi_requests_are_logged(start, tmp_path):
    from harness import uwsgi
    from harness.client import Client

    path = tmp_path / "access.log"
    server = start(
        "pep3333:application",
        binds=("http://127.0.0.1:0", "uwsgi://127.0.0.1:0"),
        options=["--access-logfile", path],
    )
    with Client(server.addresses[1]) as client:
        client.send(uwsgi.request("/numbered", query="q"))
        assert client.response().body == b"q"
    text = wait_until(path.read_text, "a log line", 5)
    assert text.startswith("192.0.2.7 - - [") and '"GET /numbered?q HTTP/1.1" 200 1 ' in text
