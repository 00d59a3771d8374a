"""`--warm-up`: what a worker asks itself before it is ready, and what a bad answer costs."""

import json
import os
import signal

import pytest
from harness.server import Server

APPLICATION = "warmed:application"


def asked(server):
    return json.loads(server.request("GET", "/asked").body)


def warm(*targets):
    return [part for target in targets for part in ("--warm-up", target)]


def test_every_worker_asks_for_every_path_in_order_before_it_is_ready(interpreter):
    with Server(
        APPLICATION, python=interpreter, options=warm("/first", "/second?a=b"), workers=1
    ) as server:
        first = asked(server)
        assert [facts["PATH_INFO"] for facts in first["asked"]] == ["/first", "/second"]
        assert first["closed"] == 2
        os.kill(first["pid"], signal.SIGKILL)
        server.wait_workers(1, without=[first["pid"]])
        second = asked(server)
        assert second["pid"] != first["pid"]
        assert [facts["PATH_INFO"] for facts in second["asked"]] == ["/first", "/second"]


def test_environ_is_as_complete_as_that_of_a_request(interpreter):
    with Server(APPLICATION, python=interpreter, options=warm("/a%20b/%C3%A9?q=%41")) as server:
        server.request("GET", "/real", body=b"")
        warmed, real = asked(server)["asked"]
        port = str(server.address.port)
    assert set(real) - set(warmed) <= {"REMOTE_PORT", "CONTENT_LENGTH"}
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/\u00c3\u00a9",
        "QUERY_STRING": "q=%41",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": f"127.0.0.1:{port}",
        "HTTP_USER_AGENT": "ringhorn-warm-up",
        "wsgi.url_scheme": "http",
        "input": "",
        "thread": "MainThread",
        "wrapper": True,
    }
    assert {name: warmed[name] for name in expected} == expected
    for name in ("SERVER_SOFTWARE", "wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"):
        assert warmed[name] == real[name]


def test_a_url_sets_host_and_scheme(interpreter):
    with Server(
        APPLICATION, python=interpreter, options=warm("https://shop.example/x?y")
    ) as server:
        (facts,) = asked(server)["asked"]
    assert facts["HTTP_HOST"] == "shop.example"
    assert facts["wsgi.url_scheme"] == "https"
    assert (facts["PATH_INFO"], facts["QUERY_STRING"]) == ("/x", "y")


def test_on_a_unix_socket_the_name_is_localhost(interpreter, tmp_path):
    binds = (f"http://unix:{tmp_path}/s",)
    with Server(APPLICATION, python=interpreter, binds=binds, options=warm("/")) as server:
        (facts,) = asked(server)["asked"]
    assert (facts["SERVER_NAME"], facts["SERVER_PORT"]) == ("localhost", "80")
    assert facts["HTTP_HOST"] == "localhost"


BAD = {
    "/raise": ("raised LookupError", "in application"),
    "/raise-late": ("raised ZeroDivisionError", "in <genexpr>"),
    "/silent": ("raised RuntimeError", "the body came before start_response"),
    "/text": ("raised TypeError", "the body is str, not bytes"),
    "/busy": ("was answered 503 Service Unavailable", "choose another --warm-up"),
}


@pytest.mark.parametrize("path", BAD)
def test_a_bad_answer_is_as_an_application_that_cannot_be_imported(interpreter, path):
    verdict, more = BAD[path]
    server = Server(APPLICATION, python=interpreter, options=warm(path)).launch()
    assert server.wait() == 3
    text = server.log.text
    assert f"the warm-up request GET {path} {verdict}" in text
    assert more in text
    assert "hint: " in text


def test_a_release_that_fails_its_warm_up_does_not_replace_the_old_one(interpreter, tmp_path):
    (tmp_path / "release.py").write_text("from warmed import application\n")
    options = (*warm("/raise-if-new"), "--chdir", tmp_path)
    with Server("release:application", python=interpreter, options=options) as server:
        before = asked(server)["pid"]
        (tmp_path / "release.py").write_text("import warmed\nfrom warmed import *\nwarmed.new()\n")
        server.signal(signal.SIGHUP)
        server.log.wait_for("reload failed: .*GET /raise-if-new raised LookupError")
        assert asked(server)["pid"] == before


def test_an_answer_of_4xx_is_warned_of(interpreter):
    with Server(APPLICATION, python=interpreter, options=warm("/gone")) as server:
        assert "the warm-up request GET /gone was answered 404 Not Found" in server.log.text
        assert len(asked(server)["asked"]) == 1


def test_check_asks_for_nothing(interpreter):
    options = (*warm("/raise"), "--check")
    server = Server(APPLICATION, python=interpreter, options=options).launch()
    assert server.wait() == 0


@pytest.mark.parametrize("target", ["x", "ftp://host/", "/a b", "http:///x"])
def test_what_is_no_path_is_refused(interpreter, target):
    server = Server(APPLICATION, python=interpreter, options=warm(target)).launch()
    assert server.wait() == 2
    assert f"--warm-up cannot be `{target}`" in server.log.text


def test_django_is_warm_behind_its_allowed_hosts(interpreter, tmp_path):
    """A path alone is asked for with the listener's name as host, which ALLOWED_HOSTS may refuse;
    a URL names one that is allowed."""
    (tmp_path / "guarded.py").write_text(
        "import django.conf, django.http, django.urls, django.core.wsgi, sys\n"
        "django.conf.settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=['shop.example'],\n"
        "    SECRET_KEY='x')\n"
        "def hello(request):\n"
        "    print('asked as', request.get_host(), file=sys.stderr)\n"
        "    return django.http.HttpResponse('hello')\n"
        "urlpatterns = [django.urls.path('', hello)]\n"
        "application = django.core.wsgi.get_wsgi_application()\n"
    )
    options = (*warm("/"), *warm("http://shop.example/"), "--chdir", tmp_path)
    with Server("guarded", python=interpreter, options=options) as server:
        assert "GET / was answered 400 Bad Request" in server.log.text
        assert "asked as shop.example" in server.log.text
