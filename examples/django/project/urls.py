"""The example's one route and its view."""

import hashlib

from django.shortcuts import render
from django.urls import path


def index(request):
    """Shows the form, and the checksum of the file that came with it."""
    file = request.FILES.get("file")
    digest = hashlib.sha256()
    for piece in file.chunks() if file else ():
        digest.update(piece)
    return render(request, "index.html", {"file": file, "checksum": digest.hexdigest()})


urlpatterns = [path("", index)]
