"""Load generators: wrk, and `mixed_load.py` where fast and slow answers are told apart.

Place: started by `measure.py` for the measured span, pinned to the load's core, in a CPU group of
its own. Invariant: bounded in time: a generator that has not ended ten seconds after its span is
ended and is an error.
"""

import json
import os
import sys

import processes

HERE = os.path.dirname(os.path.abspath(__file__))


class LoadFailed(Exception):
    pass


class Load:
    """Where generators run and where their output goes."""

    def __init__(self, folder, core, group):
        self.folder = folder
        self.core = core
        self.group = group

    def wrk(self, address, path, connections, seconds, post_bytes=0):
        """Figures of one wrk run: times in microseconds, errors by kind."""
        argv = [
            "wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s",
            "--timeout", "2s", "--script", os.path.join(HERE, "report.lua"),
            f"http://127.0.0.1:{address.port}{path}",
        ]  # fmt: skip
        return self._run("wrk", argv, seconds, {"BENCH_POST_BYTES": str(post_bytes)})

    def mixed(self, address, clients, seconds, seed, keep_alive):
        """Figures of the generator that separates fast from slow answers."""
        argv = [
            sys.executable, os.path.join(HERE, "mixed_load.py"), str(address.port), str(clients),
            str(seconds), str(seed), "keep-alive" if keep_alive else "close",
        ]  # fmt: skip
        return self._run("mixed_load", argv, seconds, {})

    def _run(self, name, argv, seconds, environment):
        log = os.path.join(self.folder, f"{name}.log")
        if os.path.exists(log):
            os.unlink(log)
        process = processes.Process(
            name, argv, self.core, self.group, env={**os.environ, **environment}, log=log
        )
        try:
            ended = process.wait_exit(seconds + 10)
        finally:
            process.stop()
        if not ended:
            raise LoadFailed(f"{name} did not end in time\n{process.tail()}")
        for line in process.tail(20000).splitlines():
            if line.startswith("JSON "):
                return json.loads(line[5:])
        raise LoadFailed(f"{name} reported nothing\n{process.tail()}")
