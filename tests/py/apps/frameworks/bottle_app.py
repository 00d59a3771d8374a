"""The common routes, in Bottle."""

import hashlib
from pathlib import Path

import bottle
from bottle import request, response

app = application = bottle.Bottle()
SECRET = "only for tests"
bottle.BaseRequest.MEMFILE_MAX = 4 << 20


@app.get("/hello/<name>")
def hello(name):
    return f"Hello {name}, {request.query.getunicode('greeting') or ''}"


@app.post("/form")
def form():
    fields = request.forms.decode()
    response.content_type = "application/json"
    return bottle.json_dumps(sorted((key, fields.getall(key)) for key in set(fields)))


@app.post("/json")
def json_body():
    return {"received": request.json}


@app.post("/upload")
def upload():
    file = request.files["file"]
    data = file.file.read()
    return {
        "filename": file.raw_filename,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "text": request.forms.getunicode("text"),
    }


@app.post("/raw")
def raw():
    return {"size": len(request.body.read())}


@app.get("/stream")
def stream():
    response.content_type = "text/plain"
    for number in range(1000):
        yield f"line {number}\n"


@app.get("/file")
def file():
    path = Path(__file__)
    return bottle.static_file(path.name, root=path.parent, mimetype="text/plain")


@app.get("/redirect")
def moved():
    bottle.redirect("/hello/again", 302)


@app.get("/login")
def login():
    response.set_cookie("user", "alice", secret=SECRET)
    return "in"


@app.get("/whoami")
def whoami():
    return request.get_cookie("user", "nobody", secret=SECRET)


@app.get("/missing")
def missing():
    bottle.abort(404)


@app.get("/error")
def error():
    raise RuntimeError("an error in bottle")


@app.get("/nothing")
def nothing():
    response.status = 204
    return ""
