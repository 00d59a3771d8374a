"""What is measured: the cases of the comparison as a table, and the bars they are held to.

Place: `run.py` chooses from `CASES`; `measure.py` runs one entry of one case; `report.py` applies
`BARS`. Invariant: a bar is a ratio of figures of the same run, and a report, never a test.
"""

from dataclasses import dataclass, field

from applications import bench
from servers import HTTP, UWSGI

MEBIBYTE = len(bench.MEBIBYTE)


@dataclass(frozen=True)
class Entry:
    """One row of a case's table: a server and how it is started for it."""

    server: str
    workers: int = 1
    threads: int = 1
    keep_alive: bool = True
    clients: int = 0
    label: str = ""

    @property
    def name(self):
        return f"{self.server} {self.label}".strip()


@dataclass(frozen=True)
class Case:
    title: str
    application: str
    entries: list
    front: str = ""
    protocol: str = HTTP
    connections: int = 64
    load: str = "wrk"
    post_bytes: int = 0
    expected: bytes = bench.HELLO
    notes: list = field(default_factory=list)

    @property
    def body(self):
        return bench.MEBIBYTE[: self.post_bytes]


@dataclass(frozen=True)
class Bar:
    """`subject` against the best of `against` (or the number `target`) by one figure of one case.

    `most` bounds the ratio from above, `least` from below.
    """

    case: str
    figure: str
    subject: str
    against: tuple = ()
    target: float = 0
    most: float = 0
    least: float = 0
    remark: str = ""


def _each(names, **settings):
    return [Entry(name, **settings) for name in names]


def _one_worker(names):
    """One worker with one thread each; gunicorn with the four its documentation starts from."""
    return _each([name for name in names if name != "gunicorn"]) + [
        Entry("gunicorn", threads=4, label="x4")
    ]


def _threads():
    return [
        Entry(name, threads=threads, label=f"x{threads}")
        for name in ("ringhorn", "granian", "uwsgi", "gunicorn")
        for threads in (1, 8)
    ]


def _mixed():
    return [
        Entry(
            name, workers=4, threads=2, keep_alive=keep, clients=clients, label=f"{clients} {mode}"
        )
        for clients in (8, 16)
        for keep, mode in ((True, "keep-alive"), (False, "close"))
        for name in ("ringhorn", "uwsgi", "granian", "gunicorn")
    ]


ALL = ("ringhorn", "bjoern", "fastpysgi", "granian", "uwsgi", "gunicorn")
UWSGI_STARVES = (
    "uWSGI's --http11-socket keeps a thread on its connection: of 64 clients one a thread is "
    "served, the rest wait, which wrk counts nowhere. Its figures are those of the ones it serves."
)

CASES = {
    "hello-tcp": Case(
        "hello world, HTTP keep-alive, TCP, 64 connections, 1 worker",
        "hello",
        _one_worker(ALL),
        notes=[UWSGI_STARVES],
    ),
    "hello-uwsgi": Case(
        "hello world, nginx uwsgi_pass, Unix socket, 64 connections, 1 worker",
        "hello",
        _one_worker(("ringhorn", "uwsgi", "gunicorn")),
        front="uwsgi_pass",
        protocol=UWSGI,
    ),
    "hello-proxy": Case(
        "hello world, nginx proxy_pass keep-alive, Unix socket, 64 connections, 1 worker",
        "hello",
        _one_worker(("ringhorn", "bjoern", "granian", "uwsgi", "gunicorn")),
        front="proxy_pass",
        notes=["FastPySGI listens on no Unix socket.", UWSGI_STARVES],
    ),
    "threads": Case(
        "hello world, HTTP keep-alive, TCP, 64 connections, 1 worker, 1 and 8 threads",
        "hello",
        _threads(),
        notes=["bjoern and FastPySGI have no threads.", UWSGI_STARVES],
    ),
    "sleep": Case(
        "application sleeping 10 ms, TCP, 64 connections, 1 worker, 32 threads",
        "sleeping",
        _each(("ringhorn", "granian", "uwsgi", "gunicorn"), threads=32),
        notes=[
            "32 threads and 10 ms allow 3,200 req/s.",
            "bjoern and FastPySGI have no threads.",
            UWSGI_STARVES,
        ],
    ),
    "mixed": Case(
        "4 workers x 2 threads, 8 and 16 clients, 2 % of requests sleep 200 ms: the fast ones",
        "mixed",
        _mixed(),
        load="mixed",
        notes=[
            "keep-alive: one connection a client; close: one a request (uWSGI by --http-socket).",
            "Clients a server starves wait in no percentile: see the column.",
        ],
    ),
    "response-1mib": Case(
        "1 MiB response, HTTP keep-alive, TCP, 64 connections, 1 worker",
        "mebibyte",
        _one_worker(ALL),
        expected=bench.MEBIBYTE,
        notes=["One request is one MiB.", UWSGI_STARVES],
    ),
    "echo-1mib": Case(
        "1 MiB POST echoed, HTTP keep-alive, TCP, 64 connections, 1 worker",
        "echo",
        _one_worker(ALL),
        post_bytes=MEBIBYTE,
        expected=bench.MEBIBYTE,
        notes=["One request is one MiB in and the same out.", UWSGI_STARVES],
    ),
    "memory": Case("memory of processes", "echo", _each(ALL), load="memory", expected=b""),
}

PEERS = tuple(entry.name for entry in _one_worker(ALL[1:]))
SERVING_ALL = tuple(name for name in PEERS if name != "uwsgi")
CPU, P99_FAST, RATE = "cpu_us", "p99_us", "rate"


def _mixed_bars():
    for clients in (8, 16):
        for mode in ("keep-alive", "close"):
            yield Bar(
                "mixed",
                P99_FAST,
                f"ringhorn {clients} {mode}",
                against=(f"uwsgi {clients} {mode}",),
                most=2,
            )


def _mebibyte_bars():
    """Against all peers, and without the one that serves a single client of the 64."""
    for case in ("response-1mib", "echo-1mib"):
        for peers, remark in ((PEERS, ""), (SERVING_ALL, "of those serving all clients")):
            yield Bar(case, CPU, "ringhorn", against=peers, most=1.15, remark=remark)
            yield Bar(case, RATE, "ringhorn", against=peers, least=0.95, remark=remark)


BARS = [
    Bar("hello-tcp", CPU, "ringhorn", against=("bjoern", "fastpysgi"), most=0.85),
    Bar("hello-tcp", CPU, "ringhorn", against=("granian",), most=0.5),
    Bar("hello-uwsgi", CPU, "ringhorn", against=("uwsgi",), most=0.80),
    Bar("hello-proxy", CPU, "ringhorn", against=("bjoern",), most=0.95),
    Bar("hello-proxy", CPU, "ringhorn", against=("granian",), most=0.4),
    Bar("threads", CPU, "ringhorn x8", against=("ringhorn x1",), most=1.1),
    Bar("sleep", RATE, "ringhorn", target=3200, least=0.9),
    *_mixed_bars(),
    *_mebibyte_bars(),
    Bar("memory", "server_fresh_mib", "ringhorn", target=15, most=1),
    Bar("memory", "server_held_mib", "ringhorn", target=25, most=1),
    Bar("memory", "worker_over_bare_mib", "ringhorn", target=4, most=1),
]
