"""Clients that leave: while their request waits it is dropped, while it runs the application may
ask, is ended quietly when it writes, or is told by an exception if that was configured.
"""

import re
import socket

import pytest

from harness import uwsgi
from harness.client import Client, encode_request
from harness.watch import wait_until
from test_deadlines import APPLICATION, Notes, pid_of

STACK = dict(application=APPLICATION, threads=4)


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path)


def leave_by(client, how):
    client.reset() if how == "reset" else client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("fields", [[], [("Connection", "close")]], ids=["kept", "closing"])
@pytest.mark.fronts("direct")
def test_running_application_is_told(front, notes, fields, how):
    with front.connect() as client:
        client.send(encode_request("GET", f"/watch?log={notes.path}", fields))
        notes.wait("^start")
        leave_by(client, how)
        notes.wait("left True")
    assert notes.lines[1] == "end", "and nothing is raised"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_running_application_is_told_over_uwsgi(stack, notes, how):
    with Client(stack.uwsgi) as client:
        client.send(uwsgi.request("/watch", query=f"log={notes.path}"))
        notes.wait("^start")
        leave_by(client, how)
        notes.wait("left True")


@pytest.mark.fronts("nginx")
def test_running_application_is_told_behind_nginx(front, notes):
    with front.connect() as client:
        client.send(encode_request("GET", f"/watch?log={notes.path}"))
        notes.wait("^start")
    notes.wait("left True")


def test_client_that_stays_has_not_left(stack, notes, tmp_path):
    gate = tmp_path / "gate"
    with stack.server.connect() as client:
        path = f"/watch?until={gate}&log={notes.path}"
        client.send(encode_request("GET", path))
        notes.wait("^start")
        assert client.is_silent(0.3)
        gate.touch()
        assert client.response().status == 200
        assert notes.lines[-1] == "left False"
        # On the same connection the next request starts anew.
        assert client.request("GET", path).status == 200
        assert notes.lines[-1] == "left False"


def test_client_that_only_shut_down_its_side_gets_its_answer(stack, notes):
    with stack.server.connect() as client:
        client.send(encode_request("GET", f"/watch?log={notes.path}"))
        notes.wait("^start")
        client.sock.shutdown(socket.SHUT_WR)
        notes.wait("left True")
        assert client.response().status == 200


def test_answer_after_the_request_is_yes(stack):
    first = stack.server.request("GET", "/keep")
    assert first.text == "[false]"
    assert stack.server.request("GET", "/keep").text == "[true, false]"
    assert stack.server.request("GET", "/keep").text == "[true, true, false]"


@pytest.mark.fronts("all")
def test_iteration_ends_and_close_is_called(front, notes):
    mark = front.stack.server.log.mark()
    with front.connect() as client:
        client.send(encode_request("GET", f"/stream?log={notes.path}"))
        assert client.head().status == 200
    notes.wait("^close$")
    notes.wait("GeneratorExit")
    assert "exception" not in front.stack.server.log.after(mark)


def test_write_ends_quietly(stack, notes):
    """What an imperative application writes for nobody is dropped, and nothing is raised."""
    mark = stack.server.log.mark()
    with stack.server.connect() as client:
        client.send(encode_request("GET", f"/write?log={notes.path}"))
        assert client.head().status == 200
    notes.wait("^end")
    assert not [line for line in notes.lines if "Error" in line]
    assert "exception" not in stack.server.log.after(mark)


def test_client_that_leaves_the_queue_is_dropped_and_logged(start, notes, tmp_path):
    gate, log = tmp_path / "gate", tmp_path / "access"
    options = ["--access-logfile", log, "--access-logformat", "%(s)s %(U)s %(close_reason)s"]
    server = start(APPLICATION, options=options)
    with server.connect() as holder:
        holder.send(encode_request("GET", f"/hold?until={gate}&log={notes.path}"))
        notes.wait("^start")
        for how, fields in [("close", []), ("reset", []), ("close", [("Connection", "close")])]:
            with server.connect() as client:
                client.send(encode_request("GET", f"/watch?log={notes.path}", fields))
                # It must be queued: the loop answers a malformed one only behind it.
                wait_until(lambda: is_read(client), "the request to be taken", 5)
                leave_by(client, how)
        wait_until(lambda: log.read_text().count("499") == 3, "three dropped requests", 5)
        gate.touch()
        assert holder.response().status == 200
    assert server.request("GET", "/hello").status == 200
    assert log.read_text().count("499 /watch client-closed\n") == 3
    assert sum(line.startswith("start") for line in notes.lines) == 1, "none of them ran"


def is_read(client):
    """Whether the server's kernel has no byte of the client left to acknowledge or read."""
    import fcntl
    import struct
    import termios

    unsent = fcntl.ioctl(client.sock, termios.TIOCOUTQ, struct.pack("i", 0))
    return struct.unpack("i", unsent) == (0,)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("fields", [[], [("Connection", "close")]], ids=["kept", "closing"])
def test_cancel_on_disconnect_raises(start, notes, fields, how):
    server = start(APPLICATION, options=["--cancel-on-disconnect"])
    before = pid_of(server)
    mark = server.log.mark()
    with server.connect() as client:
        client.send(encode_request("GET", f"/cancelled?log={notes.path}", fields))
        notes.wait("^start")
        leave_by(client, how)
        notes.wait(r"ClientDisconnected: the client left \(--cancel-on-disconnect\)", 5)
    notes.wait("^cancelled$")
    assert pid_of(server) == before
    assert server.log.after(mark) == "", "clients leave all the time"


def test_cancelled_request_that_goes_on_has_its_deadline(start, notes):
    server = start(APPLICATION, options=["--cancel-on-disconnect", "--timeout", 1.5])
    mark = server.log.mark()
    with server.connect() as client:
        client.send(encode_request("GET", f"/stubborn?log={notes.path}"))
        notes.wait("^start")
    notes.wait("^ClientDisconnected", 5)
    notes.wait("^RequestTimeout", 5)
    server.log.wait_for(r"deadlines.py\", line \d+, in _stubborn", since=mark)
    assert server.request("GET", "/hello").status == 200


def test_cancel_on_disconnect_spares_who_stays(start, notes):
    server = start(APPLICATION, options=["--cancel-on-disconnect"], threads=2)
    with server.connect() as client:
        path = f"/cancelled?seconds=0.3&log={notes.path}"
        for _ in range(3):
            assert client.request("GET", path).status == 200
    assert not re.search("cancelled|Disconnected", "\n".join(notes.lines))


def test_without_the_option_nothing_is_raised(stack, notes):
    with stack.server.connect() as client:
        client.send(encode_request("GET", f"/cancelled?seconds=0.5&log={notes.path}"))
        notes.wait("^start")
        client.reset()
    notes.wait("^end$")
