"""The ringhorn process under test. Purpose: start the real binary on free ports and temporary
sockets, learn from its own log that it is ready and where it listens, and stop it by its process
id.

Invariants: every wait is bounded; a server that panics, that exits with another code than 0 on TERM
or that leaves processes behind fails the test; the whole log is kept for the report.
"""

import os
import re
import signal
import subprocess
from pathlib import Path

from . import process
from .address import Address
from .client import Client
from .log import Log
from .watch import wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
APPS = Path(__file__).resolve().parents[1] / "apps"
LISTENING = re.compile(r"listening on (http|uwsgi)://(127\.0\.0\.1|\[::1\]):([0-9]+)")
READY = re.compile(r"\bready\b")
SCRUBBED = ("PORT", "WEB_CONCURRENCY", "PYTHONPATH", "FORWARDED_ALLOW_IPS", "VIRTUAL_ENV")

# Servers of this test process that still run: their logs are added to a failing test's report.
running = []


def binary():
    """The binary: RINGHORN_BIN, else what `make build` laid out, else the debug build."""
    if said := os.environ.get("RINGHORN_BIN"):
        return said
    target = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
    made = target / "runtime" / "ringhorn"
    return str(made if made.exists() else target / "debug" / "ringhorn")


def environment(extra=None):
    """The environment a server starts with: ours without what would configure it by accident."""
    keep = ("RINGHORN_RUNTIME_DIR",)
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in SCRUBBED and (name in keep or not name.startswith("RINGHORN_"))
    }
    env.update(extra or {})
    return env


class Server:
    """One server. Use as a context manager, or `start()` and `stop()`."""

    def __init__(
        self,
        application="pep3333:application",
        *,
        binds=("http://127.0.0.1:0",),
        workers=1,
        threads=1,
        options=(),
        env=None,
        python=None,
        pythonpath=APPS,
        preexec=None,
        stdin=subprocess.DEVNULL,
        pass_fds=(),
        start_seconds=30.0,
    ):
        self.command = [binary()]
        if python is not None:
            self.command += ["--python", str(python)]
        for bind in binds:
            self.command += ["--bind", bind]
        if workers is not None:
            self.command += ["--workers", str(workers)]
        if threads is not None:
            self.command += ["--threads", str(threads)]
        if pythonpath is not None:
            self.command += ["--pythonpath", str(pythonpath)]
        self.command += [str(option) for option in options]
        if application is not None:
            self.command.append(application)
        self.binds = binds
        self.env = environment(env)
        self.preexec = preexec
        self.stdin = stdin
        self.pass_fds = pass_fds
        self.start_seconds = start_seconds
        self.process = None
        self.addresses = []

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        try:
            if self.process.poll() is None:
                self.stop(check=kind is None)
        finally:
            self.kill()

    def start(self):
        """Starts and returns when the server says it is ready."""
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def wait_ready(self):
        """Returns when the server says it is ready, and has learned where it listens."""
        self.log.wait_for(READY, self.start_seconds)
        self.addresses = self._addresses()

    def launch(self):
        """Starts without waiting: for servers that are expected to refuse."""
        self.process = subprocess.Popen(
            self.command,
            env=self.env,
            stdin=self.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=self.preexec,
            pass_fds=self.pass_fds,
            start_new_session=True,
        )
        self.log = Log(self.process.stderr)
        self.out = Log(self.process.stdout)
        running.append(self)
        return self

    def _addresses(self):
        """Where each bind really listens: Unix paths are known, ports are read from the log; what
        was inherited is for the test to know."""
        told = {"http": [], "uwsgi": []}
        for scheme, host, port in LISTENING.findall(self.log.text):
            told[scheme].append(Address(scheme, host=host.strip("[]"), port=int(port)))
        found = []
        for bind in self.binds:
            scheme = "uwsgi" if bind.startswith("uwsgi://") else "http"
            rest = bind.removeprefix(scheme + "://")
            if rest.startswith("fd://"):
                found.append(None)
            elif rest.startswith("unix:"):
                found.append(Address(scheme, path=rest[len("unix:") :].partition("?")[0]))
            else:
                assert told[scheme], f"the log does not say where {bind} listens:\n{self.log.text}"
                found.append(told[scheme].pop(0))
        return found

    @property
    def pid(self):
        return self.process.pid

    @property
    def address(self):
        """The first address."""
        return self.addresses[0]

    def connect(self, timeout=10.0, **rest):
        return Client(self.address, timeout, **rest)

    def request(self, method="GET", path="/", headers=(), body=None, **rest):
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.request(method, path, headers, body, **rest)

    def workers(self):
        """Process ids of the workers, as the server's children."""
        return process.children(self.pid)

    def wait_workers(self, count, seconds=15.0, without=()):
        """The process ids, once there are `count` of them (READY comes with the first one) and
        none of `without` is left."""

        def found():
            workers = self.workers()
            return workers if len(workers) == count and not set(workers) & set(without) else None

        return wait_until(found, f"{count} workers", seconds)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=35.0):
        """The exit code; killed and failed when it does not come in time."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end in {seconds} s:\n{self.tail()}") from None
        self.log.thread.join(5)
        self.out.thread.join(5)
        return code

    def stop(self, check=True):
        """TERM; the server must exit with 0, leave no worker and have had no panic."""
        workers = self.workers()
        self.signal(signal.SIGTERM)
        code = self.wait()
        if check:
            assert code == 0, f"exit code {code} on TERM:\n{self.tail()}"
            for pid in workers:
                wait_until(lambda pid=pid: not process.is_alive(pid), f"worker {pid} to end", 5)
            assert "panicked at" not in self.log.text, self.tail(200)

    def kill(self):
        """Ends the server at once, if it still runs; its workers end by themselves."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self in running:
            running.remove(self)

    def tail(self, lines=80):
        return "\n".join(self.log.text.splitlines()[-lines:])
