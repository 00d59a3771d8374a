"""Cases about the returned iterable: its kinds, laziness, close()."""

from shared import record, token, wait_gate

from . import router

PLAIN = [("Content-Type", "text/plain")]


class Closing:
    """An iterable that records its close() and how far it was read."""

    def __init__(self, name, pieces):
        self.name = name
        self.pieces = iter(pieces)
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        piece = next(self.pieces)
        self.taken += 1
        return piece

    def close(self):
        record(self.name, {"close": True, "taken": self.taken})


class Indexed:
    """Iterable by the old protocol only."""

    def __getitem__(self, index):
        return [b"in", b"dex", b"ed"][index]


class IterOnly:
    def __iter__(self):
        return iter([b"iter", b"-only"])


class Watched:
    """Records every attribute the server asks of the instance or finds on its type."""

    def __init__(self, name):
        object.__setattr__(self, "_name", name)

    def __getattribute__(self, attribute):
        record(object.__getattribute__(self, "_name"), attribute)
        return object.__getattribute__(self, attribute)

    def __iter__(self):
        return iter([b"watch", b"ed"])


def pieces(environ):
    """The iterable that the last path segment names."""
    name = token(environ)
    kind = environ["PATH_INFO"].rpartition("/")[2]
    return {
        "list": lambda: [b"a", b"list"],
        "one": lambda: [b"one"],
        "tuple": lambda: (b"a", b"tuple"),
        "tuple-one": lambda: (b"one",),
        "set": lambda: {b"set"},
        "generator": lambda: (piece for piece in (b"gen", b"erator")),
        "iterator": lambda: iter([b"iter", b"ator"]),
        "map": lambda: map(bytes, [b"ma", b"p"]),
        "dict": lambda: {b"di": 1, b"ct": 2},
        "indexed": Indexed,
        "iter-only": IterOnly,
        "bytes": lambda: b"a bytes object",
        "empty-bytes": lambda: b"",
        "empty": list,
        "empty-generator": lambda: iter([]),
        "only-empty-pieces": lambda: [b"", b"", b""],
        "with-empty-pieces": lambda: [b"", b"a", b"", b"b", b""],
        "closing": lambda: Closing(name, [b"clo", b"sing"]),
        "closing-one": lambda: Closing(name, [b"closing"]),
        "closing-fails": lambda: Closing(name, fails_after(b"piece")),
        "closing-fails-first": lambda: Closing(name, fails_after()),
        "closing-long": lambda: Closing(name, (b"x" * 1000 for _ in range(100_000))),
        "closing-never-iterated": lambda: Closing(name, []),
        "watched": lambda: Watched(name),
        "large": lambda: [b"l" * 3_000_000],
        "many": lambda: (b"%d," % number for number in range(20_000)),
    }[kind]()


def fails_after(*sent):
    yield from sent
    raise RuntimeError("the iterable fails")


@router.case
def _iterable(environ, start_response):
    start_response("200 OK", list(PLAIN))
    return pieces(environ)


@router.case
def _iterable_with_length(environ, start_response):
    """The same with the Content-Length of the query's `length`."""
    from shared import query

    start_response("200 OK", [*PLAIN, ("Content-Length", query(environ)["length"])])
    return pieces(environ)


@router.case
def _iterable_with_status(environ, start_response):
    """The same with the status of the query's `status`, and a length when it has one."""
    from shared import query

    parameters = query(environ)
    headers = list(PLAIN)
    if "length" in parameters:
        headers.append(("Content-Length", parameters["length"]))
    start_response(parameters["status"] + " As Asked", headers)
    return pieces(environ)


@router.case
def _stepwise(environ, start_response):
    """Stands still before the first piece, after an empty one, and between pieces."""
    name = token(environ)
    start_response("200 OK", [*PLAIN, ("X-Accel-Buffering", "no")])
    record(name, "started")
    yield b""
    record(name, "after the empty piece")
    wait_gate(name + "-1")
    yield b"first"
    wait_gate(name + "-2")
    yield b"second"


@router.case
def _endless(environ, start_response):
    """Streams until its client is gone; records how it ended."""
    name = token(environ)
    start_response("200 OK", list(PLAIN))

    def stream():
        while True:
            yield b"e" * 10_000

    return Closing(name, stream())


@router.case
def _late_endless(environ, start_response):
    """The same by a generator, whose close() raises GeneratorExit inside it."""
    name = token(environ)
    start_response("200 OK", list(PLAIN))

    def stream():
        try:
            while True:
                yield b"e" * 10_000
        finally:
            record(name, "generator closed")

    return stream()
