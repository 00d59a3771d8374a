"""A Flask application: a page, JSON in and out, and an upload that is read as a stream.

pip install flask
ringhorn --chdir examples/flask app
curl --data-binary @some-file http://127.0.0.1:8000/checksum
"""

import hashlib

from flask import Flask, jsonify, request, url_for

app = Flask(__name__)


@app.get("/")
def index():
    """Shows where the other routes are, with the scheme and host that the client used."""
    return f'<p>Send a file to <a href="{url_for("checksum", _external=True)}">/checksum</a>.</p>'


@app.post("/checksum")
def checksum():
    """Reads the body in pieces: a file of any size takes the same memory."""
    digest = hashlib.sha256()
    size = 0
    while piece := request.stream.read(64 * 1024):
        digest.update(piece)
        size += len(piece)
    return jsonify(sha256=digest.hexdigest(), bytes=size)


@app.post("/echo")
def echo():
    """Answers with the JSON that came in."""
    return jsonify(request.get_json())
