"""The ways a request reaches the application: directly over TCP or Unix, or through nginx by
`uwsgi_pass` and `proxy_pass`. Purpose: `Stack` is one server with four listeners and, once a test
asks for it, one nginx; `Front` is one way through it.
"""

import json
import secrets
import shutil
import tempfile
from dataclasses import dataclass

from .address import Address
from .client import Client
from .nginx import Nginx
from .server import Server

DIRECT = ("direct-http-tcp", "direct-http-unix")
PROXIED = ("nginx-proxy-unix", "nginx-proxy-tcp")
UWSGI = ("nginx-uwsgi-unix", "nginx-uwsgi-tcp")
GROUPS = {
    "all": DIRECT + UWSGI + PROXIED[:1],
    "direct": DIRECT,
    "proxied": PROXIED,
    "uwsgi": UWSGI,
    "http": DIRECT + PROXIED[:1],
    "nginx": UWSGI + PROXIED,
}


def names(selection):
    """The names of fronts that a selection of names and groups means, in order, once each."""
    found = []
    for item in selection:
        found += [name for name in GROUPS.get(item, (item,)) if name not in found]
    return found


@dataclass(frozen=True)
class Front:
    """One way to the application, and the stack it leads to."""

    name: str
    address: Address
    stack: "Stack"

    @property
    def is_direct(self):
        return self.name in DIRECT

    @property
    def is_uwsgi(self):
        return self.name in UWSGI

    def connect(self, timeout=10.0, **rest):
        return Client(self.address, timeout, **rest)

    def request(self, method="GET", path="/", headers=(), body=None, **rest):
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.request(method, path, headers, body, **rest)


class Stack:
    """A server with an HTTP and a uwsgi listener on TCP and on a Unix socket each, and nginx."""

    def __init__(self, application, **settings):
        self.folder = tempfile.mkdtemp(prefix="ringhorn-")
        self.server = Server(
            application,
            binds=(
                "http://127.0.0.1:0",
                f"unix:{self.folder}/http.sock",
                "uwsgi://127.0.0.1:0",
                f"uwsgi://unix:{self.folder}/uwsgi.sock",
            ),
            **settings,
        )
        self.nginx = None

    def start(self):
        try:
            self.server.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        return self

    def stop(self):
        try:
            if self.nginx:
                self.nginx.stop()
            self.server.__exit__(None)
        finally:
            shutil.rmtree(self.folder)

    @property
    def uwsgi(self):
        """The uwsgi listener on TCP."""
        return self.server.addresses[2]

    def front(self, name):
        http_tcp, http_unix, uwsgi_tcp, uwsgi_unix = self.server.addresses
        direct = {"direct-http-tcp": http_tcp, "direct-http-unix": http_unix}
        if name in direct:
            return Front(name, direct[name], self)
        if self.nginx is None:
            nginx = Nginx(self.folder, [uwsgi_unix, uwsgi_tcp, http_unix, http_tcp])
            self.nginx = nginx.start()
        upstream = {
            "nginx-uwsgi-unix": uwsgi_unix,
            "nginx-uwsgi-tcp": uwsgi_tcp,
            "nginx-proxy-unix": http_unix,
            "nginx-proxy-tcp": http_tcp,
        }[name]
        return Front(name, self.nginx.addresses[upstream], self)

    # What the applications offer through tests/py/apps/shared.py, asked on a direct connection.

    def token(self):
        """A name that no other test uses."""
        return secrets.token_hex(6)

    def records(self, token, count=1, seconds=5.0):
        """What the application recorded under `token`; waits until there are `count` entries."""
        path = f"/shared/records?token={token}&count={count}&seconds={seconds}"
        response = self.server.request("GET", path)
        assert response.status == 200, response
        return json.loads(response.text)

    def open_gate(self, token):
        """Lets an application go on that waits at the gate `token`."""
        assert self.server.request("GET", f"/shared/open?token={token}").status == 200
