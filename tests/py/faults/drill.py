"""What every drill uses: how long it is, the load beside it, and what must be left afterwards.

Purpose: a drill starts `Running` load, breaks something, stops the load and gets an `Account` whose
totals add up to what was sent; `Footprint` says that the server kept nothing of it.
"""

import collections
import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from harness import process
from harness.client import encode_request
from harness.watch import wait_until

LENGTHS = ("short", "full")
LENGTH = os.environ.get("RINGHORN_DRILLS", "short")
LOST = re.compile(
    r"requests lost by worker (\d+) \(pid (\d+)\): (\d+) \((\d+) answered with 502, (\d+) cut\)"
)
LOAD = Path(__file__).with_name("load.py")
# What the allocator, counters and page tables may keep of what was.
PSS_SLACK_BYTES = 6 << 20


def length(short, full):
    """The one of two figures that RINGHORN_DRILLS asks for."""
    assert LENGTH in LENGTHS, f"RINGHORN_DRILLS is {LENGTH!r}; it must be one of {LENGTHS}"
    return {"short": short, "full": full}[LENGTH]


def place(address):
    """An address as the load client takes it."""
    if address.is_unix:
        return [socket.AF_UNIX, address.path]
    return [socket.AF_INET, [address.host, address.port]]


class Account:
    """What became of every request of a load."""

    def __init__(self, report):
        self.report = report
        self.windows = {window["name"]: window for window in report["windows"]}

    @property
    def sent(self):
        return self.report["sent"]

    @property
    def kinds(self):
        return added(window["kinds"] for window in self.report["windows"])

    @property
    def closed(self):
        """Connections that the server ended, by how."""
        return added(window["connections closed"] for window in self.report["windows"])

    @property
    def releases(self):
        return added(window["releases"] for window in self.report["windows"])

    @property
    def retried(self):
        return sum(window["retried"] for window in self.report["windows"])

    def failed(self):
        """Requests that did not get their 200."""
        return sum(count for kind, count in self.kinds.items() if kind != "ok")

    def longest(self, name):
        """The longest that a client waited in a window, whatever came of it, in milliseconds."""
        window = self.windows[name]
        return max(window["ok"]["longest"], window["others"]["longest"])

    def check(self):
        """Every request has one end, and no answer went astray."""
        assert self.report["waiting"] == 0 and sum(self.kinds.values()) == self.sent, self
        assert self.report["unasked"] == 0 and "wrong" not in self.kinds, self
        return self

    def __str__(self):
        parts = [f"{self.sent} requests: {self.kinds}"]
        if self.retried:
            parts.append(f"{self.retried} sent again on a new connection")
        if any(self.closed.values()):
            parts.append(f"connections closed {self.closed}")
        return ", ".join(parts)


def added(dicts):
    """The sums of dicts, key by key."""
    found = {}
    for one in dicts:
        for key, value in one.items():
            found[key] = found.get(key, 0) + value
    return found


