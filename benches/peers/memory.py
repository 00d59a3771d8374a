"""Memory of a server's processes: fresh, holding 8,000 idle connections after a burst, and after.

Place: the case `memory`, run by `run.py` once for each server, not once a round: memory hardly
varies. The walk: server ready, one request answered -> PSS of its first process ("server"), of the
one that runs Python ("worker") and, at the same moment, of a bare interpreter that imported the
application -> 1,000 POSTs of 64 KiB at once, each on a connection of its own, echoed -> 8,000
kept-alive connections, each after one request -> 30 s -> PSS again ("held") -> all connections
closed -> 30 s -> PSS again ("released"). PSS divides a page among the processes that map it; the
bare interpreter runs beside the worker so that both share the same libraries with the same number
of others. The 30 s are part of what is measured.
"""

import os
import select
import socket
import time

import measure
import processes
import servers
import wire

BURST = 1000
BURST_BYTES = 64 * 1024
IDLE = 8000
AT_ONCE = 200
STAGE_SECONDS = 30
FIELDS = ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem", "Private_Clean", "Private_Dirty", "Rss")


def memory(pid):
    """KiB by kind of one process, from smaps_rollup."""
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in FIELDS:
                sizes[name] = int(rest.split()[0])
    return sizes


def measure_memory(bench, case, entry):
    """All figures of one server."""
    with measure.Running(bench, case, entry) as running:
        try:
            return _stages(bench, running)
        except (OSError, wire.WrongAnswer, processes.DidNotStart) as error:
            raise measure.Failed(f"{entry.name}: {error}\n{running.log()}") from error


def _stages(bench, running):
    running.warm_up()
    server, workers = _roles(running.process.pid)
    bare = _bare_interpreter(bench, running)
    try:
        fresh = {"server": memory(server), "worker": memory(workers[0]), "bare": memory(bare.pid)}
    finally:
        bare.stop()
    tree = [memory(pid) for pid in processes.tree(running.process.pid)]
    figures = {"processes": len(tree), "tree_fresh_mib": _mib(sum(sizes["Pss"] for sizes in tree))}
    burst = Connections(running.address, bench.seconds + STAGE_SECONDS)
    figures["burst_answered"] = burst.open_and_ask(
        BURST, BURST, os.urandom(BURST_BYTES), keep=False
    )
    idle = Connections(running.address, bench.seconds + STAGE_SECONDS)
    figures["idle_answered"] = idle.open_and_ask(IDLE, AT_ONCE, b"", keep=True)
    after = memory(server)
    time.sleep(bench.settle)
    figures["idle_still_open"] = idle.still_open()
    held = {"server": memory(server), "worker": memory(_roles(running.process.pid)[1][0])}
    held_tree = _mib(sum(memory(pid)["Pss"] for pid in processes.tree(running.process.pid)))
    idle.close()
    time.sleep(bench.settle)
    released = {"server": memory(server), "worker": memory(_roles(running.process.pid)[1][0])}
    figures.update(
        server_fresh_mib=_mib(fresh["server"]["Pss"]),
        server_after_mib=_mib(after["Pss"]),
        server_held_mib=_mib(held["server"]["Pss"]),
        server_released_mib=_mib(released["server"]["Pss"]),
        worker_fresh_mib=_mib(fresh["worker"]["Pss"]),
        worker_held_mib=_mib(held["worker"]["Pss"]),
        worker_released_mib=_mib(released["worker"]["Pss"]),
        bare_mib=_mib(fresh["bare"]["Pss"]),
        worker_over_bare_mib=_mib(fresh["worker"]["Pss"] - fresh["bare"]["Pss"]),
        tree_held_mib=held_tree,
        detail_kib={"fresh": fresh, "after": after, "held": held, "released": released},
    )
    return figures


def _roles(root):
    """The server process, and those that run the application: the processes without children."""
    everyone = processes.tree(root)
    leaves = [pid for pid in everyone if len(processes.tree(pid)) == 1]
    return root, leaves


def _bare_interpreter(bench, running):
    """The same interpreter with the application imported, waiting; ready when it has said so."""
    log = os.path.join(running.folder, "bare.log")
    code = "import bench, signal; print('ready', flush=True); signal.pause()"
    environment = {**running.server.environment(), "PYTHONPATH": servers.APPLICATIONS}
    argv = [running.server.python, "-c", code]
    process = processes.Process("bare", argv, bench.server_core, env=environment, log=log)
    try:
        process.wait_until(lambda: "ready" in process.tail(), 10)
    except processes.DidNotStart:
        process.stop()
        raise
    return process


class Connections:
    """Many connections, a bounded number of them waiting for their answer at once."""

    def __init__(self, address, seconds):
        self.address = address
        self.deadline = time.monotonic() + seconds
        self.answered = []
        self.waiting = {}
        self.epoll = select.epoll()

    def open_and_ask(self, count, at_once, body, keep):
        """Opens `count` connections, one request on each; how many were answered right in time."""
        request = wire.request_bytes(body=body, keep_alive=keep)
        left, done = count, 0
        while (left or self.waiting) and time.monotonic() < self.deadline:
            batch = [self._open() for _ in range(min(left, at_once - len(self.waiting)))]
            left -= len(batch)
            for client in batch:
                # State of one connection: socket, request bytes still to send, received so far.
                self.waiting[client.fileno()] = [client, memoryview(request), bytearray()]
                self.epoll.register(client.fileno(), select.EPOLLIN | select.EPOLLOUT)
            for descriptor, _ in self.epoll.poll(0.2):
                done += self._act(descriptor, body, keep)
        for client, _, _ in self.waiting.values():
            client.close()
        self.waiting.clear()
        return done

    def still_open(self):
        return sum(not _ended(client) for client in self.answered)

    def close(self):
        for client in self.answered:
            client.close()
        self.epoll.close()

    def _open(self):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", self.address.port))
        return client

    def _act(self, descriptor, body, keep):
        """One readiness event; 1 when it completed a right answer."""
        client, unsent, received = self.waiting[descriptor]
        try:
            if unsent:
                sent = client.send(unsent)
                self.waiting[descriptor][1] = unsent[sent:]
                if sent == len(unsent):
                    self.epoll.modify(descriptor, select.EPOLLIN)
                return 0
            piece = client.recv(1 << 20)
        except BlockingIOError:
            return 0
        except ConnectionError:
            piece = b""
        received += piece
        head, separator, answer = bytes(received).partition(b"\r\n\r\n")
        right = bool(separator) and head.split(b" ", 2)[1:2] == [b"200"] and answer == body
        if right or not piece:
            self.epoll.unregister(descriptor)
            del self.waiting[descriptor]
            if right and keep:
                self.answered.append(client)
            else:
                client.close()
        return int(right)


def _ended(client):
    """Whether the other side closed a connection on which nothing is expected."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _mib(kib):
    return kib / 1024
