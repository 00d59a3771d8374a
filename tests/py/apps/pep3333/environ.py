"""Cases about the environ: they report what the application was given."""

import os
import re
import threading
from wsgiref.validate import validator

from shared import answer

from . import router


@router.case
def _environ(environ, start_response):
    """Everything of the environ that JSON can carry, and the types of the rest."""
    plain = {key: value for key, value in environ.items() if type(value) is str}
    types = {key: type(value).__name__ for key, value in environ.items()}
    return answer(start_response, {"plain": plain, "types": types})


@router.case
def _environ_object(environ, start_response):
    """The facts about the dict itself and its wsgi.* values."""
    facts = {
        "exact dict": type(environ) is dict,
        "version": list(environ["wsgi.version"]),
        "version type": type(environ["wsgi.version"]).__name__,
        "url_scheme": environ["wsgi.url_scheme"],
        "multithread": environ["wsgi.multithread"],
        "multiprocess": environ["wsgi.multiprocess"],
        "run_once": environ["wsgi.run_once"],
        "input_terminated": environ.get("wsgi.input_terminated"),
        "file_wrapper callable": callable(environ.get("wsgi.file_wrapper")),
        "leftover": environ.get("test.leftover"),
        "wide": [
            key
            for key, value in environ.items()
            if type(value) is str and any(ord(letter) > 255 for letter in key + value)
        ],
        "own keys": [
            key
            for key in environ
            if not re.fullmatch("[A-Z0-9_!#$%&'*+.^`|~-]+", key)
            and not re.fullmatch(r"(wsgi|ringhorn)\.[a-z0-9_.]+", key)
        ],
        "from the process": sorted(set(os.environ) & set(environ) - {"SERVER_SOFTWARE"}),
    }
    environ["test.leftover"] = "a value that no later request may see"
    environ["wsgi.version"] = (9, 9)
    environ.pop("SERVER_NAME")
    return answer(start_response, facts)


@router.case
def _threads(environ, start_response):
    """Which thread and process serve."""
    return answer(
        start_response,
        {
            "pid": os.getpid(),
            "main": threading.current_thread() is threading.main_thread(),
            "thread": threading.current_thread().name,
        },
    )


def _validated(environ, start_response):
    """Reads the whole input, then answers what the query string asks for."""
    length = environ.get("CONTENT_LENGTH")
    body = environ["wsgi.input"].read(int(length)) if length else b""
    environ["wsgi.errors"].write("validated\n")
    environ["wsgi.errors"].flush()
    status = environ.get("QUERY_STRING") or "200"
    headers = [] if status in ("204", "304") else [("Content-Type", "text/plain")]
    start_response(f"{status} As Asked", headers)
    if environ["REQUEST_METHOD"] == "HEAD" or status in ("204", "304"):
        return iter([])
    return iter([b"read ", str(len(body)).encode()])


router.cases["validated"] = validator(_validated)
router.cases["*"] = router.cases[""] = validator(_validated)
