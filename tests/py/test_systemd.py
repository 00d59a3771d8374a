"""systemd's protocols: sd_notify(3) with a socket of our own, sd_listen_fds(3) by hand and with
`systemd-socket-activate`, and the units in tuning/systemd under `systemd-analyze verify`.
"""

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import gated, process, uwsgi
from harness.address import Address
from harness.client import Client
from harness.load import Load
from harness.notified import Notified
from harness.server import APPS, Server
from harness.watch import wait_until

UNITS = Path(__file__).resolve().parents[2] / "tuning" / "systemd"

# Puts inherited descriptors where sd_listen_fds wants them, and becomes the server.
ACTIVATE = """
import os, sys
count = int(sys.argv[1])
for index in range(count):
    os.dup2(int(sys.argv[2 + index]), 3 + index)
environ = dict(os.environ, LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()))
os.execve(sys.argv[2 + count], sys.argv[2 + count:], environ)
"""


@pytest.fixture(params=["path", "abstract"])
def notified(request, tmp_path):
    name = f"@ringhorn-test-{os.getpid()}-{os.urandom(4).hex()}"
    one = Notified(name if request.param == "abstract" else str(tmp_path / "notify"))
    yield one
    one.close()


@pytest.fixture
def watched(tmp_path):
    one = Notified(str(tmp_path / "notify"))
    yield one
    one.close()


@pytest.fixture
def passed():
    """Makes servers to which listening sockets are passed."""
    started, sockets = [], []

    def listening(family=socket.AF_INET, kind=socket.SOCK_STREAM, address=("127.0.0.1", 0)):
        sock = socket.socket(family, kind)
        # Above the numbers that sd_listen_fds uses.
        number = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 50)
        sock.close()
        sock = socket.socket(fileno=number)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(128)
        sockets.append(sock)
        return sock

    def server(given, names=None, binds=(), env=None, **settings):
        numbers = [sock.fileno() for sock in given]
        env = dict(env or {})
        if names is not None:
            env["LISTEN_FDNAMES"] = ":".join(names)
        one = Server(
            settings.pop("application", "hygiene:application"),
            binds=binds,
            env=env,
            pass_fds=numbers,
            **settings,
        )
        activate = [sys.executable, "-c", ACTIVATE, str(len(numbers)), *map(str, numbers)]
        one.command = [*activate, *one.command]
        started.append(one)
        return one

    server.listening = listening
    yield server
    for one in started:
        if one.process:
            one.__exit__(None)
    for sock in sockets:
        sock.close()


def address_of(sock, scheme="http"):
    name = sock.getsockname()
    if isinstance(name, str):
        return Address(scheme, path=name)
    return Address(scheme, host=name[0], port=name[1])


def get(address, path="/pid"):
    with Client(address) as client:
        response = client.request("GET", path)
        assert response.status == 200
        return json.loads(response.text)


# What systemd is told.


def test_ready_is_told_once_the_first_worker_serves(start, notified, tmp_path, interpreter):
    gate = gated.write(tmp_path)
    one = Server(
        "gated:application",
        python=interpreter,
        options=["--chdir", tmp_path],
        env={"NOTIFY_SOCKET": notified.address},
    ).launch()
    try:
        pid, fields = notified.hear()
        assert (pid, fields) == (one.pid, {"STATUS": "loading the application"})
        one.log.wait_for("listening on")
        gate.touch()
        pid, fields = notified.hear()
        assert pid == one.pid and fields == {"READY": "1", "STATUS": "ready: 1 worker"}
        one.wait_ready()
        assert get(one.address)[0]
        one.stop()
    finally:
        one.kill()


def test_stopping_is_told_with_the_time_it_may_take(start, notified):
    options = ["--graceful-timeout", "100"]
    one = start("hygiene:application", env={"NOTIFY_SOCKET": notified.address}, options=options)
    notified.wait_for("READY")
    one.stop()
    pid, fields = notified.wait_for("STOPPING")
    assert pid == one.pid and fields["STOPPING"] == "1"
    assert 100_000_000 <= int(fields["EXTEND_TIMEOUT_USEC"]) <= 110_000_000


