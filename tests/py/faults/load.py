"""The load client of the drills: N clients on one epoll, each request accounted for by kind.

Purpose: run as a process of its own (`python load.py JSON`), so that neither the test nor its
threads disturb what is measured. It reads commands from its standard input, one a line: `window
NAME` begins a new window of figures, `snapshot` prints all so far as a line of JSON, `stop` (or the
end of the input) lets every client finish its request, prints the report and ends.

Each request has an id of its own, which the application must send back as the first line of its
body: an answer that went to another client's request is counted as `wrong`. Kinds:

    ok          200 with exactly the body that was asked for
    502 503 ... answered with this status, whole
    cut         some bytes of an answer came, then the connection ended
    closed      a new connection ended before any byte of an answer
    reset       the same, by a reset
    refused     no connection could be made
    timeout     no whole answer in `timeout` seconds
    wrong       a whole 200 with another body, or bytes that nobody asked for

A request on a kept connection that ended before any byte of an answer is sent once more, on a new
connection, as any HTTP client does; that is counted apart (`retried`) and its outcome then has one
of the kinds above. The kinds of all windows add up to `sent`, exactly.
"""

import array
import collections
import errno
import gc
import heapq
import itertools
import json
import os
import select
import socket
import sys
import time

# A Unix socket whose backlog is full refuses at once what TCP would let wait.
BACKLOG_PAUSE = 0.002


class Window:
    """Figures between two commands. A request belongs to the window in which it ended; the longest
    gap between answers, whoever's, is measured across windows. What one client waited for is the
    time of its request, a second try included. `own_lag` is the longest time that this process was
    busy or kept from running between two looks at its sockets: stalls below it are its own."""

    def __init__(self, name):
        self.name = name
        self.began = time.monotonic()
        self.seconds = 0.0
        self.kinds = {}
        self.retried = 0
        self.closed = {"announced": 0, "idle": 0, "before an answer": 0}
        self.releases = {}
        self.longest_gap = 0.0
        self.own_lag = 0.0
        self.latencies = array.array("d")
        self.others = array.array("d")

    def count(self, kind):
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def report(self):
        """What is said of the window; times in milliseconds."""
        seconds = (self.seconds or time.monotonic() - self.began) or 1e-9
        ok = self.kinds.get("ok", 0)
        return {
            "name": self.name,
            "seconds": round(seconds, 3),
            "kinds": self.kinds,
            "retried": self.retried,
            "connections closed": self.closed,
            "releases": self.releases,
            "ok per second": round(ok / seconds, 1),
            "longest gap": round(self.longest_gap * 1e3, 1),
            "own lag": round(self.own_lag * 1e3, 1),
            "ok": spread(self.latencies),
            "others": spread(self.others),
        }


def spread(values):
    """Median, 99th percentile and longest of seconds, in milliseconds."""
    if not values:
        return {"p50": 0.0, "p99": 0.0, "longest": 0.0}
    ordered = sorted(values)

    def at(share):
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3, 2)

    return {"p50": at(0.5), "p99": at(0.99), "longest": at(1.0)}


class Client:
    """One client: at most one connection, at most one request in flight."""

    __slots__ = (
        "number", "sock", "fd", "answered_on_it", "count", "want", "request", "out", "buffer",
        "head_bytes", "whole_bytes", "status", "closes", "started", "retried", "due", "waiting",
        "connecting", "release", "says_when",
    )  # fmt: skip

    def __init__(self, number):
        self.number = number
        self.sock = None
        self.fd = -1
        self.count = 0
        self.waiting = False
        self.due = 0.0
        self.reset_answer()

    def reset_answer(self):
        self.buffer = b""
        self.head_bytes = 0
        self.whole_bytes = 0
        self.status = 0
        self.closes = False
        self.release = None
        self.says_when = False


