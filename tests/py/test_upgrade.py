"""USR2: a new server binary takes over from a running one, or is refused. Under a small load; every
request is accounted for (`harness/load.py`).

The new server is the old one's child and outlives it, so these tests follow it by the pid file and
end it by its descriptor.
"""

import json
import os
import select
import shutil
import signal
import stat
import subprocess

import pytest

from harness import gated, process
from harness.address import Address
from harness.client import Client, encode_request
from harness.installed import Installed, python_for
from harness.load import Load
from harness.server import LISTENING, Server
from harness.watch import wait_until


@pytest.fixture(scope="module")
def installed():
    one = Installed()
    yield one
    one.remove()


@pytest.fixture
def upgradable(installed, interpreter, tmp_path):
    """A server of its own copy of the binary, with a pid file, on TCP and a Unix socket. Ends
    whatever server the pid file names in the end."""
    started = []

    def start(application="hygiene:application", options=(), folder=tmp_path, **settings):
        settings.setdefault("binds", ("http://127.0.0.1:0", f"unix:{folder}/http.sock"))
        settings.setdefault("python", interpreter)
        one = Server(
            application,
            options=["--pid", folder / "pid", "--name", "up", *options],
            pythonpath=installed.apps,
            **settings,
        )
        binary = folder / "ringhorn"
        shutil.copy(installed.binary, binary)
        one.command[0] = str(binary)
        one.env["RINGHORN_RUNTIME_DIR"] = str(installed.folder)
        started.append(Upgradable(one, binary, folder / "pid"))
        one.start()
        return started[-1]

    yield start
    for one in started:
        one.end()


class Upgradable:
    """The server that was started first, and whichever is the server now."""

    def __init__(self, server, binary, pid_file):
        self.server = server
        self.binary = binary
        self.pid_file = pid_file
        self.known = {}

    @property
    def addresses(self):
        return self.server.addresses

    @property
    def log(self):
        return self.server.log

    @property
    def pid(self):
        """The server now, as the pid file says."""
        pid = int(self.pid_file.read_text())
        self.follow(pid)
        return pid

    def follow(self, pid):
        """Keeps a descriptor of a process, so that its number cannot come to mean another."""
        if pid not in self.known:
            self.known[pid] = os.pidfd_open(pid)

    def signal(self, pid, number):
        self.follow(pid)
        signal.pidfd_send_signal(self.known[pid], number)

    def wait_end(self, pid, seconds=20):
        self.follow(pid)
        ready, _, _ = select.select([self.known[pid]], [], [], seconds)
        assert ready, f"process {pid} did not end:\n{self.server.tail()}"

    def upgrade(self, seconds=30):
        """USR2; returns the new process id once the old process has ended."""
        old = self.pid
        self.signal(old, signal.SIGUSR2)
        self.wait_end(old, seconds)
        new = self.pid
        assert new != old, self.server.tail()
        return new

    def new_process(self, old, seconds=10):
        """The server that `old` starts, while it boots."""

        def found():
            for pid in process.children(old):
                if os.path.basename(exe(pid)).startswith("ringhorn"):
                    return pid
            return None

        pid = wait_until(found, "the new server's process", seconds)
        self.follow(pid)
        return pid

    def inside(self, path="/inside", index=0):
        with Client(self.addresses[index]) as client:
            return json.loads(client.request("GET", path).text)

    def refused(self, why, trigger=None, seconds=20):
        """USR2 that is refused: the same server serves on, and says why."""
        old, mark = self.pid, self.log.mark()
        self.signal(old, signal.SIGUSR2)
        if trigger:
            trigger()
        self.log.wait_for(f"upgrade refused: .*{why}", seconds, since=mark)
        assert self.pid == old
        assert self.inside("/pid", 0)[0] and self.inside("/pid", 1)[0]
        return self.log.after(mark)

    def end(self):
        try:
            try:
                pid = self.pid
            except (FileNotFoundError, ProcessLookupError):
                return
            if pid != self.server.pid:
                self.signal(pid, signal.SIGTERM)
                self.wait_end(pid)
        finally:
            self.server.kill()
            for descriptor in self.known.values():
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                os.close(descriptor)


def exe(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def replace_binary(one, text):
    """Puts a script in the binary's place, as an installer would: a new file, moved there."""
    fresh = one.binary.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o755)
    fresh.rename(one.binary)


def restore_binary(one, installed):
    fresh = one.binary.with_suffix(".new")
    shutil.copy(installed.binary, fresh)
    fresh.rename(one.binary)


