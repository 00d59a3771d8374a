"""Reloads that meet recycling, another number of workers, or each other: they end, and say how."""

import signal
import subprocess
import threading
import time

import pytest
from harness import process
from harness.release import Release, ask, wait_ready
from harness.server import binary
from harness.watch import wait_until


@pytest.fixture
def release(tmp_path):
    one = Release(tmp_path)
    one.write("one")
    return one


@pytest.fixture
def serve(start, release):
    def run(**settings):
        settings["options"] = ["--chdir", release.folder, *settings.get("options", ())]
        return start("app", **settings)

    return run


class Asked:
    """`ringhorn reload`, while the test does something else."""

    def __init__(self, server):
        command = [binary(), "reload", "--server-pid", str(server.pid)]
        self.process = subprocess.Popen(
            command,
            env=server.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def answer(self, seconds=10.0):
        try:
            said, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"`ringhorn reload` has no answer after {seconds} s") from None
        return self.process.returncode, said


def gated(gate):
    """Python text that waits for a file."""
    return f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"


def served(server):
    return server.request().text.split()[0]


def test_recycling_under_load_does_not_keep_a_reload_from_ending(serve, release):
    """Some worker of the new generation was worn out at any time, and was waited for."""
    slow = "import time\ntime.sleep(0.3)\n"
    release.write("one", before=slow)
    options = ["--max-requests", "20", "--max-requests-jitter", "0"]
    one = serve(workers=3, options=options)
    wait_ready(one, 3)
    failures, stop = [], threading.Event()

    def load():
        with one.connect() as kept:
            while not stop.is_set():
                if kept.request().status != 200:
                    failures.append(1)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        release.write("two", before=slow)
        code, said = Asked(one).answer(15)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert code == 0 and "generation 2 serves" in said and not failures


def test_worn_out_worker_is_replaced_after_a_reload_failed(serve, release):
    """It says so once; a reload that failed made the server forget it."""
    slow = "import time\ntime.sleep(0.5)\n"
    options = ["--max-requests", "3", "--max-requests-jitter", "0"]
    release.write("one", before=slow)
    one = serve(options=options)
    (old,) = one.workers()
    release.write_text("raise ValueError('broken')\n")
    for _ in range(3):
        one.request()
    one.log.wait_for("is to be replaced after 3 requests")
    assert ask(one, "reload")[0] == 1
    release.write("two")
    wait_until(lambda: not process.is_alive(old), "the worn out worker to leave", 10)
    assert served(one) == "two"


def test_supervisor_sleeps_while_one_successor_waits_for_another(serve, release, tmp_path):
    """A place whose successor had failed was looked at without pause while another's imported."""
    options = ["--max-requests", "3", "--max-requests-jitter", "0"]
    one = serve(workers=2, options=options)
    wait_ready(one, 2)
    gate, log = tmp_path / "gate", one.log
    release.write_text("raise ValueError('broken')\n")
    while log.text.count("is to be replaced") < 2:
        one.request()
    log.wait_for("a replacement failed")
    mark = log.mark()
    log.wait_for("a replacement failed", since=mark)
    release.write("two", before=gated(gate))
    wait_until(lambda: len(one.workers()) == 3, "a successor that waits", 10)
    # Past every wait of the other place.
    time.sleep(1.5)
    before = process_seconds(one.pid)
    time.sleep(0.5)
    took = process_seconds(one.pid) - before
    gate.touch()
    assert took < 0.2, f"{took} s of CPU in 0.5 s"


def process_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize("number", ["WINCH", "TTOU"])
def test_worker_told_to_leave_at_the_start_is_no_crash(release, serve, tmp_path, number):
    gate = tmp_path / "gate"
    release.write("one", before=gated(gate))
    from harness.server import Server

    options = ["--chdir", release.folder, "--max-crashes", "0"]
    one = Server("app", workers=2, options=options).launch()
    try:
        wait_until(lambda: len(one.workers()) == 2, "two workers", 10)
        one.signal(getattr(signal, "SIG" + number))
        one.log.wait_for("workers: 2 before")
        if number == "WINCH":
            wait_until(lambda: not one.workers(), "no worker", 5)
            one.signal(signal.SIGTTIN)
            one.log.wait_for("workers: 0 before, 1 from")
        one.wait_workers(1)
        gate.touch()
        one.wait_ready()
        assert served(one) == "one"
        assert "crashed" not in one.log.text
        assert len(one.workers()) == 1
        one.stop()
    finally:
        one.kill()