def test_a_reload_is_told_from_its_beginning_to_its_end(start, notified, tmp_path):
    app = tmp_path / "changing.py"
    app.write_text("from hygiene import application\n")
    one = start(
        "changing:application",
        env={"NOTIFY_SOCKET": notified.address},
        options=["--chdir", tmp_path],
    )
    notified.wait_for("READY")
    for text, generation in (("", 2), ("raise RuntimeError('a bad release')\n", 2)):
        app.write_text(text + "from hygiene import application\n")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        one.signal(signal.SIGHUP)
        pid, fields = notified.wait_for("RELOADING")
        assert pid == one.pid and fields["RELOADING"] == "1"
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert before <= int(fields["MONOTONIC_USEC"]) <= after
        _, fields = notified.wait_for("READY")
        assert fields["STATUS"].endswith(f"generation {generation}")


def test_the_watchdog_is_fed_at_half_of_its_time(start, watched):
    env = {"NOTIFY_SOCKET": watched.address, "WATCHDOG_USEC": "400000"}
    one = start("hygiene:application", env=env)
    watched.wait_for("WATCHDOG")
    times = []
    for _ in range(6):
        pid, _ = watched.wait_for("WATCHDOG", 1)
        times.append(time.monotonic())
        assert pid == one.pid
    gaps = [later - sooner for sooner, later in zip(times, times[1:], strict=False)]
    assert 0.1 < sum(gaps) / len(gaps) < 0.3, gaps


def test_the_watchdog_is_not_fed_while_an_event_loop_stands_still(start, watched):
    env = {"NOTIFY_SOCKET": watched.address, "WATCHDOG_USEC": "400000"}
    one = start("hygiene:application", env=env, workers=2, options=["--event-loops", "2"])
    watched.wait_for("WATCHDOG")
    loops = [
        int(task.name)
        for task in Path(f"/proc/{one.pid}/task").iterdir()
        if "loop" in (task / "comm").read_text()
    ]
    assert len(loops) == 2, [p.read_text() for p in Path(f"/proc/{one.pid}/task").glob("*/comm")]
    with halted(loops[1]):
        mark = one.log.mark()
        one.log.wait_for(r"event loops \[1\] do not turn", since=mark)
        drain(watched)
        with pytest.raises(AssertionError):
            watched.wait_for("WATCHDOG", 1)
    watched.wait_for("WATCHDOG", 2)


