"""`--pid` and `--name`: the file that says which process the server is, and what `ps` shows."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from harness import gated, process
from harness.server import APPS, Server
from harness.watch import wait_until


def refused(one):
    try:
        assert one.launch().wait(20) == 2, one.log.text
        return one.log.text
    finally:
        one.kill()


def title(pid):
    """What `ps` shows: up to the first zero."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()


def test_pid_file_is_there_once_bound_and_removed_in_the_end(start, tmp_path):
    path = tmp_path / "server.pid"
    one = start("hello:application", options=["--pid", path])
    assert path.read_text() == f"{one.pid}\n"
    assert os.listdir(tmp_path) == ["server.pid"]
    one.stop()
    assert os.listdir(tmp_path) == []


def test_pid_file_is_never_seen_half_written(start, tmp_path):
    path = tmp_path / "server.pid"
    seen = []
    ended = threading.Event()

    def look():
        while not ended.is_set():
            try:
                seen.append(path.read_text())
            except FileNotFoundError:
                pass

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(3):
            one = start("hello:application", options=["--pid", path])
            one.stop()
            assert f"{one.pid}\n" in seen
    finally:
        ended.set()
        thread.join()
    assert all(text.endswith("\n") and text.strip().isdigit() for text in seen)


def test_pid_file_of_a_live_server_is_refused(start, tmp_path):
    path = tmp_path / "server.pid"
    first = start("hello:application", options=["--pid", path])
    log = refused(Server("hello:application", options=["--pid", path]))
    assert f"process {first.pid} is a server that runs with it" in log and "hint:" in log
    assert first.request("GET", "/").status == 200
    assert path.read_text() == f"{first.pid}\n", "whoever was refused leaves it"


def test_pid_file_of_a_killed_server_is_taken_over(start, tmp_path):
    path = tmp_path / "server.pid"
    first = start("hello:application", options=["--pid", path])
    first.kill()
    assert path.exists()
    second = start("hello:application", options=["--pid", path])
    assert f"taking over the stale pid file {path} of process {first.pid}" in second.log.text
    assert path.read_text() == f"{second.pid}\n"


def test_pid_file_whose_number_is_somebody_elses_by_now_is_taken_over(start, tmp_path):
    """As in a container that starts again: the number lives, but is no server."""
    path = tmp_path / "server.pid"
    path.write_text(f"{os.getpid()}\n")
    one = start("hello:application", options=["--pid", path])
    assert path.read_text() == f"{one.pid}\n"


def test_pid_file_that_another_put_there_is_not_removed(start, tmp_path):
    path = tmp_path / "server.pid"
    one = start("hello:application", options=["--pid", path])
    path.unlink()
    path.write_text("another's")
    one.stop()
    assert path.read_text() == "another's"


def test_pid_file_is_not_held_by_workers(start, tmp_path):
    """A worker that outlives a killed server must not make its file look live."""
    path = tmp_path / "server.pid"
    log = tmp_path / "log"
    first = start("hygiene:application", options=["--pid", path])
    with first.connect() as client:
        gate = tmp_path / "gate"
        client.send(f"GET /hold?until={gate}&log={log} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(log.exists, "a request in the application", 5)
        [worker] = first.workers()
        first.kill()
        assert os.path.exists(f"/proc/{worker}")
        start("hello:application", options=["--pid", path])
        gate.touch()


def test_pid_file_in_no_folder_is_refused(tmp_path):
    log = refused(Server("hello:application", options=["--pid", tmp_path / "no" / "pid"]))
    assert "cannot write it" in log and "hint: create its folder first" in log


def test_a_server_that_cannot_start_leaves_no_pid_file(tmp_path):
    path = tmp_path / "pid"
    one = Server("no_such_module:application", options=["--pid", path]).launch()
    try:
        assert one.wait(20) == 3
    finally:
        one.kill()
    assert os.listdir(tmp_path) == []


# Titles.


def test_titles_tell_name_generation_and_state(start):
    one = start("hello:application", workers=2, options=["--name", "shop"])
    workers = one.wait_workers(2)
    assert title(one.pid) == "ringhorn: server [shop] gen 1 ready"
    expected = {f"ringhorn: worker {number} [shop] gen 1 ready" for number in (1, 2)}
    wait_until(lambda: {title(pid) for pid in workers} == expected, "both workers' titles", 10)
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in workers}
    assert names == {"ringhorn-w1", "ringhorn-w2"}
    assert Path(f"/proc/{one.pid}/comm").read_text().strip() == "ringhorn"


