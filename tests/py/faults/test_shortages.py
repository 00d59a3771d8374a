"""What runs out: connections held by clients that never finish a head, descriptors, disk. The
service goes on beside it, says what is wrong, and needs nobody once there is room again.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from faults.drill import Footprint, Running, has_all_slots, length
from harness.address import Address
from harness.client import Client, encode_request
from harness.release import ask
from harness.server import Server
from harness.watch import wait_until

MIB = 1 << 20
INFLIGHT = 64
MIX = ({"path": "/work?ms=1"}, {"path": "/work?ms=1", "post": 2000})


# Slow clients

SLOW_CLIENTS = 8_000
DRIP_SECONDS = length(short=4.0, full=60.0)
HEADER_TIMEOUT = 2


@pytest.fixture
def many_descriptors():
    """This process needs a descriptor for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SLOW_CLIENTS + 1_000
    assert hard == resource.RLIM_INFINITY or hard >= wanted, f"hard limit of files: {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Dripper(threading.Thread):
    """Sends heads byte by byte over many connections, and connects anew where it is cut."""

    def __init__(self, address, count):
        super().__init__(daemon=True)
        self.address = address
        self.stopping = threading.Event()
        self.clients = [Client(address) for _ in range(count)]
        self.bytes = 0
        self.cut = 0

    def run(self):
        head = encode_request("GET", "/", [("X-Slow", "s" * 4000)])
        while not self.stopping.is_set():
            byte = head[self.bytes // len(self.clients) % len(head) :][:1]
            for place, client in enumerate(self.clients):
                if self.stopping.is_set():
                    return
                try:
                    client.send(byte)
                except ConnectionError:
                    client.close()
                    self.clients[place] = Client(self.address)
                    self.cut += 1
                self.bytes += 1
                if self.bytes % 100 == 0:
                    time.sleep(0.005)

    def stop(self):
        self.stopping.set()
        self.join(10)

    def close(self):
        for client in self.clients:
            client.close()


@pytest.mark.timeout(length(short=80, full=200))
def test_slowloris(start, many_descriptors, figure, tmp_path):
    options = ["--header-timeout", HEADER_TIMEOUT, "--max-inflight", INFLIGHT]
    server = start("drilled:application", workers=2, threads=2, options=options)
    server.wait_workers(2)
    with Running(server.address, 16, MIX) as load:
        load.wait_answers(300)
        before = Footprint.of(server)
        load.window("without")
        time.sleep(1)
        load.window("with")
        dripper = Dripper(server.address, SLOW_CLIENTS)
        with contextlib.closing(dripper):
            dripper.start()
            time.sleep(DRIP_SECONDS)
            dripper.stop()
            account = load.stop()
            # Those that are left are cut too, without a byte more of theirs.
            wait_until(
                lambda: all(is_cut(client) for client in dripper.clients[::100]),
                "slow clients to be cut",
                HEADER_TIMEOUT + 5,
            )
    without, beside = account.windows["without"], account.windows["with"]
    figure(
        f"{SLOW_CLIENTS} slow clients for {DRIP_SECONDS:.0f} s, {dripper.bytes} bytes, "
        f"{dripper.cut} cut: beside them {account}; p99 {without['ok']['p99']} ms without, "
        f"{beside['ok']['p99']} ms with"
    )
    assert account.failed() == 0 and account.retried == 0
    # Dripping takes CPU from the server: only a standstill is a fault.
    assert account.longest("with") < 1000
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)


def is_cut(client):
    """Whether the server said 408 or ended the connection."""
    try:
        client.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


# Descriptors

DESCRIPTORS = 300
CONNECTIONS = 400


def limit_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


@pytest.mark.timeout(60)
def test_descriptor_limit_reached(start, figure, tmp_path):
    """Spool files of a few hundred clients take the last descriptors, more clients wait in the
    backlog, and a worker dies meanwhile: each client gets 200 or 503, and when they left a new
    worker is there."""
    spool = tmp_path / "spool"
    spool.mkdir()
    options = ["--max-connections", CONNECTIONS, "--max-inflight", 1024]
    options += ["--body-buffer-size", "1KiB", "--spool-dir", spool]
    server = start(
        "drilled:application", workers=2, threads=2, options=options, preexec=limit_descriptors
    )
    server.wait_workers(2)
    with Running(server.address, 8, MIX) as load:
        load.wait_answers(100)
    before, mark = Footprint.of(server), server.log.mark()
    body = b"y" * 5000
    head = encode_request("POST", "/work?id=s", [("Content-Length", str(len(body)))])
    with contextlib.ExitStack() as closing:
        # Each body stops before its last byte, its spool file open.
        clients = [closing.enter_context(server.connect(20)) for _ in range(2 * DESCRIPTORS)]
        old = server.workers()
        for client in clients:
            client.send(head + body[:-1])
        server.log.wait_for("cannot make a spool file.*Too many open files", 10, since=mark)
        os.kill(old[0], signal.SIGKILL)
        server.log.wait_for("cannot start a worker.*Too many open files", 10, since=mark)
        statuses = []
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.send(body[-1:])
        for client in clients:
            statuses.append(client.response().status)
            client.close()
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    server.wait_workers(2, 20, without=old[:1])
    with Running(server.address, 8, MIX) as load:
        load.wait_answers(100)
        account = load.stop()
    figure(f"{DESCRIPTORS} descriptors, {2 * DESCRIPTORS} bodies at once: {counts}; then {account}")
    assert set(counts) == {200, 503} and counts[200] > 100
    assert account.failed() == 0
    before.kept_from(server)


