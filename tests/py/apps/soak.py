"""Answers with what it was sent, in the way that the query asks for; `X-Tag` comes back, so that a
client sees that an answer is its own."""

import time
from urllib.parse import parse_qs


def application(environ, start_response):
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    time.sleep(float(query.get("sleep", 0)))
    source = environ["wsgi.input"]
    if query.get("read") == "nothing":
        body = b"unread"
    elif query.get("read") == "some":
        body = source.read(100)
    else:
        body = source.read()
    body *= int(query.get("times", 1))
    headers = [("X-Tag", environ.get("HTTP_X_TAG", ""))]
    if query.get("framing") != "chunked":
        headers.append(("Content-Length", str(len(body))))
    start_response("200 OK", headers)
    if query.get("framing") == "chunked":
        return [body[at : at + 7000] for at in range(0, len(body), 7000)]
    return [body]