def test_the_application_is_the_name_unless_one_is_said(start):
    one = start("hello:application")
    assert title(one.pid) == "ringhorn: server [hello:application] gen 1 ready"


def test_titles_with_a_fork_server(start):
    one = start("hello:application", workers=2, options=["--name", "shop", "--preload"])
    expected = {f"ringhorn: worker {number} [shop] gen 1 ready" for number in (1, 2)}
    expected.add("ringhorn: fork server [shop] gen 1 ready")

    def titles():
        children = one.workers()
        return {title(pid) for pid in children} | {
            title(pid) for child in children for pid in process.children(child)
        }

    wait_until(lambda: titles() == expected, "titles of fork server and workers", 10)


def test_titles_follow_the_state(interpreter, tmp_path):
    """Starting and loading until the gate opens, ready, leaving."""
    gate, log = gated.write(tmp_path), tmp_path / "log"
    one = Server(
        "gated:application",
        python=interpreter,
        options=["--name", "x", "--chdir", tmp_path],
        pythonpath=APPS,
    ).launch()
    try:
        one.log.wait_for("listening on")
        [worker] = one.wait_workers(1)
        loading = "ringhorn: worker 1 [x] gen 1 loading"
        wait_until(lambda: title(worker) == loading, "a loading worker", 10)
        assert title(one.pid) == "ringhorn: server [x] starting"
        gate.touch()
        one.wait_ready()
        assert title(worker) == "ringhorn: worker 1 [x] gen 1 ready"
        with one.connect() as client:
            held = tmp_path / "held"
            client.send(f"GET /hold?until={held}&log={log} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(log.exists, "a request in the application", 5)
            one.signal(signal.SIGTERM)
            leaving = "ringhorn: server [x] gen 1 leaving"
            wait_until(lambda: title(one.pid) == leaving, "a leaving server", 5)
            held.touch()
            assert client.response().status == 200
        assert one.wait() == 0
    finally:
        one.kill()


def test_arguments_and_environment_stay_what_they_are(start):
    """The title takes the place of the arguments for `ps` only."""
    one = start("hygiene:application", options=["--name", "n" * 100], env={"SAID": "kept"})
    assert title(one.pid).startswith("ringhorn: server [nnn")
    environ = Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0")
    assert b"SAID=kept" in environ
    facts = one.request("GET", "/inside")
    assert '"SAID": "kept"' in facts.text


def test_a_title_that_the_application_set_is_left_alone(start, tmp_path):
    """As `setproctitle` does it: over the memory of the arguments."""
    (tmp_path / "titled.py").write_text(
        "import ctypes, re\n"
        "fields = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "start, end = int(fields[45]), int(fields[46])\n"
        "ctypes.memset(start, 0, end - start)\n"
        "ctypes.memmove(start, b'my own', 6)\n"
        "from hello import application\n"
    )
    one = start("titled:application", options=["--chdir", tmp_path])
    [worker] = one.workers()
    time.sleep(0.1)
    assert title(worker) == "my own"


@pytest.mark.parametrize("name", ["x" * 101, "a\tb"])
def test_a_name_that_is_no_line_is_refused(name):
    log = refused(Server("hello:application", options=["--name", name]))
    assert "--name cannot be" in log and "hint:" in log
