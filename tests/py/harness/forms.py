"""Bodies that browsers send: urlencoded forms and multipart uploads."""

import secrets
import urllib.parse


def urlencoded(fields):
    """Headers and body of a form."""
    body = urllib.parse.urlencode(fields).encode()
    return [("Content-Type", "application/x-www-form-urlencoded")], body


def multipart(fields, files):
    """Headers and body of an upload: `files` maps a field to (file name, bytes)."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, value in fields.items():
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
    for name, (filename, data) in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        parts.append(head.encode() + data)
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)
    body += b"--%s--\r\n" % boundary.encode()
    return [("Content-Type", f"multipart/form-data; boundary={boundary}")], body


def cookies(response):
    """The Cookie header that answers a response's Set-Cookie fields."""
    pairs = [value.partition(";")[0] for value in response.values("Set-Cookie")]
    return [("Cookie", "; ".join(pairs))]
