"""Reads its whole input and answers 200 with it: what the golden cases expect of an application."""


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response(
        "200 OK",
        [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))],
    )
    return [body]
