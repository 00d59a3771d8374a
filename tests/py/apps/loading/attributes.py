"""Attributes of every kind for the loader to find; `application` is missing on purpose."""


def say(what):
    """An application that answers one word."""

    def callable_(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [what]

    return callable_


app = say(b"app")
other = say(b"other")
not_callable = 7


def factory():
    """For `attributes:factory()`."""
    return say(b"factory")


class holder:
    """For a dotted attribute."""

    inner = say(b"inner")
