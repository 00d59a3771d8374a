"""Reads the golden cases of tests/data (format: tests/data/README.md). Purpose: the same cases that
the codecs' unit tests read are sent to the real server.
"""

import re
from dataclasses import dataclass

from .server import REPOSITORY

ESCAPE = re.compile(r"\\(?:\*(\d+)\{([^}]*)\}|x([0-9a-fA-F]{2})|([rnt\\]))")
PLAIN = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


@dataclass(frozen=True)
class Case:
    """What a client sends, the answers in order, and the first request's body, if stated."""

    name: str
    sent: bytes
    expected: tuple
    body: bytes


def unescape(text):
    """The bytes that a TEXT of the format stands for."""
    out = b""
    at = 0
    for found in ESCAPE.finditer(text):
        out += text[at : found.start()].encode()
        count, repeated, code, plain = found.groups()
        if count is not None:
            out += unescape(repeated) * int(count)
        else:
            out += bytes([int(code, 16)]) if code else PLAIN[plain]
        at = found.end()
    rest = text[at:]
    assert "\\" not in rest, f"unknown escape in {text!r}"
    return out + rest.encode()


def cases(folder):
    """All cases of a folder of tests/data, by file and order."""
    found = []
    for path in sorted((REPOSITORY / "tests" / "data" / folder).glob("*.txt")):
        found += _read(path.read_text("utf-8"))
    names = [case.name for case in found]
    assert len(names) == len(set(names)), "names of golden cases are unique"
    return found


def _read(text):
    found = []
    fields = None
    for line in [*text.split("\n"), "# end"]:
        if not line or line.startswith(";"):
            continue
        if line.startswith("# "):
            if fields is not None:
                found.append(Case(**fields))
            fields = {"name": line[2:], "sent": b"", "expected": (), "body": None}
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "bytes":
            fields["sent"] += unescape(value)
        elif key == "expect":
            fields["expected"] = tuple(value.split())
        elif key == "body":
            fields["body"] = unescape(value)
        else:
            raise AssertionError(f"unknown line in a golden file: {line!r}")
    return found
