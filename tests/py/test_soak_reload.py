"""Reloads, signals, changed numbers of workers and deaths in random order, under a light load on
kept connections. Purpose: no order loses a request but those that a killed worker ran, leaves
`ringhorn reload` without an answer, or a server that cannot be reloaded any more. Each run is
bounded and its order comes from a seed, which a failure names.
"""

import os
import random
import re
import signal
import subprocess
import threading
import time

import pytest

from harness import process
from harness.release import Release, ask
from harness.server import binary
from harness.watch import wait_until

SECONDS = float(os.environ.get("RINGHORN_SOAK_SECONDS", "6"))
SEED = int(os.environ.get("RINGHORN_SOAK_SEED", "0")) or random.randrange(1 << 30)
CLIENTS = 4

BROKEN = ["raise ValueError('broken')\n", "import os\nos._exit(7)\n", "import sys\nsys.exit(1)\n"]
GOOD = ["", "", "import time\ntime.sleep(0.2)\n", "import time\ntime.sleep(0.7)\n"]


class Load:
    """Clients on kept connections; what they were answered."""

    def __init__(self, server):
        self.server = server
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.served, self.failed, self.wrong = 0, 0, []
        self.clients = [threading.Thread(target=self.run) for _ in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def run(self):
        try:
            while not self.stop.is_set():
                with self.server.connect(40) as kept:
                    self.ask(kept)
        except Exception as error:  # told by the test's own thread
            with self.lock:
                self.wrong.append(repr(error))

    def ask(self, kept):
        while not self.stop.is_set():
            answer = kept.request()
            with self.lock:
                if answer.status == 200:
                    self.served += 1
                elif answer.status == 502:
                    self.failed += 1
                    # Closed behind it.
                    return
                else:
                    self.wrong.append(f"{answer.status} {answer.body!r}")
            time.sleep(0.002)

    def finish(self):
        self.stop.set()
        for client in self.clients:
            client.join(45)


class Storm:
    """What an operator and bad luck do to a server."""

    def __init__(self, server, release, seed):
        self.server, self.release = server, release
        self.random = random.Random(seed)
        self.asked, self.killed, self.done = [], 0, []

    def reload(self):
        command = [binary(), "reload", "--server-pid", str(self.server.pid)]
        asked = subprocess.Popen(
            command,
            env=self.server.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.asked.append(asked)

    def kill(self):
        if children := self.server.workers():
            try:
                os.kill(self.random.choice(children), signal.SIGKILL)
                self.killed += 1
            except ProcessLookupError:
                pass

    def step(self):
        actions = {"HUP": 3, "reload": 4, "TTIN": 3, "TTOU": 3, "WINCH": 1, "kill": 3, "write": 5}
        action = self.random.choices(list(actions), actions.values())[0]
        self.done.append(action)
        if action == "reload":
            self.reload()
        elif action == "kill":
            self.kill()
        elif action == "write":
            broken = self.random.random() < 0.3
            self.release.write("x", before=self.random.choice(BROKEN if broken else GOOD))
        else:
            self.server.signal(getattr(signal, "SIG" + action))
        time.sleep(self.random.choice([0, 0, 0.02, 0.1, 0.3]))

    def answers(self):
        for asked in self.asked:
            said, _ = asked.communicate(timeout=20)
            good = "serves, after" in said
            assert asked.returncode == (0 if good else 1), said
            assert good or "reload failed" in said, said


def wanted(server, at_start):
    """How many workers the log says there are to be, and the last that was served."""
    count = at_start
    for line in server.log.text.splitlines():
        if found := re.search(r"workers: \d+ before, (\d+) from now on", line):
            count = int(found[1])
        elif found := re.search(r"reload .*: generation \d+, (\d+) workers", line):
            count = int(found[1])
    return count


KINDS = {
    "rolling": ["--reload-strategy", "rolling"],
    "all": ["--reload-strategy", "all"],
    "recycling": ["--max-requests", "60", "--max-worker-lifetime", "2"],
    "recycling-all": ["--max-requests", "60", "--reload-strategy", "all"],
    "preload": ["--preload", "--max-requests", "100"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_storm_of_reloads_loses_nothing_and_leaves_a_sound_server(start, tmp_path, kind):
    release = Release(tmp_path)
    release.write("one")
    options = ["--chdir", tmp_path, "--workers-max", "5", "--graceful-timeout", "5", *KINDS[kind]]
    one = start("app", workers=3, options=options)
    load = Load(one)
    storm = Storm(one, release, SEED)
    try:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            storm.step()
        release.write("last")
        one.signal(signal.SIGTTIN)
        code, said = ask(one, "reload", 20)
        assert code == 0, f"seed {SEED}: {said}\n{storm.done}"
        storm.answers()
        generation = re.search(r"generation (\d+) serves", said)[1]
        count = wanted(one, 3)

        def is_sound():
            status = ask(one, "status")[1]
            workers = status.count("\nworker ")
            ready = status.count(f"generation {generation}, ready")
            return workers == count and ready >= count

        wait_until(is_sound, f"seed {SEED}: {count} of {generation}: {ask(one, 'status')}", 15)
        served = load.served
        wait_until(lambda: load.served > served + 20, f"seed {SEED}: requests", 10)
    finally:
        load.finish()
    assert not load.wrong, f"seed {SEED}: {load.wrong[:5]}"
    assert load.failed <= storm.killed, f"seed {SEED}: {load.failed} for {storm.killed} killed"
    assert not any(client.is_alive() for client in load.clients)
    assert process.is_alive(one.pid) and "panicked" not in one.log.text


@pytest.mark.parametrize("kind", KINDS)
def test_term_in_a_storm_ends_the_server_and_answers_who_asked(start, tmp_path, kind):
    release = Release(tmp_path)
    release.write("one")
    options = ["--chdir", tmp_path, "--workers-max", "5", "--graceful-timeout", "3", *KINDS[kind]]
    one = start("app", workers=3, options=options)
    storm = Storm(one, release, SEED)
    for _ in range(12):
        storm.step()
    storm.reload()
    time.sleep(storm.random.choice([0, 0.1, 0.3]))
    one.signal(signal.SIGTERM)
    assert one.wait(15) == 0, f"seed {SEED}: {storm.done}"
    for asked in storm.asked:
        said, _ = asked.communicate(timeout=5)
        assert asked.returncode in (0, 1), f"seed {SEED}: {asked.returncode} {said}"
    assert "panicked" not in one.log.text