class halted:
    """Halts one thread of a process, as nothing but a debugger can (ptrace(2))."""

    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17

    def __init__(self, thread):
        self.thread = thread
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ask(self, request):
        if self.libc.ptrace(request, self.thread, None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def __enter__(self):
        self.ask(self.SEIZE)
        self.ask(self.INTERRUPT)
        os.waitpid(self.thread, 0x40000000)

    def __exit__(self, *_):
        self.ask(self.DETACH)


def drain(notified):
    notified.sock.settimeout(0)
    try:
        while True:
            notified.sock.recv(4096)
    except BlockingIOError:
        pass


def test_a_watchdog_of_another_process_is_not_fed(start, watched):
    env = {"NOTIFY_SOCKET": watched.address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}
    start("hygiene:application", env=env)
    watched.wait_for("READY")
    with pytest.raises(AssertionError):
        watched.wait_for("WATCHDOG", 0.6)


def test_workers_hear_nothing_of_systemd(start, watched):
    env = {"NOTIFY_SOCKET": watched.address, "WATCHDOG_USEC": "20000000"}
    inside = json.loads(start("hygiene:application", env=env).request("GET", "/inside").text)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(inside["env"])


@pytest.mark.parametrize("said", ["nowhere", "/no/such/socket", "vsock:2:1"])
def test_a_socket_that_nobody_listens_on_is_no_reason_not_to_serve(start, said):
    one = start("hygiene:application", env={"NOTIFY_SOCKET": said, "WATCHDOG_USEC": "x"})
    assert get(one.address)[0]
    assert f"{said}" in one.log.text and "WARN" in one.log.text


# Sockets that are passed.


def test_passed_sockets_are_the_binds_when_none_is_said(passed):
    first, second = passed.listening(), passed.listening()
    one = passed([first, second], env={"PORT": "1"}).start()
    assert get(address_of(first))[0] and get(address_of(second))[0]
    listening = re.findall("listening on (.*)", one.log.text)
    assert listening == [f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (first, second)]
    inside = get(address_of(first), "/inside")
    assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(inside["env"])


def test_passed_sockets_are_taken_by_name(passed, tmp_path):
    web = passed.listening()
    admin = passed.listening(socket.AF_UNIX, address=str(tmp_path / "admin"))
    again = passed.listening()
    binds = ("fd://web", "uwsgi://fd://admin")
    passed([web, admin, again], ["web", "admin", "web"], binds).start()
    assert get(address_of(web))[0] and get(address_of(again))[0]
    with address_of(admin).connect() as sock:
        sock.sendall(uwsgi.request("/pid"))
        assert b"200 OK" in sock.recv(4096)
    assert (tmp_path / "admin").exists()


def test_a_passed_socket_file_is_not_the_servers_to_remove(passed, tmp_path):
    sock = passed.listening(socket.AF_UNIX, address=str(tmp_path / "web"))
    one = passed([sock]).start()
    one.stop()
    assert (tmp_path / "web").exists()


def test_a_passed_socket_that_no_bind_takes_is_told(passed):
    web, other = passed.listening(), passed.listening()
    one = passed([web, other], ["web", "other"], binds=("fd://web",)).start()
    assert "socket 4 (`other`) was passed, but no --bind takes it" in one.log.text
    assert get(address_of(web))[0]


@pytest.mark.parametrize(
    "make, settings, said",
    [
        (lambda listening: listening(), dict(names=["a"], binds=("fd://b",)), "passed were `a`"),
        (lambda listening: listening(), dict(names=["a", "b"]), "LISTEN_FDNAMES has 2 names"),
        (
            lambda listening: listening(kind=socket.SOCK_DGRAM),
            {},
            "it is no stream socket that listens",
        ),
    ],
)
def test_what_is_passed_wrongly_is_refused(passed, make, settings, said):
    one = passed([make(passed.listening)], **settings).launch()
    assert one.wait(20) == 2
    assert said in one.log.text and "hint:" in one.log.text


def test_a_connection_in_place_of_a_listener_is_refused(passed):
    listener = passed.listening()
    with socket.create_connection(listener.getsockname()) as client:
        one = passed([client]).launch()
        # The number that create_connection chose may be one of those that are replaced.
        assert one.wait(20) == 2
    assert "it is no stream socket that listens" in one.log.text
    assert "without Accept=yes" in one.log.text


def test_sockets_for_another_process_are_left_alone(start):
    one = start("hygiene:application", env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert get(one.address)[0]


def test_a_restart_with_passed_sockets_loses_nothing(passed, tmp_path):
    """What `systemctl restart` does with a socket unit: connections wait in between."""
    web = passed.listening()
    unix = passed.listening(socket.AF_UNIX, address=str(tmp_path / "web"))
    addresses = [address_of(web), address_of(unix)]
    one = passed([web, unix]).start()
    with Load(addresses) as load:
        for _ in range(2):
            seen = load.count
            wait_until(lambda seen=seen: load.count > seen + 200, "answers", 20)
            one.stop()
            one = passed([web, unix]).start()
        seen = load.count
        wait_until(lambda: load.count > seen + 200, "answers of the last", 20)
    assert load.failed == []


def test_systemd_socket_activate(interpreter, tmp_path):
    """The real tool: it starts the server at the first connection and passes the sockets."""
    tool = shutil.which("systemd-socket-activate")
    assert tool, "the tests need systemd-socket-activate (package systemd)"
    web, admin = tmp_path / "web", tmp_path / "admin"
    one = Server(
        "hygiene:application", python=interpreter, binds=("fd://web", "uwsgi://fd://admin")
    )
    names = ["-l", str(web), "-l", str(admin), "--fdname=web:admin"]
    # It passes on no variable but those it is told to.
    one.command = [tool, *names, "-E", f"PATH={os.environ['PATH']}", *one.command]
    one.launch()
    try:
        one.log.wait_for("Listening on")
        assert get(Address("http", path=str(web)))[0]
        one.wait_ready()
        one.stop()
    finally:
        one.kill()


# An upgrade, as systemd sees it.


def test_an_upgrade_moves_main_process_sockets_and_watchdog(passed, watched, tmp_path):
    web = passed.listening()
    env = {"NOTIFY_SOCKET": watched.address, "WATCHDOG_USEC": "400000"}
    pid_file = tmp_path / "pid"
    one = passed([web], ["web"], binds=("fd://web",), env=env, options=["--pid", pid_file]).start()
    watched.wait_for("READY")
    new = None
    try:
        with Load([address_of(web)]) as load:
            one.signal(signal.SIGUSR2)
            pid, fields = watched.wait_for("MAINPID")
            assert pid == one.pid
            new = int(fields["MAINPID"])
            pid, fields = watched.wait_for("READY")
            assert pid == new
            assert one.process.wait(20) == 0
            pid, _ = watched.wait_for("WATCHDOG")
            assert pid == new, "the old one says nothing more"
        assert load.failed == []
        assert get(address_of(web), "/inside")["parent"] == new == int(pid_file.read_text())
        told = [(pid, name) for pid, fields in watched.heard for name in fields]
        assert (one.pid, "STOPPING") not in told
        assert told.count((one.pid, "READY")) == 1 and told.count((new, "READY")) == 1
        assert (new, "READY") not in told[: told.index((one.pid, "MAINPID"))]
    finally:
        if new:
            end_server(new)


def end_server(pid):
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    wait_until(lambda: not process.is_alive(pid), "the new server to end", 20)
    os.close(descriptor)


# The units.


@pytest.mark.parametrize("name", ["ringhorn.service", "ringhorn.socket"])
def test_systemd_accepts_the_units(name, tmp_path):
    tool = shutil.which("systemd-analyze")
    assert tool, "the tests need systemd-analyze (package systemd)"
    for unit in UNITS.iterdir():
        text = unit.read_text()
        # The path of the site's virtualenv, which is not here.
        (tmp_path / unit.name).write_text(text.replace("/srv/site/venv/bin/ringhorn", "/bin/true"))
    result = subprocess.run(
        [tool, "verify", "--man=no", tmp_path / name], capture_output=True, text=True
    )
    complaints = [line for line in result.stderr.splitlines() if str(tmp_path) in line]
    assert result.returncode == 0 and complaints == [], result.stderr


def test_the_unit_says_what_the_server_needs():
    service = dict(
        line.split("=", 1)
        for line in (UNITS / "ringhorn.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert service["Type"] == "notify" and service["KillMode"] == "mixed"
    # Longer than --graceful-timeout and --startup-timeout are by default.
    assert int(service["TimeoutStopSec"]) > 30 and int(service["TimeoutStartSec"]) > 60
    assert int(service["LimitNOFILE"]) > 16384


def test_units_were_found():
    assert sorted(unit.name for unit in UNITS.iterdir()) == ["ringhorn.service", "ringhorn.socket"]
    assert (APPS / "hygiene.py").exists()
