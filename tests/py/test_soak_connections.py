"""Kept connections under random legal and rude clients: every answer is the right one to the last
byte, and nothing is left behind. Purpose: what the driver and the loop hold of a connection between
requests (armed receives, held bytes, buffers, slots) in orders nobody thought of. Each run is
bounded and its order comes from a seed, which a failure names.
"""

import asyncio
import os
import random
import socket
import struct
import time

import pytest

from harness import process
from harness.release import wait_ready
from harness.watch import wait_until

SECONDS = float(os.environ.get("RINGHORN_SOAK_SECONDS", "6"))
SEED = int(os.environ.get("RINGHORN_SOAK_SEED", "0")) or random.randrange(1 << 30)
CONNECTIONS = 16
INFLIGHT = 48
# Around every bound: a held buffer, a provided one, the body's memory, the spool, streaming.
SIZES = [0, 1, 100, 3900, 4096, 4097, 9000, 16384, 16385, 50_000, 70_000, 140_000, 300_000, 1 << 20]
OPTIONS = [
    *("--body-buffer-size", "64KiB", "--body-spool-size", "512KiB", "--keep-alive", "1"),
    *("--max-inflight", str(INFLIGHT), "--health-path", "/-/healthz", "--header-timeout", "20"),
]


class Wrong(AssertionError):
    """An answer that is not the right one."""


class Closed(Exception):
    """The connection ended before a byte of an answer."""


class Kept:
    """One kept connection of a player."""

    def __init__(self, address):
        self.address = address
        self.reader = self.writer = None
        # When the last answer was read, and how long the connection was idle before what was sent
        # then, None: nothing was sent yet.
        self.last, self.idle = 0.0, None

    async def open(self):
        if self.writer is None:
            if self.address.path:
                pair = await asyncio.open_unix_connection(self.address.path)
            else:
                pair = await asyncio.open_connection(self.address.host, self.address.port)
            self.reader, self.writer = pair
            self.last, self.idle = time.monotonic(), None
        return self

    async def send(self, data):
        if self.idle is None:
            self.idle = time.monotonic() - self.last
        self.writer.write(data)
        await self.writer.drain()

    def drop(self, reset=False):
        if self.writer is None:
            return
        if reset and not self.address.path:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (self.writer.transport.abort if reset else self.writer.close)()
        self.reader = self.writer = None

    async def answer(self, is_first=False):
        """(status, headers, body) of the next final answer."""
        while True:
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial or not is_first:
                    raise Wrong(f"cut: {error.partial[:200]!r}") from None
                raise Closed from None
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            fields = [line.split(": ", 1) for line in lines[1:] if line]
            headers = {name.lower(): value for name, value in fields}
            if status != 100:
                break
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            body = await self.reader.readexactly(int(headers["content-length"]))
        self.last, self.idle = time.monotonic(), None
        return status, headers, body


