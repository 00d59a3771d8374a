"""An application on disk that tests change under a running server: what a deployment does. Purpose:
reloads onto good and broken releases, without two tests sharing a file.
"""

import os
import subprocess

from .server import binary
from .watch import wait_until

BODY = """
import os
def application(environ, start_response):
    body = b"{name} %d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


class Release:
    """`app.py` in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "app.py"
        self.count = 0

    def write(self, name, before=""):
        """Puts a release in place at once, as deployments do; `before` runs at its import."""
        self.write_text(before + BODY.format(name=name))

    def write_text(self, text):
        # A bytecode cache goes by whole seconds of change and size: two releases of one second and
        # one length would be taken for one.
        self.count += 1
        fresh = self.folder / f"app.py.{self.count}"
        fresh.write_text(f"{text}# {'x' * self.count}\n")
        os.replace(fresh, self.file)


def ask(server, word, seconds=60):
    """Runs `ringhorn WORD` for a server; gives its exit code and what it printed."""
    command = [binary(), word, "--server-pid", str(server.pid)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=server.env)
    return run.returncode, run.stdout + run.stderr


def name_and_pid(response):
    """What a release answers: its name, and the process that served."""
    name, pid = response.text.split()
    return name, int(pid)


def served(server):
    """The name of the release that serves."""
    return name_and_pid(server.request())[0]


def wait_ready(server, count):
    """Returns once so many workers are READY: the server says so with the first of them."""
    wait_until(lambda: ask(server, "status")[1].count(", ready") == count, f"{count} to be ready")
