"""The project's routes."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve as serve_static
from django.urls import path, re_path

from . import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("form/", views.form),
    path("upload/", views.upload),
    path("stream/", views.stream),
    path("notes/", views.notes),
    path("media/<path:name>", views.media),
    path("hello/<str:name>/", views.hello),
    path("error/", views.error),
    # DEBUG is off, as deployed; the finder serves the files of the admin and our own.
    re_path(r"^static/(?P<path>.*)$", serve_static, {"insecure": True}),
]
