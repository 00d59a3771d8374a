"""The common routes, in Pyramid."""

import hashlib

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.response import FileResponse, Response
from pyramid.session import JSONSerializer, SignedCookieSessionFactory


def hello(request):
    return Response(f"Hello {request.matchdict['name']}, {request.GET.get('greeting', '')}")


def form(request):
    return sorted((key, request.POST.getall(key)) for key in set(request.POST))


def json_body(request):
    return {"received": request.json_body}


def upload(request):
    file = request.POST["file"]
    data = file.file.read()
    return {
        "filename": file.filename,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "text": request.POST["text"],
    }


def raw(request):
    return {"size": len(request.body_file.read())}


def stream(request):
    lines = (f"line {number}\n".encode() for number in range(1000))
    return Response(app_iter=lines, content_type="text/plain")


def file(request):
    return FileResponse(__file__, request=request, content_type="text/plain")


def moved(request):
    return HTTPFound("/hello/again")


def login(request):
    request.session["user"] = "alice"
    return Response("in")


def whoami(request):
    return Response(request.session.get("user", "nobody"))


def missing(request):
    return HTTPNotFound()


def error(request):
    raise RuntimeError("an error in pyramid")


def nothing(request):
    return Response(status=204)


VIEWS = {
    "/hello/{name}": hello,
    "/form": form,
    "/json": json_body,
    "/upload": upload,
    "/raw": raw,
    "/stream": stream,
    "/file": file,
    "/redirect": moved,
    "/login": login,
    "/whoami": whoami,
    "/missing": missing,
    "/error": error,
    "/nothing": nothing,
}
POST_VIEWS = (form, json_body, upload, raw)


def make_application():
    sessions = SignedCookieSessionFactory("only for tests", serializer=JSONSerializer())
    config = Configurator(session_factory=sessions)
    for path, view in VIEWS.items():
        name = path.strip("/").partition("/")[0]
        config.add_route(name, path)
        if view in POST_VIEWS:
            config.add_view(view, route_name=name, renderer="json", request_method="POST")
        else:
            config.add_view(view, route_name=name, request_method=("GET", "HEAD"))
    return config.make_wsgi_app()


application = make_application()