# Taken over.


def test_upgrade_under_load_loses_nothing(upgradable, installed, tmp_path):
    log = tmp_path / "access.log"
    one = upgradable(workers=2, options=["--access-logfile", log])
    old, workers = one.pid, set(process.children(one.pid))
    restore_binary(one, installed)
    inode = os.stat(one.binary).st_ino
    with Load(one.addresses) as load:
        wait_until(lambda: load.count > 200, "some answers", 20)
        new = one.upgrade()
        after = load.count
        wait_until(lambda: load.count > after + 200, "answers of the new server", 20)
    assert load.failed == []
    assert one.server.process.wait(10) == 0
    # Both served, each with workers of its own.
    served = {json.loads(text)[0] for text in load.answers}
    assert served & workers and served - workers
    assert os.stat(f"/proc/{new}/exe").st_ino == inode, "the new file is what runs"
    assert process.status(old) == {} or not process.is_alive(old)
    # The access log has a line for each answer, of both servers (a repeated request was never
    # seen by any).
    wait_until(lambda: log.read_text().count(" /pid ") >= load.count, "the last lines", 5)
    assert log.read_text().count(" /pid ") == load.count


def test_port_sockets_and_pid_file_are_the_same_afterwards(upgradable, tmp_path):
    one = upgradable()
    path = tmp_path / "http.sock"
    inode = path.stat().st_ino
    ports = LISTENING.findall(one.log.text)
    mark = one.log.mark()
    new = one.upgrade()
    assert LISTENING.findall(one.log.after(mark)) == ports, "port 0 is the same port again"
    assert path.stat().st_ino == inode
    assert one.pid_file.read_text() == f"{new}\n"
    assert one.inside(index=0)["parent"] == one.inside(index=1)["parent"] == new
    one.signal(new, signal.SIGTERM)
    one.wait_end(new)
    assert not path.exists() and not one.pid_file.exists()
    assert sorted(os.listdir(tmp_path)) == ["ringhorn"]


def test_upgrade_after_upgrade(upgradable):
    one = upgradable()
    seen = [one.pid]
    with Load(one.addresses, clients=2) as load:
        for _ in range(3):
            seen.append(one.upgrade())
    assert load.failed == [] and len(set(seen)) == 4


def test_a_request_in_flight_is_finished_by_the_old_server(upgradable, tmp_path):
    one = upgradable(threads=2)
    gate, log = tmp_path / "gate", tmp_path / "log"
    old = one.pid
    with Client(one.addresses[0], 20) as held, Client(one.addresses[1], 20) as kept:
        assert kept.request("GET", "/pid").status == 200
        held.send(encode_request("GET", f"/hold?until={gate}&log={log}"))
        wait_until(log.exists, "the call", 5)
        one.signal(old, signal.SIGUSR2)
        one.log.wait_for("took over from the server before this one", 20)
        assert one.pid != old
        # For a moment both accept, and the old one's second thread serves.
        wait_until(lambda: one.inside()["parent"] == one.pid, "the new server alone to accept", 5)
        assert process.is_alive(old)
        gate.touch()
        answer = held.response()
        assert answer.status == 200 and answer.header("Connection") == "close"
        assert kept.is_closed(), "an idle connection is closed, as on TERM"
    one.wait_end(old)


def test_connection_whose_wake_up_the_old_server_took_is_served(upgradable, tmp_path):
    """The kernel wakes one waiter of the shared listener for a connection. The old server's was
    cancelled with the wake-up in hand (here: the old server is stopped), and the connection waited
    for the next one to come."""
    one, gate, old, new = half_upgraded(upgradable, tmp_path)
    one.signal(old, signal.SIGSTOP)
    mark = one.log.mark()
    gate.touch()
    one.log.wait_for("ringhorn ready", 20, since=mark)
    try:
        for _ in range(8):
            with Client(one.addresses[0], 5) as client:
                assert json.loads(client.request("GET", "/inside").text)["parent"] == new
    finally:
        one.signal(old, signal.SIGCONT)
    one.log.wait_for("took over from the server before this one", 20, since=mark)
    one.wait_end(old)
    assert one.pid == new


def test_upgrade_with_a_fork_server(upgradable):
    one = upgradable(workers=2, options=["--preload"])
    with Load(one.addresses, clients=2) as load:
        one.upgrade()
        one.upgrade()
    assert load.failed == []


