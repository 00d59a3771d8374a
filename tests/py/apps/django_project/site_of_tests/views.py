"""The project's views."""

import hashlib

from django.conf import settings
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt

from .models import Note


def hello(request, name):
    return HttpResponse(f"Hello {name}, {request.GET.get('greeting', '')}")


def form(request):
    """A form that CSRF guards; what is said is kept as a note."""
    said = request.POST.get("text", "")
    if said:
        Note.objects.create(text=said)
    return render(request, "form.html", {"said": said})


@csrf_exempt
def upload(request):
    """An upload, in memory or in a temporary file by its size; kept as a note."""
    file = request.FILES["file"]
    found = hashlib.sha256()
    for piece in file.chunks():
        found.update(piece)
    note = Note.objects.create(text=request.POST["text"], file=file)
    return JsonResponse(
        {
            "size": file.size,
            "sha256": found.hexdigest(),
            "name": note.file.name,
            "in": str(type(file)),
        }
    )


def stream(request):
    return StreamingHttpResponse(f"line {number}\n" for number in range(5000))


def notes(request):
    return JsonResponse({"notes": list(Note.objects.order_by("id").values_list("text", flat=True))})


def media(request, name):
    return FileResponse(open(settings.MEDIA_ROOT / name, "rb"))


def error(request):
    raise RuntimeError("an error in django")
