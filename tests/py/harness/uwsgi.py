"""Encoder of the uwsgi protocol, written from its specification: modifier1, size (u16 little
endian), modifier2, then u16-length-prefixed keys and values; the body follows unframed. Purpose: to
send packets that no web server would, as well as those that nginx does.
"""

import struct


def packet(variables, modifier1=0, modifier2=0, size=None):
    """One packet. `variables` is a dict or a list of pairs; `size` overrides the stated length."""
    pairs = variables.items() if isinstance(variables, dict) else variables
    block = b"".join(field(name) + field(value) for name, value in pairs)
    stated = len(block) if size is None else size
    return struct.pack("<BHB", modifier1, stated, modifier2) + block


def field(text):
    """One length-prefixed string; `str` is sent as latin-1."""
    data = text.encode("latin-1") if isinstance(text, str) else text
    return struct.pack("<H", len(data)) + data


def variables(method="GET", path="/", query="", body=None, headers=(), **extra):
    """The variables as nginx's `uwsgi_params` gives them, then `headers` as HTTP_*."""
    uri = path + ("?" + query if query else "")
    pairs = [
        ("QUERY_STRING", query),
        ("REQUEST_METHOD", method),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", "" if body is None else str(len(body))),
        ("REQUEST_URI", uri),
        ("PATH_INFO", path),
        ("DOCUMENT_ROOT", "/nowhere"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("REMOTE_ADDR", "192.0.2.7"),
        ("REMOTE_PORT", "40000"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "front.example"),
        ("HTTP_HOST", "front.example"),
    ]
    pairs = [(name, extra.pop(name, value)) for name, value in pairs]
    pairs += list(extra.items())
    pairs += [("HTTP_" + name.upper().replace("-", "_"), value) for name, value in headers]
    return pairs


def request(path="/", body=None, modifier1=0, **rest):
    """A whole request: packet and body."""
    return packet(variables(path=path, body=body, **rest), modifier1) + (body or b"")
