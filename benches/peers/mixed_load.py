"""A load generator that tells fast answers from slow ones: 2 % of its requests are `/slow`.

Place: run by `load.py`: `mixed_load.py PORT CLIENTS SECONDS SEED keep-alive|close`; prints one JSON
line. One thread, one epoll, prebuilt requests. Each client sends its next request when the last one
was answered and draws its kind from a generator seeded by SEED and its number, so that all servers
get the same sequence. `close` opens a connection for every request, and its latency includes the
connecting. Times are from the first attempt to send until the whole response was read. A request
that its server dropped unanswered (a kept-alive connection closed under it) is sent again on a new
connection, its clock running on. A client that was hardly ever served (below a tenth of the median
client's requests) is counted as starved: its waiting is in no percentile, so a server with starved
clients looks better than it is.
"""

import errno
import gc
import json
import random
import resource
import select
import socket
import sys
import time

SLOW_SHARE = 0.02
REQUEST = "GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"


class Client:
    def __init__(self, number, seed, keep_alive):
        self.draw = random.Random(seed * 1000 + number)
        self.keep_alive = keep_alive
        self.socket = None
        self.slow = False
        self.started_ns = 0
        self.received = b""
        self.sent = False
        self.answered = 0
        self.resent = 0
        self.attempts = 0


class Generator:
    def __init__(self, port, clients, seed, keep_alive):
        self.address = ("127.0.0.1", port)
        close = "" if keep_alive else "Connection: close\r\n"
        self.requests = {
            False: REQUEST.format("/", close).encode(),
            True: REQUEST.format("/slow", close).encode(),
        }
        self.epoll = select.epoll()
        self.clients = [Client(number, seed, keep_alive) for number in range(clients)]
        self.by_descriptor = {}
        self.fast_ns = []
        self.slow_ns = []
        self.errors = 0
        self.body = b"Hello, world!\n"

    def run(self, seconds):
        started = time.perf_counter_ns()
        end = started + int(seconds * 1e9)
        for client in self.clients:
            self.next_request(client)
        while (now := time.perf_counter_ns()) < end:
            for descriptor, events in self.epoll.poll((end - now) / 1e9):
                client = self.by_descriptor.get(descriptor)
                if client is not None:
                    self.act(client, events)
        return time.perf_counter_ns() - started

    def next_request(self, client):
        client.slow = client.draw.random() < SLOW_SHARE
        client.started_ns = time.perf_counter_ns()
        client.received = b""
        client.attempts = 0
        self.send(client)

    def send(self, client):
        """Sends the request, connecting first if need be; again when writable if it would block."""
        if client.socket is None:
            self.connect(client)
        try:
            client.socket.send(self.requests[client.slow])
            client.sent = True
        except (BlockingIOError, ConnectionError) as error:
            client.sent = False
            if isinstance(error, ConnectionError) or error.errno != errno.EAGAIN:
                self.lost(client)
            else:
                self.epoll.modify(client.socket.fileno(), select.EPOLLOUT)

    def connect(self, client):
        client.socket = socket.socket()
        client.socket.setblocking(False)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket.connect_ex(self.address)
        descriptor = client.socket.fileno()
        self.by_descriptor[descriptor] = client
        self.epoll.register(descriptor, select.EPOLLIN)

    def disconnect(self, client):
        descriptor = client.socket.fileno()
        self.epoll.unregister(descriptor)
        del self.by_descriptor[descriptor]
        client.socket.close()
        client.socket = None

    def act(self, client, events):
        if not client.sent:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                self.lost(client)
            else:
                self.epoll.modify(client.socket.fileno(), select.EPOLLIN)
                self.send(client)
            return
        try:
            piece = client.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            piece = b""
        if not piece:
            self.lost(client)
            return
        client.received += piece
        if client.received.endswith(b"\r\n\r\n" + self.body):
            self.finish(client)

    def finish(self, client):
        elapsed = time.perf_counter_ns() - client.started_ns
        head = client.received[: -len(self.body)]
        if head.startswith(b"HTTP/1.1 200") or head.startswith(b"HTTP/1.0 200"):
            (self.slow_ns if client.slow else self.fast_ns).append(elapsed)
            client.answered += 1
        else:
            self.errors += 1
        if (
            not client.keep_alive
            or b"connection: close" in head.lower()
            or head.startswith(b"HTTP/1.0")
        ):
            self.disconnect(client)
        self.next_request(client)

    def lost(self, client):
        """The connection went: an error if part of an answer came, else the request goes again."""
        self.disconnect(client)
        client.resent += 1
        client.attempts += 1
        if client.received:
            self.errors += 1
            self.next_request(client)
        elif client.attempts > 100:
            raise SystemExit("mixed_load: the server takes no connection")
        else:
            self.send(client)

    def result(self, elapsed_ns):
        answered = sorted(client.answered for client in self.clients)
        median = answered[len(answered) // 2]
        now = time.perf_counter_ns()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "duration_us": elapsed_ns / 1000,
            "requests": len(self.fast_ns) + len(self.slow_ns),
            "fast": latencies(self.fast_ns),
            "slow": latencies(self.slow_ns),
            "errors": {"status": self.errors},
            "resent": sum(client.resent for client in self.clients),
            "answered_per_client": [answered[0], median, answered[-1]],
            "starved_clients": sum(count * 10 < median or count == 0 for count in answered),
            "longest_unanswered_us": max(
                (now - client.started_ns) / 1000 for client in self.clients
            ),
            "generator_busy": (usage.ru_utime + usage.ru_stime) / (elapsed_ns / 1e9),
        }


def latencies(values_ns):
    """Percentiles in microseconds, by nearest rank."""
    ordered = sorted(values_ns)
    if not ordered:
        return {"count": 0}

    def at(share):
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1000

    return {
        "count": len(ordered),
        "p50_us": at(0.50),
        "p99_us": at(0.99),
        "p999_us": at(0.999),
        "max_us": ordered[-1] / 1000,
    }


def main():
    port, clients, seconds, seed, mode = sys.argv[1:]
    generator = Generator(int(port), int(clients), int(seed), mode == "keep-alive")
    gc.disable()  # a collection would be a pause in the latencies
    elapsed_ns = generator.run(float(seconds))
    print("JSON " + json.dumps(generator.result(elapsed_ns)), flush=True)


if __name__ == "__main__":
    main()
