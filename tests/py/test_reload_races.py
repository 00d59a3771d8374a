"""Reloads that meet recycling, another number of workers, or each other: they end, and say how."""

import signal
import subprocess
import threading
import time

import pytest

from harness import gated, process
from harness.release import BODY, ask, served, wait_ready
from harness.server import binary
from harness.watch import wait_until


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


def test_reload_while_a_worn_out_worker_is_replaced_ends(serve_release, release, tmp_path):
    """Its successor was of the old generation, took the place, and was waited for to end."""
    options = ["--max-requests", "3", "--max-requests-jitter", "0"]
    one = serve_release(workers=2, options=options)
    wait_ready(one, 2)
    gate = tmp_path / "gate"
    release.write("two", before=gated.waiting_for(gate))
    while "is to be replaced" not in one.log.text:
        one.request()
    wait_until(lambda: len(one.workers()) == 3, "a successor", 5)
    asked = Asked(one)
    one.log.wait_for("reload .*generation 2")
    gate.touch()
    code, said = asked.answer()
    assert code == 0 and "generation 2 serves" in said
    assert served(one) == "two"


@pytest.mark.parametrize("strategy", ["rolling", "all"])
@pytest.mark.parametrize("number", ["TTIN", "TTOU"])
def test_reload_ends_when_the_number_of_workers_changes(
    serve_release, release, tmp_path, number, strategy
):
    options = ["--workers-max", "4", "--reload-strategy", strategy]
    one = serve_release(workers=3, options=options)
    wait_ready(one, 3)
    gate, first = tmp_path / "gate", tmp_path / "first"
    # All but the first one wait, so that a change finds the reload half done.
    once = f"import os\ntry: os.close(os.open({str(first)!r}, os.O_CREAT | os.O_EXCL)); wait = 0\n"
    once += "except FileExistsError: wait = 1\nimport time\n"
    once += f"while wait and not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    release.write("two", before=once)
    asked = Asked(one)
    wait_until(first.exists, "the first new worker", 5)
    one.signal(getattr(signal, "SIG" + number))
    one.log.wait_for("workers: 3 before")
    gate.touch()
    code, said = asked.answer()
    assert code == 0 and "generation 2 serves" in said
    count = 4 if number == "TTIN" else 2
    wait_until(
        lambda: ask(one, "status")[1].count("generation 2, ready") == count, f"{count} workers", 5
    )
    assert len(one.workers()) == count


def test_last_unready_place_taken_away_ends_a_reload_of_all(serve_release, release, tmp_path):
    """Every other successor was READY already, so that nothing was left to set the end off."""
    one = serve_release(workers=2, options=["--reload-strategy", "all"])
    wait_ready(one, 2)
    # The successor of the last place, as its title says, hangs.
    release.write(
        "two",
        before="import time\nif b'worker 4 ' in open('/proc/self/cmdline', 'rb').read():\n"
        "    time.sleep(3600)\n",
    )
    asked = Asked(one)
    wait_until(lambda: "generation 2, ready" in ask(one, "status")[1], "the first successor", 5)
    one.signal(signal.SIGTTOU)
    status = ask(one, "status")[1]
    code, said = asked.answer()
    assert code == 0 and "generation 2 serves" in said, status
    assert served(one) == "two" and len(one.workers()) == 1


def test_recycling_under_load_does_not_keep_a_reload_from_ending(serve_release, release):
    """Some worker of the new generation was worn out at any time, and was waited for."""
    slow = "import time\ntime.sleep(0.3)\n"
    release.write("one", before=slow)
    options = ["--max-requests", "20", "--max-requests-jitter", "0"]
    one = serve_release(workers=3, options=options)
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


