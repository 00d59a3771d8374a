"""The common routes, in Flask."""

import hashlib

from flask import Flask, Response, abort, jsonify, redirect, request, send_file, session

app = application = Flask(__name__)
app.secret_key = "only for tests"


@app.get("/hello/<name>")
def hello(name):
    return f"Hello {name}, {request.args.get('greeting', '')}"


@app.post("/form")
def form():
    return jsonify(sorted((key, request.form.getlist(key)) for key in request.form))


@app.post("/json")
def json_body():
    return jsonify(received=request.get_json())


@app.post("/upload")
def upload():
    file = request.files["file"]
    data = file.read()
    return jsonify(
        filename=file.filename,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        text=request.form["text"],
    )


@app.post("/raw")
def raw():
    return jsonify(size=len(request.stream.read()))


@app.get("/stream")
def stream():
    return Response((f"line {number}\n" for number in range(1000)), mimetype="text/plain")


@app.get("/file")
def file():
    return send_file(__file__, mimetype="text/plain", conditional=False)


@app.get("/redirect")
def moved():
    return redirect("/hello/again", 302)


@app.get("/login")
def login():
    session["user"] = "alice"
    return "in"


@app.get("/whoami")
def whoami():
    return session.get("user", "nobody")


@app.get("/missing")
def missing():
    abort(404)


@app.get("/error")
def error():
    raise RuntimeError("an error in flask")


@app.get("/nothing")
def nothing():
    return "", 204
