"""One measurement: a server started for one entry of one case, loaded for a few seconds, and ended.

Place: called by `run.py` for every entry of every round. The walk: server and front up (polled,
never slept for) -> every worker seen -> the right answer seen -> warm-up -> CPU read -> load -> CPU
read -> all down. Invariants: a server is started anew for every measurement, so a round holds
nothing of another; its CPU group holds nothing but it; what goes wrong is a recorded error, never a
figure.
"""

import os
import signal
import tempfile
import time
from dataclasses import dataclass

import cpu
import front
import load
import perf
import processes
import servers
import wire

READY_SECONDS = 20
WORKERS_SEEN_SECONDS = 3


class Failed(Exception):
    """A measurement that gives no figures, with the reason."""


@dataclass
class Bench:
    """What all measurements of a run share."""

    servers: dict
    accounting: cpu.Accounting
    server_core: int
    load_core: int
    seconds: int
    settle: float
    instructions: bool


class Running:
    """A started server and the address load goes to; leaving the context ends all it started."""

    def __init__(self, bench, case, entry):
        self.bench, self.case, self.entry = bench, case, entry
        self.server = bench.servers[entry.server]
        self._folder = tempfile.TemporaryDirectory(prefix="ringhorn-bench-")
        self.folder = self._folder.name
        self.groups = {}
        self.process = self.front = None
        self.left_in_time = None
        self.workers_seen = 1

    def __enter__(self):
        try:
            self._start()
        except (processes.DidNotStart, wire.WrongAnswer, OSError) as error:
            self.__exit__(None, None, None)
            raise Failed(f"{self.entry.name}: {error}") from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def group(self, name):
        if name not in self.groups:
            self.groups[name] = self.bench.accounting.group(name)
        return self.groups[name]

    def _start(self):
        bench, case, entry = self.bench, self.case, self.entry
        if case.front:
            own = servers.Address(path=os.path.join(self.folder, "server.sock"))
        else:
            own = servers.Address(port=wire.free_port())
        setup = servers.Setup(
            case.application, own, case.protocol, entry.workers, entry.threads, entry.keep_alive
        )
        self.argv = self.server.command(setup)
        self.process = processes.Process(
            entry.name,
            self.argv,
            bench.server_core,
            self.group("server"),
            env=self.server.environment(),
            cwd=self.folder,
            log=os.path.join(self.folder, "server.log"),
        )
        self.process.wait_until(lambda: wire.accepts(own), READY_SECONDS)
        self.address = own
        if case.front:
            self.front = front.Front(
                case.front, own.path, self.folder, bench.load_core, self.group("front")
            )
            self.address = self.front.address
            self.front.process.wait_until(lambda: wire.accepts(self.address), READY_SECONDS)
        self.request = wire.request_bytes(body=case.body)
        self.response_bytes = 0
        self.process.wait_until(self._answers, READY_SECONDS)
        if entry.workers > 1:
            self.process.wait_until(self._all_started, READY_SECONDS)
            self.workers_seen = self._see_workers()

    def _answers(self):
        self.response_bytes = wire.answers(self.address, self.request, self.case.expected)
        return self.response_bytes > 0

    def _all_started(self):
        return len(processes.tree(self.process.pid)) >= self.entry.workers

    def _see_workers(self):
        """How many workers answered: all, or as many as in a few seconds of asking.

        Where workers race to accept, an idle server may give every connection to the same few.
        """
        seen, deadline = set(), time.monotonic() + WORKERS_SEEN_SECONDS
        while len(seen) < self.entry.workers and time.monotonic() < deadline:
            seen |= wire.processes_seen(self.address, self.entry.workers * self.entry.threads)
        return len(seen)

    def warm_up(self):
        wire.warm_up(self.address, self.request, self.case.expected)

    def log(self):
        return self.process.tail() if self.process else ""

    def __exit__(self, *_):
        # A signal to the harness waits until everything is down: it must not cut this short.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            self._stop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)

    def _stop(self):
        if self.front:
            self.front.stop()
        if self.process:
            self.left_in_time = self.process.stop()
        for group in self.groups.values():
            if processes.end_stragglers(group):
                group.close()
        self._folder.cleanup()


def measure(bench, case, entry, round_number):
    """The figures of one entry in one round."""
    with Running(bench, case, entry) as running:
        try:
            running.warm_up()
            figures = _loaded(bench, case, entry, round_number, running)
        except (load.LoadFailed, wire.WrongAnswer, OSError) as error:
            raise Failed(f"{entry.name}: {error}\n{running.log()}") from error
    figures["command"] = " ".join(running.argv)
    figures["workers_seen"] = running.workers_seen
    figures["ended_by_term"] = running.left_in_time
    return figures


def _loaded(bench, case, entry, round_number, running):
    """Load for the measured span between two readings of the clocks."""
    generator = load.Load(running.folder, bench.load_core, running.group("load"))
    counting = perf.Counter(running.group("server").pids()) if bench.instructions else None
    names = list(running.groups)
    before = {name: running.groups[name].read() for name in names}
    cores = {core: cpu.core_busy_us(core) for core in (bench.server_core, bench.load_core)}
    if case.load == "mixed":
        result = generator.mixed(
            running.address, entry.clients, bench.seconds, round_number, entry.keep_alive
        )
    else:
        result = generator.wrk(
            running.address, "/", case.connections, bench.seconds, case.post_bytes
        )
    used = {name: running.groups[name].read().since(before[name]) for name in names}
    cores = {core: cpu.core_busy_us(core) - busy for core, busy in cores.items()}
    counted = counting.stop() if counting else {}
    figures = _figures(result, used["server"])
    figures["response_bytes"] = running.response_bytes
    figures["load_core_busy"] = cores[bench.load_core] / result["duration_us"]
    figures["server_core_busy"] = cores[bench.server_core] / result["duration_us"]
    figures["others_on_server_core"] = (cores[bench.server_core] - used["server"].total) / result[
        "duration_us"
    ]
    if "front" in used:
        figures["front_cpu_us"] = used["front"].total / max(1, result["requests"])
    for event, count in counted.items():
        figures[event] = count / max(1, result["requests"])
    return figures


def _figures(result, used):
    """Per-request figures from the load's result and the server's CPU time."""
    requests = result["requests"]
    if not requests:
        raise load.LoadFailed(f"no request was answered: {result}")
    latency = result.get("fast", result)
    errors = result["errors"]
    figures = {
        "requests": requests,
        "rate": requests / (result["duration_us"] / 1e6),
        "cpu_us": used.total / requests,
        "user_us": used.user / requests,
        "system_us": used.system / requests,
        "errors": sum(errors.values()),
        "errors_by_kind": errors,
    }
    figures.update(
        {key: latency[key] for key in ("p50_us", "p99_us", "p999_us", "max_us") if key in latency}
    )
    if "bytes" in result:
        figures["bytes_per_request"] = result["bytes"] / requests
    for key in (
        "slow",
        "resent",
        "answered_per_client",
        "starved_clients",
        "longest_unanswered_us",
        "generator_busy",
    ):
        if key in result:
            figures[key] = result[key]
    return figures
