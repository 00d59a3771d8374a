"""The smallest WSGI application: what `make serve` serves.

ringhorn --chdir examples/hello hello:application
"""

BODY = b"Hello from Ringhorn\n"


def application(environ, start_response):
    """Answers every request with the same text."""
    start_response(
        "200 OK",
        [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(BODY)))],
    )
    return [BODY]
