"""What `--preload` saves: memory and start of N workers of a Django project, with it and without.

Usage: preload.py [--python PYTHON] [--workers N ...] [--rounds N]

Place: run by hand; the figures stand in docs/operations.md. The project is that of the tests, with
Django's admin and its sessions, on SQLite. Each round starts a server, waits until the log says
that all workers are ready, asks for the admin's log-in page until every worker answered some, and
sums the PSS of all processes below the server (with --preload the fork server too). PSS divides a
page among the processes that map it. The seconds are from the server's start to the last READY.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import memory
import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = ROOT / "tests" / "py" / "apps" / "django_project"
REQUESTS_A_WORKER = 100
SECONDS = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter with Django")
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("workers  preload  MiB PSS of all workers (lowest-highest)  seconds to ready")
    for workers in options.workers:
        rounds = {False: [], True: []}
        # Interleaved: a change of the machine during the run shows in both.
        for _ in range(options.rounds):
            for preload in rounds:
                rounds[preload].append(measure(options.python, workers, preload))
        for preload, figures in rounds.items():
            sizes, seconds = zip(*figures)
            print(
                f"{workers:7}  {'yes' if preload else 'no':7}  "
                f"{statistics.median(sizes):6.1f} ({min(sizes):.1f}-{max(sizes):.1f})"
                f"{'':20}{statistics.median(seconds):6.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
                flush=True,
            )


def measure(python, workers, preload):
    """(MiB, seconds) of one server."""
    with tempfile.TemporaryDirectory() as folder:
        server = start(python, workers, preload, folder)
        try:
            began = time.monotonic()
            log = pathlib.Path(folder, "log")
            wait(server, lambda: log.read_text().count(" is ready") >= workers + preload)
            seconds = time.monotonic() - began
            port = re.search(r"listening on http://127.0.0.1:(\d+)", log.read_text()).group(1)
            for _ in range(REQUESTS_A_WORKER * workers):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/login/") as answer:
                    answer.read()
            below = set(processes.tree(server.pid)) - {server.pid}
            return sum(memory.memory(pid)["Pss"] for pid in below) / 1024, seconds
        finally:
            server.terminate()
            server.wait(SECONDS)


def start(python, workers, preload, folder):
    command = [ROOT / "target" / "runtime" / "ringhorn", "--python", python]
    command += ["--bind", "127.0.0.1:0", "--workers", str(workers), "--pythonpath", PROJECT]
    command += ["--log-level", "debug", "--error-logfile", os.path.join(folder, "log")]
    command += ["--preload"] if preload else []
    return subprocess.Popen(
        [*command, "site_of_tests.wsgi"],
        env={
            **os.environ,
            "DJANGO_DATA": folder,
            "DJANGO_SETTINGS_MODULE": "site_of_tests.settings",
        },
        stdout=subprocess.DEVNULL,
    )


def wait(server, condition):
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass  # the log is not there yet
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit("the server did not become ready; run it by hand to see why")
        time.sleep(0.005)


if __name__ == "__main__":
    main()