# Disk

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_PRIVATE_RECURSIVE = 0x44000


def mount_small_disk(folder, size):
    """Gives the process a mount namespace of its own with a small tmpfs in it; for `preexec`."""

    user, group = os.getuid(), os.getgid()

    def mount():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS):
            # Not root: it is one in a user namespace of its own.
            if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
                raise OSError(ctypes.get_errno(), "unshare")
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        options = b"size=%d" % size
        for call in (
            (b"none", b"/", None, MS_PRIVATE_RECURSIVE, None),
            (b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options),
        ):
            if libc.mount(*call):
                raise OSError(ctypes.get_errno(), "mount")

    return mount


@pytest.fixture
def small_disk(tmp_path):
    """A folder, and what makes a disk of 1 MiB there for a server."""
    folder = tmp_path / "disk"
    folder.mkdir()
    preexec = mount_small_disk(folder, MIB)
    try:
        subprocess.run(["true"], preexec_fn=preexec, check=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    return folder, preexec


def seen_by(server, path):
    """A path as the server's mount namespace has it."""
    return Path(f"/proc/{server.pid}/root{path}")


@pytest.mark.timeout(60)
def test_disk_full_for_spool_files(start, figure, small_disk, tmp_path):
    folder, preexec = small_disk
    options = ["--body-buffer-size", "16KiB", "--spool-dir", folder, "--max-inflight", INFLIGHT]
    server = start("drilled:application", workers=2, threads=2, options=options, preexec=preexec)
    server.wait_workers(2)
    big, fits = b"y" * (3 * MIB), b"y" * (MIB // 2)
    with Running(server.address, 8, MIX) as load:
        load.wait_answers(100)
        before, mark = Footprint.of(server), server.log.mark()
        for _ in range(length(short=5, full=100)):
            with server.connect(20) as client:
                # The answer comes before all is sent.
                sender = threading.Thread(target=send_all, args=(client, big), daemon=True)
                sender.start()
                refused = client.response()
                assert refused.status == 503 and refused.header("Retry-After")
            sender.join(10)
            assert not sender.is_alive()
            # What was taken is given back: the next one that fits is served.
            with server.connect(20) as client:
                send_all(client, fits)
                assert client.response().status == 200
        account = load.stop()
    assert "No space left on device" in server.log.after(mark)
    figure(f"disk full for spool files: bodies that do not fit get 503; beside them {account}")
    assert account.failed() == 0 and account.retried == 0
    assert has_all_slots(server, INFLIGHT, tmp_path)
    before.kept_from(server)


def send_all(client, body):
    head = encode_request("POST", "/work?id=big", [("Content-Length", str(len(body)))])
    with contextlib.suppress(OSError):
        client.send(head + body)


LINE = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "[A-Z]+ [^"]+ HTTP/1\.1" \d{3} \d+ "-" "-"\Z')


@pytest.mark.timeout(60)
def test_disk_full_for_logs(interpreter, figure, small_disk, tmp_path):
    """Access and error log on a disk that fills up: lines are lost, requests are not."""
    folder, preexec = small_disk
    server = Server(
        "drilled:application",
        python=interpreter,
        workers=2,
        threads=2,
        preexec=preexec,
        options=[
            *("--access-logfile", folder / "access.log", "--error-logfile", folder / "error.log"),
            *("--max-inflight", INFLIGHT, "--log-level", "debug"),
        ],
    )
    with contextlib.closing(Closing(server.launch())):
        access, error = (seen_by(server, folder / name) for name in ("access.log", "error.log"))
        wait_until(lambda: error.exists() and "ready: 2 workers" in error.read_text(), "ready", 20)
        text = error.read_text()
        port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", text).group(1))
        address = Address("http", host="127.0.0.1", port=port)
        server.addresses = [address]
        server.wait_workers(2)
        with Running(address, 8, MIX) as load:
            load.wait_answers(300)
            wait_until(lambda: access.stat().st_size > 1000, "access lines", 5)
            before = Footprint.of(server)
            filler = seen_by(server, folder / "filler")
            fill(filler)
            for _ in range(length(short=2, full=10)):
                load.wait_answers(500)
                # Lines of the error log, from a worker and from the server.
                assert server.request("GET", "/nosuch?id=x").status == 500
                assert ask(server, "reload")[0] == 0
                fill(filler)
            filler.unlink()
            gone = time.monotonic()
            load.wait_answers(300)
            wait_until(
                lambda: "lines of this log are lost: No space left" in said(server, error),
                "the server to say what it lost",
                10,
            )
            account = load.stop()
        after = time.monotonic() - gone
        lines = access.read_text().splitlines()
        torn = [line for line in lines if not LINE.match(line)]
        figure(
            f"disk full for logs: {account}; {len(lines)} access lines kept, {len(torn)} torn, "
            f"the log says what is lost {after:.1f} s after there is room again"
        )
        assert account.failed() == 0 and account.retried == 0
        # A line that the last free bytes took half of stands alone, one for each time.
        assert len(torn) <= length(short=3, full=11)
        assert all('"' not in line or line.count("127.0.0.1") == 1 for line in torn), torn
        assert has_all_slots(server, INFLIGHT, tmp_path)
        before.kept_from(server)


def said(server, log):
    """The error log, after the server had something to say."""
    assert ask(server, "reload")[0] == 0
    return log.read_text()


def fill(path):
    """Takes all room that is left."""
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"f" * 4096)


class Closing:
    """Stops a server that was launched."""

    def __init__(self, server):
        self.server = server

    def close(self):
        self.server.__exit__(None)
