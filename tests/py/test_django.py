"""Django as deployed: its admin with login and a form of its own, static files, a form under CSRF
protection, uploads in memory and by file, a streaming response, sqlite. On every front.
"""

import hashlib
import json
import os
import re
import subprocess

import pytest

from harness import forms, fronts
from harness.server import APPS

PROJECT = APPS / "django_project"
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


@pytest.fixture(scope="module")
def stack(interpreter, tmp_path_factory):
    """The project with a fresh database and an administrator."""
    env = {"DJANGO_DATA": str(tmp_path_factory.mktemp("django"))}
    env["DJANGO_SUPERUSER_PASSWORD"] = "secret"
    make = ["createsuperuser", "--noinput", "--username", "admin", "--email", "a@example.org"]
    for command in (["migrate", "--verbosity", "0"], make):
        subprocess.run(
            [interpreter, PROJECT / "manage.py", *command],
            env={**os.environ, **env},
            check=True,
            timeout=60,
        )
    stack = fronts.Stack(
        "site_of_tests.wsgi", python=interpreter, workers=2, pythonpath=PROJECT, env=env
    ).start()
    yield stack
    stack.stop()


class Browser:
    """Keeps cookies over the requests of one connection."""

    def __init__(self, client):
        self.client = client
        self.cookies = {}

    def request(self, method, path, headers=(), body=None):
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        extra = [("Cookie", jar)] if jar else []
        response = self.client.request(method, path, [*headers, *extra], body)
        for value in response.values("Set-Cookie"):
            name, _, rest = value.partition("=")
            self.cookies[name] = rest.partition(";")[0]
        return response

    def post_form(self, path, fields, files=None):
        """Gets the form at `path`, fills it in and sends it, its CSRF token included."""
        page = self.request("GET", path)
        assert page.status == 200, page
        fields = {"csrfmiddlewaretoken": TOKEN.search(page.text).group(1), **fields}
        if files is None:
            headers, body = forms.urlencoded(fields)
        else:
            headers, body = forms.multipart(fields, files)
        return self.request("POST", path, headers, body)


@pytest.fixture
def browser(front):
    with front.connect(30) as client:
        yield Browser(client)


def test_path_and_query_in_unicode(browser):
    response = browser.request("GET", "/hello/J%C3%BCrgen/?greeting=%E2%82%AC")
    assert response.text == "Hello J\u00fcrgen, \u20ac"


def test_redirect_to_the_slash(browser):
    response = browser.request("GET", "/notes")
    assert (response.status, response.header("Location")) == (301, "/notes/")


def test_form_under_csrf_protection(browser):
    text = "\u20ac & <b>"
    response = browser.post_form("/form/", {"text": text})
    assert response.status == 200
    assert "\u20ac &amp; &lt;b&gt;" in response.text
    assert text in json.loads(browser.request("GET", "/notes/").text)["notes"]


def test_form_without_its_token_is_refused(browser):
    headers, body = forms.urlencoded({"text": "forged"})
    assert browser.request("POST", "/form/", headers, body).status == 403
    assert "forged" not in json.loads(browser.request("GET", "/notes/").text)["notes"]


@pytest.mark.parametrize(
    "size, kind", [(1000, "InMemoryUploadedFile"), (5_000_000, "TemporaryUploadedFile")]
)
def test_upload_and_download(browser, size, kind):
    data = os.urandom(1000) * (size // 1000)
    headers, body = forms.multipart({"text": "uploaded"}, {"file": ("a name.bin", data)})
    told = json.loads(browser.request("POST", "/upload/", headers, body).text)
    assert (told["size"], told["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    assert kind in told["in"]
    assert browser.request("GET", "/media/" + told["name"]).body == data


def test_streaming_response(browser):
    for _ in range(2):
        response = browser.request("GET", "/stream/")
        assert response.text == "".join(f"line {number}\n" for number in range(5000))


def test_static_files(browser):
    assert browser.request("GET", "/static/words.txt").text == "words of a static file\n"
    style = browser.request("GET", "/static/admin/css/base.css")
    assert style.status == 200 and len(style.body) == int(style.header("Content-Length"))
    cached = [("If-Modified-Since", style.header("Last-Modified"))]
    assert browser.request("GET", "/static/admin/css/base.css", cached).status == 304
    assert browser.request("GET", "/static/missing.css").status == 404


def test_head(browser):
    assert browser.request("HEAD", "/static/words.txt").status == 200
    assert browser.request("HEAD", "/stream/").status == 200
    assert browser.request("GET", "/hello/x/").text == "Hello x, "


def test_admin(browser):
    assert browser.request("GET", "/admin/").status == 302
    login = "/admin/login/?next=/admin/"
    assert browser.post_form(login, {"username": "admin", "password": "wrong"}).status == 200
    done = browser.post_form(login, {"username": "admin", "password": "secret"})
    assert (done.status, done.header("Location")) == (302, "/admin/")
    assert "Site administration" in browser.request("GET", "/admin/").text
    text = "note " + os.urandom(4).hex()
    add = "/admin/site_of_tests/note/add/"
    done = browser.post_form(add, {"text": text}, {"file": ("f.txt", b"content of a file")})
    assert done.status == 302
    listed = browser.request("GET", "/admin/site_of_tests/note/")
    assert text in listed.text
    assert text in json.loads(browser.request("GET", "/notes/").text)["notes"]


def test_error_gives_djangos_500_and_a_traceback(browser, stack):
    mark = stack.server.log.mark()
    response = browser.request("GET", "/error/")
    assert response.status == 500
    stack.server.log.wait_for("RuntimeError: an error in django", 5, since=mark)
    assert browser.request("GET", "/hello/x/").text == "Hello x, "


@pytest.mark.fronts("direct-http-tcp")
def test_wrong_host_is_djangos_to_refuse(front):
    assert front.request("GET", "/hello/x/", host="evil.example").status == 400
