"""The smallest application, and the attribute names the loader looks for."""


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, World!\n"]


def factory():
    """For `hello:factory()`."""
    return application
