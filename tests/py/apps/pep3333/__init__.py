"""The application behind the PEP 3333 tests: one small WSGI application a case, chosen by path."""

from shared import Router

router = application = Router()

from . import environ, errors, files, framing, iteration, reading, responses  # noqa: E402, F401