class Running:
    """A load client that runs. As a context manager it is always stopped."""

    def __init__(self, address, clients, requests=({"path": "/"},), **settings):
        settings = {
            "address": place(address),
            "clients": clients,
            "requests": list(requests),
            **settings,
        }
        self.count = settings.get("count")
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()

    def say(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def window(self, name):
        """Figures from now on are counted under this name."""
        self.say(f"window {name}")

    def snapshot(self):
        """The account so far; requests that wait are not in it."""
        self.say("snapshot")
        return Account(json.loads(self.process.stdout.readline()))

    def wait_answers(self, count, seconds=20.0):
        """Returns when the clients have had so many more answers with 200."""
        target = self.snapshot().kinds.get("ok", 0) + count
        wait_until(
            lambda: self.snapshot().kinds.get("ok", 0) >= target,
            f"{count} more answers",
            seconds,
            interval=0.05,
        )

    def wait_all(self, seconds, progress=None):
        """Waits for the end of all requests of a load that was told their number (`count`)."""
        deadline = time.monotonic() + seconds
        while True:
            account = self.snapshot()
            if account.report["waiting"] == 0 and account.sent == self.count:
                return self.stop()
            assert time.monotonic() < deadline, f"not over after {seconds} s: {account}"
            if progress:
                progress(f"{account.sent} of {self.count} requests")
            time.sleep(0.2)

    def stop(self, seconds=90.0):
        """Ends the load after the requests that are on their way; their account."""
        out, _ = self.process.communicate("stop\n", timeout=seconds)
        assert self.process.returncode == 0, f"the load client failed: {self.process.returncode}"
        return Account(json.loads(out)).check()


def run(address, clients, requests=({"path": "/"},), seconds=1.0, **settings):
    """A load of some seconds."""
    with Running(address, clients, requests, **settings) as load:
        time.sleep(seconds)
        return load.stop()


def own_threads(pid):
    """Threads that the server started: the kernel keeps io_uring's workers at its own will."""
    names = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/comm")]
    return sum(not name.startswith("iou-wrk") for name in names)


@dataclass
class Footprint:
    """What the server process and its children hold."""

    descriptors: int
    threads: int
    children: int
    pss_bytes: int

    @classmethod
    def of(cls, server):
        pid = server.pid
        return cls(
            len(process.descriptors(pid)),
            own_threads(pid),
            len(process.children(pid)),
            process.pss_bytes(pid),
        )

    def kept_from(self, server, slack_bytes=PSS_SLACK_BYTES, seconds=40.0):
        """Waits until the server is back at this footprint, memory within `slack_bytes`."""

        def is_back():
            now = Footprint.of(server)
            same = (now.descriptors, now.threads, now.children) == (
                self.descriptors,
                self.threads,
                self.children,
            )
            return now if same and now.pss_bytes <= self.pss_bytes + slack_bytes else None

        try:
            return wait_until(is_back, "the footprint", seconds, interval=0.2)
        except AssertionError:
            raise AssertionError(
                f"before: {self}; {seconds} s after: {Footprint.of(server)}; descriptors: "
                f"{sorted(process.descriptors(server.pid).values())}"
            ) from None

    def __str__(self):
        return (
            f"{self.descriptors} descriptors, {self.threads} threads, {self.children} workers, "
            f"PSS {self.pss_bytes / 2**20:.1f} MiB"
        )


def has_all_slots(server, inflight, folder):
    """Every slot takes a request: requests are held until `inflight` (--max-inflight) are, never
    more; those beyond are shed at once, and all that are held are answered once they may go on.
    Each loop has its share of the bound and its share of connections, so that some are shed before
    all loops are full."""
    gate = Path(folder) / "slots-gate"
    gate.unlink(missing_ok=True)
    with contextlib.ExitStack() as closing:
        held, shed = set(), 0
        deadline = time.monotonic() + 15
        is_quiet = False
        # Who is to be shed is told at once, but not before this looks: held are those that stay.
        while len(held) < inflight or not is_quiet:
            assert time.monotonic() < deadline, f"slots are missing: {len(held)} of {inflight}"
            for _ in range(inflight - len(held)):
                client = closing.enter_context(server.connect(20))
                client.send(encode_request("GET", f"/hold?until={gate}&id=held"))
                held.add(client)
            # Short, since a held request may have a deadline of a second.
            time.sleep(0.05)
            lately = take_shed(held)
            shed, is_quiet = shed + lately, lately == 0
        gate.touch()
        answers = collections.Counter(client.response().status for client in held)
    assert answers == {200: inflight}, f"slots are missing: {answers}, {shed} were shed"
    return True


def take_shed(held):
    """Takes the clients that were answered with 503 out of a set; how many there were."""
    poll = select.poll()
    for client in held:
        poll.register(client.sock, select.POLLIN)
    readable = {fd for fd, _ in poll.poll(30)}
    answered = [client for client in held if client.sock.fileno() in readable]
    for client in answered:
        status = client.response().status
        assert status == 503, f"a request that is held was answered with {status}"
        client.close()
        held.remove(client)
    return len(answered)


def lost_by_log(server, since=0):
    """What the server says that deaths cost: {pid of the worker: (requests, 502, cut)}."""
    found = {}
    for _, pid, requests, answered, cut in LOST.findall(server.log.after(since)):
        assert pid not in found, f"the death of {pid} is told twice"
        found[int(pid)] = (int(requests), int(answered), int(cut))
    return found
