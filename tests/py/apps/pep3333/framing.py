"""Cases about Content-Length: pieces that keep to it, and pieces that do not."""

from shared import query, record, token

from . import router


@router.case
def _length(environ, start_response):
    """States `stated` bytes and gives `given` in pieces of `piece`, counting the pieces taken."""
    parameters = {name: value for name, value in query(environ).items() if name != "token"}
    stated, given, piece = (int(parameters[name]) for name in ("stated", "given", "piece"))
    name = token(environ)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(stated))])
    taken = 0
    try:
        for start in range(0, given, piece):
            taken += 1
            yield b"x" * min(piece, given - start)
    finally:
        record(name, {"taken": taken})


@router.case
def _length_list(environ, start_response):
    """The same as a list of one piece."""
    parameters = query(environ)
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", parameters["stated"])]
    )
    return [b"x" * int(parameters["given"])]


@router.case
def _numbered(environ, start_response):
    """Answers the request's own number: tells whether answers are mixed up."""
    body = environ["QUERY_STRING"].encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Number", body.decode())])
    return [body]