class Player:
    """Plays on one connection at a time; counts what it saw."""

    def __init__(self, address, seed, counts, slow):
        self.random = random.Random(seed)
        self.address = address
        self.counts = counts
        self.slow = slow
        self.tags = 0
        self.kept = Kept(address)
        self.sending = None

    def request(self, size=None, last=False, expect=False):
        """The bytes of a request's head and body, and what is to come back."""
        chance = self.random
        self.tags += 1
        tag = f"{id(self)}-{self.tags}"
        size = chance.choice(SIZES) if size is None else size
        body = chance.randbytes(size)
        query = []
        if chance.random() < 0.2:
            query.append("framing=chunked")
        if chance.random() < self.slow:
            query.append(f"sleep={chance.random() * 0.03:.3f}")
        fields = [f"Host: soak\r\nX-Tag: {tag}\r\n"]
        wire = body
        if size and chance.random() < 0.3:
            fields.append("Transfer-Encoding: chunked\r\n")
            step = chance.choice([100, 5000, 70_000]) if size < 100_000 else 70_000
            pieces = [body[at : at + step] for at in range(0, size, step)]
            wire = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            wire += b"0\r\n\r\n"
        elif size or chance.random() < 0.3:
            fields.append(f"Content-Length: {size}\r\n")
        if expect:
            fields.append("Expect: 100-continue\r\n")
        if last:
            fields.append("Connection: close\r\n")
        if chance.random() < 0.1:
            fields.append(f"Cookie: {'c' * chance.choice([3000, 6000])}\r\n")
        method = "POST" if size else "GET"
        head = f"{method} /soak?{'&'.join(query)} HTTP/1.1\r\n{''.join(fields)}\r\n"
        return head.encode(), wire, (tag, body)

    async def check(self, expected, is_first=False):
        tag, body = expected
        status, headers, got = await self.kept.answer(is_first)
        if (status, headers.get("x-tag"), got) != (200, tag, body):
            raise Wrong(f"{status} {headers} {got[:100]!r} ({len(got)}) for {tag} ({len(body)})")
        self.counts["answers"] += 1

    async def send_split(self, data):
        """In one piece or several, with pauses or without."""
        for _ in range(self.random.choice([0, 0, 1, 3])):
            cut = self.random.randrange(len(data) + 1)
            await self.kept.send(data[:cut])
            data = data[cut:]
            await asyncio.sleep(self.random.choice([0, 0.001, 0.01]))
        await self.kept.send(data)

    def begin(self, sending):
        self.sending = asyncio.create_task(sending)
        return self.sending

    async def stop_sending(self):
        if self.sending:
            self.sending.cancel()
            await asyncio.gather(self.sending, return_exceptions=True)

    async def play_one(self):
        head, wire, expected = self.request()
        sending = self.begin(self.send_split(head + wire))
        await self.check(expected, is_first=True)
        await sending

    async def play_expect(self):
        head, wire, expected = self.request(expect=True)
        await self.kept.send(head)
        if wire:
            interim = await self.kept.reader.readuntil(b"\r\n\r\n")
            if not interim.startswith(b"HTTP/1.1 100"):
                raise Wrong(f"no interim answer: {interim!r}")
        sending = self.begin(self.send_split(wire))
        await self.check(expected)
        await sending

    async def play_pipeline(self):
        """Requests behind each other, health paths among them; also while the first is slow."""
        chance = self.random
        few = [0, 0, 0, 10, 3000, 20_000, 70_000]
        sizes = [chance.choice(few) for _ in range(chance.randrange(2, 9))]
        if chance.random() < 0.2:
            sizes = [0] * 100
        data, expected = b"", []
        for size in sizes:
            if chance.random() < 0.15:
                data += b"GET /-/healthz HTTP/1.1\r\nHost: soak\r\n\r\n"
                expected.append(None)
            head, wire, answer = self.request(size)
            data += head + wire
            expected.append(answer)
        sending = self.begin(self.send_split(data))
        for at, answer in enumerate(expected):
            if answer is None:
                status, _, body = await self.kept.answer(at == 0)
                if status != 200 or b"alive" not in body:
                    raise Wrong(f"health: {status} {body!r}")
            else:
                await self.check(answer, at == 0)
        await sending

    async def play_last(self):
        """Connection: close, or the client's side is shut: the answer comes whole, then the end."""
        shuts = self.random.random() < 0.5
        head, wire, expected = self.request(last=not shuts)
        sending = self.begin(self.send_split(head + wire))
        if shuts:
            await sending
            self.kept.writer.write_eof()
        await self.check(expected, is_first=True)
        await sending
        if rest := await self.kept.reader.read():
            raise Wrong(f"behind the last answer: {rest[:100]!r}")
        self.kept.drop()

    async def play_idle(self):
        await asyncio.sleep(self.random.choice([0.01, 0.05, 0.3]))
        await self.play_one()

    async def play_outlived(self):
        """Idle until the server closes, or the moment around it."""
        await self.play_one()
        await asyncio.sleep(self.random.choice([0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.4]))
        try:
            await self.play_one()
        except (Closed, ConnectionError):
            await self.stop_sending()
            self.counts["closed while idle"] += 1
            self.kept.drop()

    async def play_gone(self):
        """Leaves in the middle: of a head, a body, an answer."""
        head, wire, _ = self.request()
        data = head + wire
        await self.kept.send(data[: self.random.randrange(len(data) + 1)])
        await asyncio.sleep(self.random.choice([0, 0.001, 0.02]))
        self.kept.drop(reset=self.random.random() < 0.5)

    async def play_deaf(self):
        """Sends several requests and reads nothing, then leaves."""
        for _ in range(3):
            head, wire, _ = self.request(self.random.choice([0, 5000, 70_000]))
            self.kept.writer.write(head + wire)
        await asyncio.sleep(self.random.choice([0.01, 0.1, 0.4]))
        self.kept.drop(reset=self.random.random() < 0.5)

    async def play_garbage(self):
        await self.kept.send(self.random.choice([b"\x00\x01\x02\r\n\r\n", b"GET  / HTTP\r\n\r\n"]))
        status, _, _ = await self.kept.answer(True)
        if status != 400:
            raise Wrong(f"garbage got {status}")
        self.kept.drop()

    async def play_unread(self):
        """The application answers without reading the body, which goes on coming."""
        body = self.random.randbytes(self.random.choice([100, 5000, 200_000]))
        head = f"POST /soak?read=nothing HTTP/1.1\r\nHost: s\r\nContent-Length: {len(body)}\r\n\r\n"
        sending = self.begin(self.send_split(head.encode() + body))
        status, headers, got = await self.kept.answer(True)
        if (status, got) != (200, b"unread"):
            raise Wrong(f"{status} {got!r}")
        await sending
        if headers.get("connection") == "close":
            self.kept.drop()

    async def play(self, until):
        plays = {
            self.play_one: 8, self.play_expect: 2, self.play_pipeline: 4, self.play_last: 2,
            self.play_idle: 2, self.play_outlived: 1, self.play_gone: 2, self.play_deaf: 1,
            self.play_garbage: 1, self.play_unread: 2,
        }  # fmt: skip
        names = list(plays)
        while time.monotonic() < until:
            name = self.random.choices(names, plays.values())[0]
            is_new = self.kept.writer is None
            await self.kept.open()
            try:
                try:
                    await asyncio.wait_for(name(), 10)
                except BaseException:
                    await self.stop_sending()
                    raise
            except (Closed, ConnectionError):
                # Only a connection that was idle for its whole time may be closed over a request.
                if is_new or (self.kept.idle or 0) < 0.9:
                    raise Wrong(f"{name.__name__}: closed after {self.kept.idle} s") from None
                self.counts["closed while idle"] += 1
                self.kept.drop()
            except (asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                raise Wrong(f"{name.__name__}: {error!r}") from None
            except Wrong as error:
                raise Wrong(f"{name.__name__}: {error}") from None
            self.counts["plays"] += 1
        self.kept.drop()


async def soak(address, seed, slow):
    counts = {"plays": 0, "answers": 0, "closed while idle": 0}
    until = time.monotonic() + SECONDS
    players = [Player(address, seed + number, counts, slow) for number in range(CONNECTIONS)]
    await asyncio.gather(*(player.play(until) for player in players))
    return counts


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def all_at_once(address, count):
    """Whether the whole `--max-inflight` can still be used."""
    players = [Kept(address) for _ in range(count)]
    for player in players:
        await player.open()
    request = b"GET /soak?sleep=0.3 HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n"
    for player in players:
        await player.send(request)
    answers = [await asyncio.wait_for(player.answer(), 20) for player in players]
    for player in players:
        player.drop()
    return [status for status, _, _ in answers]


@pytest.mark.parametrize(
    "bind, loops, options, slow",
    [
        ("http://127.0.0.1:0", 1, (), 0.2),
        ("http://127.0.0.1:0", 2, ("--max-connections", str(2 * CONNECTIONS + 2)), 0.5),
        ("unix", 1, (), 0.2),
    ],
    ids=["tcp", "tcp-two-loops-few-connections", "unix"],
)
def test_random_clients_get_their_answers_and_leave_nothing(
    start, tmp_path, bind, loops, options, slow
):
    bind = f"http://unix:{tmp_path}/soak.sock" if bind == "unix" else bind
    options = [*OPTIONS, "--event-loops", loops, *options]
    one = start("soak:application", binds=[bind], workers=2, threads=8, options=options)
    # The first worker serves; what the second brings belongs to the count.
    wait_ready(one, 2)
    one.request()
    before = len(process.descriptors(one.pid))
    try:
        counts = asyncio.run(soak(one.address, SEED, slow))
    except Wrong as error:
        raise AssertionError(f"seed {SEED}: {error}") from None
    assert counts["answers"] > 50, counts
    wait_until(
        lambda: len(process.descriptors(one.pid)) <= before, f"descriptors to be {before}", 5
    )
    if loops == 1:
        # Several loops share the bound, and clients fall to them by chance.
        assert asyncio.run(all_at_once(one.address, INFLIGHT)) == [200] * INFLIGHT
    # What a burst left is given back for some seconds, which costs next to nothing.
    used = cpu_seconds(one.pid)
    time.sleep(1)
    assert cpu_seconds(one.pid) - used < 0.1
    assert "panicked" not in one.log.text
