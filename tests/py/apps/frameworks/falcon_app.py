"""The common routes, in Falcon."""

import hashlib

import falcon


class Hello:
    def on_get(self, request, response, name):
        response.text = f"Hello {name}, {request.get_param('greeting') or ''}"


class Form:
    def on_post(self, request, response):
        fields = request.get_media()
        response.media = sorted(
            (key, value if isinstance(value, list) else [value]) for key, value in fields.items()
        )


class Json:
    def on_post(self, request, response):
        response.media = {"received": request.get_media()}


class Upload:
    def on_post(self, request, response):
        told = {}
        for part in request.get_media():
            if part.name == "file":
                data = part.stream.read()
                told["filename"] = part.filename
                told["size"] = len(data)
                told["sha256"] = hashlib.sha256(data).hexdigest()
            else:
                told["text"] = part.text
        response.media = told


class Raw:
    def on_post(self, request, response):
        response.media = {"size": len(request.bounded_stream.read())}


class Stream:
    def on_get(self, request, response):
        response.content_type = "text/plain"
        response.stream = (f"line {number}\n".encode() for number in range(1000))


class File:
    def on_get(self, request, response):
        response.content_type = "text/plain"
        response.stream = open(__file__, "rb")


class Redirect:
    def on_get(self, request, response):
        raise falcon.HTTPFound("/hello/again")


class Login:
    def on_get(self, request, response):
        response.set_cookie("user", "alice", secure=False)
        response.text = "in"


class WhoAmI:
    def on_get(self, request, response):
        response.text = (request.get_cookie_values("user") or ["nobody"])[0]


class Missing:
    def on_get(self, request, response):
        raise falcon.HTTPNotFound()


class Error:
    def on_get(self, request, response):
        raise RuntimeError("an error in falcon")


class Nothing:
    def on_get(self, request, response):
        response.status = falcon.HTTP_204


app = application = falcon.App()
for path, resource in {
    "/hello/{name}": Hello(),
    "/form": Form(),
    "/json": Json(),
    "/upload": Upload(),
    "/raw": Raw(),
    "/stream": Stream(),
    "/file": File(),
    "/redirect": Redirect(),
    "/login": Login(),
    "/whoami": WhoAmI(),
    "/missing": Missing(),
    "/error": Error(),
    "/nothing": Nothing(),
}.items():
    app.add_route(path, resource)
