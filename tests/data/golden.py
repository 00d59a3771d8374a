"""Reader of the golden cases in this folder, for Python tests; `README.md` has the format.

    for case in golden.read("http1"):
        case.name, case.bytes, case.expect, case.body
"""

import dataclasses
import pathlib
import re

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|\*(\d+)\{([^}]*)\}|([rnt\\]))|\\")
_PLAIN = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


@dataclasses.dataclass
class Case:
    """Bytes a client sends, and the answers (`200`, `400`, `close`, `partial`, `pong`) they get."""

    name: str
    bytes: bytes = b""
    expect: list = dataclasses.field(default_factory=list)
    body: "bytes | None" = None


def read(folder):
    """All cases of `<folder>/*.txt` beside this file, by file name and then in file order."""
    cases = []
    for path in sorted((pathlib.Path(__file__).parent / folder).glob("*.txt")):
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            place = f"{path}:{number}"
            if not line or line.startswith(";"):
                continue
            if line.startswith("# "):
                cases.append(Case(line[2:]))
                continue
            key, colon, text = line.partition(": ")
            if not cases or not colon:
                raise ValueError(f"{place}: neither `# name` nor `key: text` of a case")
            if key == "bytes":
                cases[-1].bytes += unescape(text, place)
            elif key == "expect":
                cases[-1].expect = text.split(" ")
            elif key == "body":
                cases[-1].body = unescape(text, place)
            else:
                raise ValueError(f"{place}: unknown key {key!r}")
    names = [case.name for case in cases]
    if len(set(names)) != len(names) or not all(case.expect for case in cases):
        raise ValueError(f"{folder}: a name twice, or a case that expects nothing")
    return cases


def unescape(text, place="text"):
    """The bytes that `text` stands for."""
    out, end = b"", 0
    for found in _ESCAPE.finditer(text):
        out += text[end : found.start()].encode()
        end = found.end()
        digits, count, repeated, plain = found.groups()
        if digits:
            out += bytes.fromhex(digits)
        elif count:
            out += unescape(repeated, place) * int(count)
        elif plain:
            out += _PLAIN[plain]
        else:
            raise ValueError(f"{place}: unknown escape at {text[found.start():][:8]!r}")
    return out + text[end:].encode()