def test_usr1_opens_the_logs_again_after_an_upgrade(upgradable, tmp_path):
    log = tmp_path / "access.log"
    one = upgradable(options=["--access-logfile", log])
    new = one.upgrade()
    log.rename(tmp_path / "access.log.1")
    one.signal(new, signal.SIGUSR1)
    wait_until(log.exists, "the log again", 5)
    one.inside("/pid?after")
    wait_until(lambda: "after" in log.read_text(), "a line in the new file", 5)


def test_changed_binds_are_bound_and_dropped(upgradable, installed, tmp_path):
    kept, dropped, added = (tmp_path / name for name in ("kept", "dropped", "added"))
    one = upgradable(binds=(f"unix:{kept}", f"unix:{dropped}"))
    wrapper = "\n".join(
        [
            "#!/bin/sh",
            f"exec {installed.binary} --python {one.server.command[2]} --bind unix:{kept} \\",
            f"  --bind unix:{added}?mode=0600 --workers 1 --pid {one.pid_file} \\",
            f"  --pythonpath {installed.apps} hygiene:application",
            "",
        ]
    )
    replace_binary(one, wrapper)
    inode = kept.stat().st_ino
    new = one.upgrade()
    assert kept.stat().st_ino == inode and not dropped.exists()
    assert stat.S_IMODE(added.stat().st_mode) == 0o600
    for path in (kept, added):
        with Client(Address("http", path=str(path))) as client:
            assert json.loads(client.request("GET", "/inside").text)["parent"] == new


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_upgrade_of_a_server_that_gave_up_root(upgradable, installed):
    python = python_for("nobody", installed)
    if python is None:
        pytest.skip("no interpreter that nobody can run and a native module was built for")
    folder = installed.folder / "run"
    folder.mkdir()
    shutil.chown(folder, "nobody")
    one = upgradable(python=python, options=["--user", "nobody"], folder=folder)
    with Load(one.addresses, clients=2) as load:
        new = one.upgrade()
    assert load.failed == []
    assert set(process.status(new)["Uid"].split()) == {"65534"}
    assert one.pid_file.owner() == "nobody"


def test_the_server_is_lost_while_the_new_one_boots(upgradable, tmp_path):
    """Killed in between: whoever holds the sockets serves on."""
    one, gate, old, new = half_upgraded(upgradable, tmp_path)
    one.signal(old, signal.SIGKILL)
    one.wait_end(old)
    gate.touch()
    wait_until(lambda: one.pid == new, "the pid file of the new server", 20)
    assert one.inside()["parent"] == new


def test_the_control_socket_moves_to_the_new_server(upgradable, tmp_path):
    path = tmp_path / "control"
    one = upgradable(options=["--control-socket", path])
    new = one.upgrade()
    one.log.wait_for("took over from the server before this one")
    told = subprocess.run(
        [one.binary, "status", "--control-socket", path], capture_output=True, text=True, timeout=20
    )
    assert told.returncode == 0 and f"(pid {new})" in told.stdout, told
    assert sorted(os.listdir(tmp_path)) == ["control", "http.sock", "pid", "ringhorn"]
    one.signal(new, signal.SIGTERM)
    one.wait_end(new)
    assert os.listdir(tmp_path) == ["ringhorn"]


# Refused.


def test_an_import_that_hangs_is_refused(upgradable, tmp_path):
    gate = gated.write(tmp_path)
    gate.touch()
    options = ["--chdir", tmp_path, "--startup-timeout", "1"]
    one = upgradable("gated:application", options=options)
    gate.unlink()
    one.refused("not ready within --startup-timeout")
    wait_until(lambda: not new_servers(one), "the refused server to end", 10)


def test_a_binary_that_never_answers_is_refused_and_ended(upgradable):
    one = upgradable(options=["--startup-timeout", "1"])
    replace_binary(one, "#!/bin/sh\nexec sleep 1000\n")
    one.refused("is not ready within --startup-timeout and 10s", seconds=30)
    wait_until(lambda: len(process.children(one.pid)) == 1, "its end, the worker left alone", 10)


def half_upgraded(upgradable, folder):
    """A server whose successor boots until the gate opens: the server, the gate, both processes."""
    gate = gated.write(folder)
    gate.touch()
    one = upgradable("gated:application", options=["--chdir", folder])
    gate.unlink()
    old = one.pid
    one.signal(old, signal.SIGUSR2)
    return one, gate, old, one.new_process(old)