class Load:
    """All clients, and the loop that serves them."""

    def __init__(self, settings):
        self.family, self.place = settings["address"]
        self.place = self.place if isinstance(self.place, str) else tuple(self.place)
        self.keep = settings.get("keep", True)
        self.timeout = settings.get("timeout", 30.0)
        self.requests = settings["requests"]
        self.mix = itertools.cycle(self.requests)
        rate = settings.get("rate")
        self.interval = settings["clients"] / rate if rate else 0.0
        self.limit = settings.get("count")
        self.nice = settings.get("nice", 0)
        self.sent = 0
        self.run_name = settings.get("name", "r")
        self.epoll = select.epoll()
        self.clients = [Client(number) for number in range(settings["clients"])]
        self.by_fd = {}
        self.later = []
        self.expiries = collections.deque()
        self.order = itertools.count()
        self.windows = [Window("start")]
        self.last_answer = time.monotonic()
        self.unasked = 0
        self.stopping = False
        self.commands = b""

    @property
    def window(self):
        return self.windows[-1]

    # Requests

    def begin(self, client, now):
        """The client's next request, unless the run is over."""
        if self.stopping or (self.limit is not None and self.sent >= self.limit):
            client.waiting = False
            return
        if self.interval:
            if client.due > now:
                return self.at(client.due, client, "begin")
            client.due = max(client.due + self.interval, now)
        ask = next(self.mix)
        client.count += 1
        ident = f"{self.run_name}-{client.number}-{client.count}"
        client.want = ident.encode() + b"\n" + b"x" * ask.get("size", 0)
        body = b"y" * ask.get("post", 0)
        head = (
            f"{'POST' if body else 'GET'} {ask['path']}{'&' if '?' in ask['path'] else '?'}"
            f"id={ident} HTTP/1.1\r\nHost: drill\r\n"
            + (f"Content-Length: {len(body)}\r\n" if body else "")
            + ("" if self.keep else "Connection: close\r\n")
        )
        client.request = head.encode() + b"\r\n" + body
        client.started = now
        client.retried = False
        client.waiting = True
        self.sent += 1
        self.expiries.append((now + self.timeout, client, client.count))
        self.send(client)

    def send(self, client):
        client.reset_answer()
        client.out = client.request
        if client.sock is None:
            return self.connect(client)
        self.push(client)

    def connect(self, client):
        sock = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(self.place)
        if code == errno.EAGAIN:
            sock.close()
            return self.at(time.monotonic() + BACKLOG_PAUSE, client, "connect", client.count)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            return self.finish(client, "refused")
        client.sock, client.fd = sock, sock.fileno()
        client.connecting = code != 0
        client.answered_on_it = 0
        self.by_fd[client.fd] = client
        self.epoll.register(client.fd, select.EPOLLIN | (select.EPOLLOUT if code else 0))
        if not code:
            self.push(client)

    def push(self, client):
        """Sends what is left of the request."""
        try:
            gone = client.sock.send(client.out)
        except BlockingIOError:
            gone = 0
        except OSError:
            # The answer may stand before the end all the same: reading says which it is.
            client.out = b""
            return
        client.out = client.out[gone:]
        if client.out:
            self.epoll.modify(client.fd, select.EPOLLIN | select.EPOLLOUT)

    # Answers

    def on_event(self, client, mask):
        if client.connecting:
            client.connecting = False
            code = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.drop(client)
                return self.finish(client, "refused")
        if mask & select.EPOLLOUT:
            self.epoll.modify(client.fd, select.EPOLLIN)
            self.push(client)
        if mask & ~select.EPOLLOUT:
            self.read(client)

    def read(self, client):
        try:
            data = client.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            return self.on_end(client, "reset")
        if not data:
            return self.on_end(client, "closed")
        if not client.waiting:
            self.unasked += 1
            return self.drop(client)
        client.buffer += data
        if not client.head_bytes and not self.parse(client):
            return
        if len(client.buffer) >= client.whole_bytes:
            self.whole(client)

    def parse(self, client):
        """Reads the head once it is whole; every answer in a drill states its length."""
        end = client.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = client.buffer[:end].lower()
        client.status = int(head[9:12])
        length = field(head, b"content-length")
        client.closes = field(head, b"connection") == b"close"
        client.release = field(head, b"x-release")
        client.says_when = field(head, b"retry-after") is not None
        client.head_bytes = end + 4
        client.whole_bytes = end + 4 + int(length) if length else sys.maxsize
        return True

    def whole(self, client):
        body = client.buffer[client.head_bytes :]
        if client.status == 200:
            kind = "ok" if body == client.want else "wrong"
            if kind == "wrong":
                print(f"wrong: {client.want[:60]!r} got {body[:60]!r}", file=sys.stderr)
        else:
            kind = str(client.status)
            if client.status == 503 and not client.says_when:
                kind = "503 without Retry-After"
        if client.release:
            release = client.release.decode()
            self.window.releases[release] = self.window.releases.get(release, 0) + 1
        client.answered_on_it += 1
        if client.closes or not self.keep:
            if self.keep:
                self.window.closed["announced"] += 1
            self.drop(client)
        self.finish(client, kind)

    def on_end(self, client, how):
        """The server ended the connection."""
        kept = client.answered_on_it > 0
        self.drop(client)
        if not client.waiting:
            self.window.closed["idle"] += 1
        elif client.buffer:
            self.finish(client, "cut")
        elif kept and not client.retried:
            self.window.closed["before an answer"] += 1
            self.window.retried += 1
            client.retried = True
            self.send(client)
        else:
            self.finish(client, how)

    def finish(self, client, kind):
        now = time.monotonic()
        window = self.window
        window.count(kind)
        (window.latencies if kind == "ok" else window.others).append(now - client.started)
        if client.status:
            window.longest_gap = max(window.longest_gap, now - self.last_answer)
            self.last_answer = now
        client.waiting = False
        self.at(now, client, "begin")

    def drop(self, client):
        if client.sock is not None:
            self.by_fd.pop(client.fd, None)
            client.sock.close()
            client.sock = None
            client.connecting = False

    # Time

    def at(self, when, client, what, count=0):
        heapq.heappush(self.later, (when, next(self.order), client, what, count))

    def run_due(self, now):
        while self.later and self.later[0][0] <= now:
            _, _, client, what, count = heapq.heappop(self.later)
            if what == "begin":
                self.begin(client, now)
            elif client.waiting and client.count == count and client.sock is None:
                self.connect(client)
        while self.expiries and self.expiries[0][0] <= now:
            _, client, count = self.expiries.popleft()
            if client.waiting and client.count == count:
                self.drop(client)
                self.finish(client, "timeout")

    # The loop

    def run(self):
        gc.disable()
        os.nice(self.nice)
        self.epoll.register(0, select.EPOLLIN)
        now = time.monotonic()
        for client in self.clients:
            client.due = now + self.interval * client.number / len(self.clients)
            self.at(client.due, client, "begin")
        woke = now
        while not self.is_over():
            now = time.monotonic()
            self.window.own_lag = max(self.window.own_lag, now - woke)
            self.run_due(now)
            next_due = [queue[0][0] for queue in (self.later, self.expiries) if queue]
            wait = min([1.0, *(due - time.monotonic() for due in next_due)])
            events = self.epoll.poll(max(0.0, wait))
            woke = time.monotonic()
            for fd, mask in events:
                if fd == 0:
                    self.read_commands()
                elif fd in self.by_fd:
                    self.on_event(self.by_fd[fd], mask)
        for client in self.clients:
            self.drop(client)
        self.window.seconds = time.monotonic() - self.window.began
        self.say(self.report())

    def is_over(self):
        return self.stopping and not any(client.waiting for client in self.clients)

    def read_commands(self):
        data = os.read(0, 4096)
        if not data:
            self.stopping = True
            self.epoll.unregister(0)
        self.commands += data
        *lines, self.commands = self.commands.split(b"\n")
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            if word == "stop":
                self.stopping = True
            elif word == "window":
                self.window.seconds = time.monotonic() - self.window.began
                self.windows.append(Window(rest))
            elif word == "snapshot":
                self.say(self.report())

    def report(self):
        waiting = sum(client.waiting for client in self.clients)
        windows = [window.report() for window in self.windows]
        counts = {"sent": self.sent, "waiting": waiting, "unasked": self.unasked}
        return {**counts, "windows": windows}

    def say(self, report):
        print(json.dumps(report), flush=True)


def field(head, name):
    """The value of a field in a head in lower case; None if it has none."""
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


if __name__ == "__main__":
    Load(json.loads(sys.argv[1])).run()