def test_worn_out_worker_is_replaced_after_a_reload_failed(serve_release, release):
    """It says so once; a reload that failed made the server forget it."""
    slow = "import time\ntime.sleep(0.5)\n"
    options = ["--max-requests", "3", "--max-requests-jitter", "0"]
    release.write("one", before=slow)
    one = serve_release(options=options)
    (old,) = one.workers()
    release.write_text("raise ValueError('broken')\n")
    for _ in range(3):
        one.request()
    one.log.wait_for("is to be replaced after 3 requests")
    assert ask(one, "reload")[0] == 1
    release.write("two")
    wait_until(lambda: not process.is_alive(old), "the worn out worker to leave", 10)
    assert served(one) == "two"


def test_stuck_worker_is_replaced_after_a_reload_failed(serve_release, release, tmp_path):
    """As one that is worn out; but it takes no more requests, so that nobody served any more."""
    flag = tmp_path / "flag"
    flag.touch()
    hang = f"import os, time\n    while os.path.exists({str(flag)!r}):\n"
    # It takes no interruption for an answer.
    hang += "        try: time.sleep(30)\n        except BaseException: pass\n    "
    text = BODY.format(name="one").replace("body = ", hang + "body = ", 1)
    release.write_text(text)
    one = serve_release(options=["--timeout", "0.5", "--interrupt-grace", "0.3"])
    release.write_text("raise ValueError('broken')\n")
    assert one.request().status == 504
    one.log.wait_for("is to be replaced after a request that hangs")
    assert ask(one, "reload")[0] == 1
    release.write("two")
    with one.connect(20) as client:
        assert client.request().text.startswith("two")


def test_supervisor_sleeps_while_one_successor_waits_for_another(serve_release, release, tmp_path):
    """A place whose successor had failed was looked at without pause while another's imported."""
    options = ["--max-requests", "3", "--max-requests-jitter", "0"]
    one = serve_release(workers=2, options=options)
    wait_ready(one, 2)
    gate, log = tmp_path / "gate", one.log
    release.write_text("raise ValueError('broken')\n")
    while log.text.count("is to be replaced") < 2:
        one.request()
    log.wait_for("a replacement failed")
    mark = log.mark()
    log.wait_for("a replacement failed", since=mark)
    release.write("two", before=gated.waiting_for(gate))
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
def test_worker_told_to_leave_at_the_start_is_no_crash(release, serve_release, tmp_path, number):
    gate = tmp_path / "gate"
    release.write("one", before=gated.waiting_for(gate))
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


def test_winch_ends_a_reload_and_says_so(serve_release, release, tmp_path):
    """It was told that generation 2 serves, when no worker was left."""
    one = serve_release(workers=2)
    wait_ready(one, 2)
    release.write("two", before=gated.waiting_for(tmp_path / "never"))
    asked = Asked(one)
    wait_until(lambda: len(one.workers()) == 3, "a successor", 5)
    one.signal(signal.SIGWINCH)
    code, said = asked.answer()
    assert code == 1 and "all workers were told to leave" in said and "no worker" in said
    wait_until(lambda: not one.workers(), "no worker", 5)
    assert "generation 2 serves" not in one.log.text
    # One less than none is none.
    one.signal(signal.SIGTTOU)
    one.log.wait_for("workers: 0 before, 0 from")
    # What brings workers back is told when they serve_release, or that they cannot.
    release.write_text("raise ValueError('broken')\n")
    code, said = Asked(one).answer()
    assert code == 1 and "ValueError" in said
    release.write("three")
    code, said = Asked(one).answer()
    assert code == 0 and "serves" in said
    wait_ready(one, 2)
    assert served(one) == "three"


def test_worker_that_fails_and_does_not_end_is_killed_in_the_end(serve_release, release):
    """It said why, and then something keeps its process: a full pipe under its standard error."""
    one = serve_release(options=["--startup-timeout", "1.5"])
    # What is left of the process after `Failed` is the write of the same text to standard error.
    hang = (
        "import sys, time\n"
        "class Stuck:\n"
        "    def write(self, text): time.sleep(3600)\n"
        "    def flush(self): pass\n"
        "sys.stderr = Stuck()\n"
        "raise ValueError('broken')\n"
    )
    release.write_text(hang)
    code, said = ask(one, "reload")
    assert code == 1 and "ValueError" in said
    assert one.request().status == 200
