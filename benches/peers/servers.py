"""The servers compared, one class each, configured as its own documentation advises.

Place: `cases.py` says which server runs in which case with how many workers and threads;
`measure.py` asks the class for a command line and starts it. Invariants: every server runs the same
CPython (the virtualenv's) and the same application, without an access log; a server that cannot
speak what a case needs is not entered.
"""

import glob
import os
import subprocess
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
APPLICATIONS = os.path.join(HERE, "applications")
LAUNCHERS = os.path.join(HERE, "launchers")

HTTP, UWSGI = "http", "uwsgi"


@dataclass(frozen=True)
class Address:
    """A TCP port of the loopback address, or the path of a Unix socket."""

    port: int = 0
    path: str = ""

    def __str__(self):
        return f"unix:{self.path}" if self.path else f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Setup:
    """What one measurement asks of a server."""

    application: str
    address: Address
    protocol: str = HTTP
    workers: int = 1
    threads: int = 1
    keep_alive: bool = True


class Server:
    name = ""
    distribution = ""

    def __init__(self, venv, python, ringhorn):
        self.venv = venv
        self.python = python
        self.ringhorn = ringhorn

    def program(self):
        """The file whose absence means that the server is not installed."""
        return os.path.join(self.venv, "bin", self.name)

    def is_installed(self):
        return os.path.exists(self.program())

    def version(self):
        code = f"import importlib.metadata as m; print(m.version({self.distribution!r}))"
        return _output([self.python, "-c", code])

    def command(self, setup):
        raise NotImplementedError

    def environment(self):
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": APPLICATIONS,
            "PYTHONDONTWRITEBYTECODE": "1",
        }


class Ringhorn(Server):
    name = "ringhorn"

    def program(self):
        return self.ringhorn

    def version(self):
        return _output([self.ringhorn, "--version"])

    def command(self, setup):
        return [
            self.ringhorn, "--python", self.python, "--bind", f"{setup.protocol}://{setup.address}",
            "--workers", str(setup.workers), "--threads", str(setup.threads), "--event-loops", "1",
            "--pythonpath", APPLICATIONS, f"bench:{setup.application}",
        ]  # fmt: skip

    def environment(self):
        # The application comes by --pythonpath, as the option is meant to be used.
        return {key: value for key, value in super().environment().items() if key != "PYTHONPATH"}


class Bjoern(Server):
    """Single-threaded; TCP_NODELAY by the launcher: faster than its default."""

    name = distribution = "bjoern"

    def program(self):
        return os.path.join(_site_packages(self.venv), "bjoern.py")

    def command(self, setup):
        launcher = os.path.join(LAUNCHERS, "serve_bjoern.py")
        return [self.python, launcher, str(setup.address), str(setup.workers), setup.application]


class FastPySGI(Server):
    """Single-threaded, TCP only; TCP_NODELAY by the launcher: faster than its default."""

    name = distribution = "fastpysgi"

    def command(self, setup):
        launcher = os.path.join(LAUNCHERS, "serve_fastpysgi.py")
        return [self.python, launcher, "127.0.0.1", str(setup.address.port), setup.application]


class Granian(Server):
    """One runtime thread a worker in `st` mode, which it finds best for few processes."""

    name = distribution = "granian"

    def command(self, setup):
        address = setup.address
        where = (
            ["--uds", address.path]
            if address.path
            else ["--host", "127.0.0.1", "--port", str(address.port)]
        )
        return [
            self.program(), "--interface", "wsgi", "--http", "1", "--no-ws", "--no-access-log",
            "--log-level", "warning", "--workers", str(setup.workers), "--runtime-mode", "st",
            "--runtime-threads", "1", "--blocking-threads", str(setup.threads), "--backlog", "2048",
            *where, f"bench:{setup.application}",
        ]  # fmt: skip


class Uwsgi(Server):
    """Master, no request log, no other interpreter; thunder lock between processes.

    `--http11-socket` gives HTTP keep-alive, where a connection holds its thread; `--http-socket`
    serves one request a connection; `--socket` speaks uwsgi. Threads only when more than one is
    asked for: one thread runs without releasing the interpreter lock.
    """

    name = "uwsgi"
    distribution = "uWSGI"

    def command(self, setup):
        if setup.protocol == UWSGI:
            socket_option = "--socket"
        else:
            socket_option = "--http11-socket" if setup.keep_alive else "--http-socket"
        address = setup.address.path or str(setup.address)
        command = [
            self.program(), "--master", "--die-on-term", "--need-app", "--single-interpreter",
            "--disable-logging", "--virtualenv", self.venv, "--pythonpath", APPLICATIONS,
            "--module", f"bench:{setup.application}", "--processes", str(setup.workers),
            "--listen", "2048", socket_option, address,
        ]  # fmt: skip
        if setup.address.path:
            command += ["--chmod-socket=666"]
        elif setup.protocol == HTTP:
            command += ["--tcp-nodelay"]
        if setup.threads > 1:
            command += ["--threads", str(setup.threads)]
        if setup.workers > 1:
            command += ["--thunder-lock"]
        return command


class Gunicorn(Server):
    """The gthread worker (sync closes every connection), keep-alive as long as the others'."""

    name = distribution = "gunicorn"

    def command(self, setup):
        command = [
            self.program(), "--worker-class", "gthread", "--workers", str(setup.workers),
            "--threads", str(setup.threads), "--keep-alive", "75", "--worker-connections", "10000",
            "--worker-tmp-dir", "/dev/shm", "--no-control-socket", "--bind", str(setup.address),
        ]  # fmt: skip
        if setup.protocol == UWSGI:
            command += ["--protocol", "uwsgi"]
        return command + [f"bench:{setup.application}"]


CLASSES = {kind.name: kind for kind in (Ringhorn, Bjoern, FastPySGI, Granian, Uwsgi, Gunicorn)}


def _site_packages(venv):
    """The virtualenv's folder of packages; a path that is not there when it has none."""
    found = glob.glob(os.path.join(venv, "lib", "python3*", "site-packages"))
    return found[0] if found else os.path.join(venv, "lib", "site-packages")


def _output(argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout or done.stderr).strip() or f"unknown (exit {done.returncode})"