@pytest.mark.parametrize(
    "script, why",
    [
        ("#!/bin/sh\nexit 7\n", r"ended \(exit status: 7\)"),
        ("#!/bin/sh\nkill -9 $$\n", r"ended \(signal: 9"),
        ("#!/no/such/interpreter\n", "cannot be started: No such file"),
        ("\x7fELF, but not really", "ended"),
    ],
)
def test_a_broken_binary_is_refused(upgradable, installed, script, why):
    one = upgradable()
    with Load(one.addresses, clients=1) as load:
        replace_binary(one, script)
        one.refused(why)
        restore_binary(one, installed)
        one.upgrade()
    assert load.failed == []


def test_a_missing_binary_is_refused(upgradable):
    one = upgradable()
    one.binary.unlink()
    one.refused("cannot be started: No such file")


def test_an_application_that_cannot_be_imported_is_refused(upgradable, tmp_path):
    app = tmp_path / "changing.py"
    app.write_text("from hygiene import application\n")
    one = upgradable("changing:application", options=["--chdir", tmp_path])
    with Load(one.addresses, clients=2) as load:
        app.write_text("raise RuntimeError('a bad release')\n")
        log = one.refused("cannot load the application changing:application.*RuntimeError")
        assert "RuntimeError: a bad release" in log and "hint: the traceback is above" in log
        wait_until(lambda: not new_servers(one), "the refused server to end", 10)
        before = load.count
        wait_until(lambda: load.count > before + 50, "answers afterwards", 10)
    assert load.failed == []
    assert (tmp_path / "http.sock").exists()
    app.write_text("from hygiene import application\n")
    one.upgrade()


def new_servers(one):
    return [pid for pid in process.children(one.pid) if exe(pid) == str(one.binary)]


def test_a_wrong_option_is_refused_with_its_hint(upgradable, installed):
    one = upgradable()
    replace_binary(one, f'#!/bin/sh\nexec {installed.binary} --wrokers 2 "$@"\n')
    log = one.refused("unknown option `--wrokers`")
    assert "hint: did you mean" in log


def test_an_address_that_is_taken_is_refused(upgradable, installed, start):
    other = start("hello:application")
    one = upgradable()
    bind = f"127.0.0.1:{other.address.port}"
    replace_binary(one, f'#!/bin/sh\nexec {installed.binary} --bind {bind} "$@"\n')
    one.refused("another process listens there")


def test_a_second_usr2_is_refused_while_one_is_under_way(upgradable, tmp_path):
    one, gate, old, new = half_upgraded(upgradable, tmp_path)
    one.refused(rf"one is under way \(process {new}\)")
    gate.touch()
    one.wait_end(old)
    assert one.pid == new


def test_term_ends_the_new_server_too_while_it_boots(upgradable, tmp_path):
    one, _, old, new = half_upgraded(upgradable, tmp_path)
    one.signal(old, signal.SIGTERM)
    one.wait_end(old)
    one.wait_end(new)
    assert one.server.process.wait(5) == 0
    assert not {"pid", "http.sock"} & set(os.listdir(tmp_path))


def test_usr2_before_ready_is_refused(upgradable, installed, interpreter, tmp_path):
    gate = gated.write(tmp_path)
    one = Server("gated:application", python=interpreter, options=["--chdir", tmp_path])
    one.launch()
    try:
        one.log.wait_for("listening on")
        one.signal(signal.SIGUSR2)
        one.log.wait_for("upgrade refused: this server does not serve")
        gate.touch()
        one.wait_ready()
        one.stop()
    finally:
        one.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process 1 of its own")
def test_process_1_of_a_container_is_not_upgraded(interpreter):
    one = Server("hygiene:application", python=interpreter)
    one.command = ["unshare", "--pid", "--fork", "--kill-child", *one.command]
    one.start()
    try:
        [inner] = process.children(one.pid)
        os.kill(inner, signal.SIGUSR2)
        one.log.wait_for("upgrade refused: this server is process 1")
        assert one.request("GET", "/pid").status == 200
        os.kill(inner, signal.SIGTERM)
        assert one.wait() == 0
    finally:
        one.kill()


def test_a_foreign_upgrade_variable_is_refused():
    one = Server("hygiene:application", env={"RINGHORN_UPGRADE": "77"}).launch()
    try:
        assert one.wait(10) == 2
        assert "RINGHORN_UPGRADE" in one.log.text and "hint:" in one.log.text
    finally:
        one.kill()
