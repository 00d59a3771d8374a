"""Fifty workers killed under load, with real interpreters: every request is answered or its
connection is cut, nobody gets another one's answer, nothing hangs, and the server is whole
afterwards. In ten rounds of five, since workers that die young are replaced ever more slowly.
"""

import collections
import json
import os
import random
import signal
import threading

import pytest

from harness.client import Client, Truncated, encode_request
from harness.watch import wait_until

ROUNDS = 10
KILLS = 5
CLIENTS = 8


class Load:
    """Clients that ask without pause and keep account of every answer."""

    def __init__(self, address):
        self.address = address
        self.stopping = threading.Event()
        self.counts = collections.Counter()
        self.faults = []
        self.last_pid = None
        self.lock = threading.Lock()
        self.threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def _run(self, number):
        count = 0
        client = None
        while not self.stopping.is_set():
            count += 1
            mark = f"{number}-{count}"
            try:
                client = client or Client(self.address, 15)
                client.send(encode_request("GET", f"/pid?number={mark}&ms={count % 3}"))
                response = client.response()
                outcome = self._judge(response, mark)
                if (response.header("Connection") or "").lower() == "close":
                    client.close()
                    client = None
            except (Truncated, ConnectionError):
                outcome = "cut"
                client.close()
                client = None
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
                self.faults.append((mark, outcome))
                return
            with self.lock:
                self.counts[outcome] += 1

    def _judge(self, response, mark):
        if response.status == 200:
            pid, number = json.loads(response.text)
            if number != mark or response.header("X-Number") != mark:
                self.faults.append((mark, f"got the answer to {number}"))
            self.last_pid = pid
        elif response.status != 502:
            self.faults.append((mark, f"status {response.status}"))
        return response.status


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_kills_under_load(start, record_property, seed):
    server = start("hygiene:application", workers=2, threads=2)
    chance = random.Random(seed)
    killed = set()
    with Load(server.address) as load:
        for _ in range(KILLS):
            # The victim is one that has just answered, so it is most likely in a request.
            pid = wait_until(
                lambda: load.last_pid if load.last_pid not in killed | {None} else None,
                f"an answer of a worker that lives ({len(killed)} killed)",
                15,
            )
            threading.Event().wait(chance.random() * 0.02)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            assert not load.faults, load.faults
    assert not load.faults, load.faults
    assert not [thread for thread in load.threads if thread.is_alive()], "a client hangs"
    record_property("figure", f"round {seed}: {KILLS} kills, answers {dict(load.counts)}")
    assert load.counts[200] > 20
    assert load.counts["cut"] <= KILLS, "502 is the rule, a cut connection is not"
    server.wait_workers(2, 20, without=killed)
    # No room was lost: as many requests at once as there are seats, and many more.
    for number in range(200):
        assert server.request("GET", f"/pid?number={number}").header("X-Number") == str(number)
