"""What the papers tell users to start does start: the examples and the nginx configurations."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.server import Server

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = sorted((ROOT / "tuning/nginx").glob("*.conf"))


def example(name, application, interpreter):
    """A server of one example, as examples/README.md starts it."""
    return Server(
        application,
        python=interpreter,
        pythonpath=None,
        options=["--chdir", ROOT / "examples" / name],
    )


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda path: path.stem)
def test_nginx_accepts_the_configuration(configuration, tmp_path):
    text = configuration.read_text()
    # The folder of nginx's own files depends on the distribution; the port needs privileges.
    parameters = tmp_path / "uwsgi_params"
    parameters.write_text("uwsgi_param REQUEST_METHOD $request_method;\n")
    text = text.replace("include uwsgi_params;", f"include {parameters};")
    text = text.replace("listen 80;", "listen 127.0.0.1:8099;")
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{text}\n}}\n")
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    assert nginx, "the tests need nginx"
    result = subprocess.run(
        [nginx, "-t", "-p", tmp_path, "-e", "stderr", "-c", main], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "[warn]" not in result.stderr.replace('the "user" directive', "")


def test_configurations_were_found():
    assert [path.name for path in CONFIGURATIONS] == ["proxy_pass.conf", "uwsgi_pass.conf"]


def test_hello(interpreter):
    with example("hello", "hello", interpreter) as server:
        response = server.request("GET", "/")
        assert (response.status, response.body) == (200, b"Hello from Ringhorn\n")


def test_flask(interpreter):
    body = bytes(range(256)) * 8192
    with example("flask", "app", interpreter) as server:
        page = server.request("GET", "/", host="example.org")
        assert "http://example.org/checksum" in page.text
        answer = json.loads(server.request("POST", "/checksum", body=body).body)
        assert answer == {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
        headers = [("Content-Type", "application/json")]
        echo = server.request("POST", "/echo", headers, body=b'{"a": [1, "\xc3\xa9"]}')
        assert json.loads(echo.body) == {"a": [1, "\u00e9"]}


def test_django(interpreter):
    content = b"0123456789" * 100_000
    with example("django", "project.wsgi", interpreter) as server:
        page = server.request("GET", "/")
        cookie = page.header("Set-Cookie").partition(";")[0]
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text).group(1)
        body = (
            b'--frontier\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n'
            + token.encode()
            + b'\r\n--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
            + b"Content-Type: text/plain\r\n\r\n"
            + content
            + b"\r\n--frontier--\r\n"
        )
        form = [("Content-Type", "multipart/form-data; boundary=frontier")]
        refused = server.request("POST", "/", form, body=body)
        assert refused.status == 403, "without the cookie"
        answer = server.request("POST", "/", [*form, ("Cookie", cookie)], body=body)
        assert answer.status == 200
        assert f"a.txt: {len(content)} bytes" in answer.text
        assert hashlib.sha256(content).hexdigest() in answer.text
