"""A real nginx in front of the server. Purpose: the fronts `uwsgi_pass` over Unix and TCP and
`proxy_pass` with keep-alive, configured as our documentation tells users to.

nginx inherits its listening sockets already bound (the NGINX variable of its own upgrade protocol),
so ports are free ones without a race.
"""

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from .address import Address
from .watch import wait_until

HEAD = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    large_client_header_buffers 8 32k;
    proxy_buffer_size 32k;
    proxy_buffers 8 32k;
    uwsgi_buffer_size 32k;
    uwsgi_buffers 8 32k;
    proxy_next_upstream off;
    uwsgi_next_upstream off;
    keepalive_requests 100000;
"""

UWSGI = """
    server {{
        listen 127.0.0.1:{port};
        server_name localhost;
        location / {{
            uwsgi_pass {upstream};
            uwsgi_param QUERY_STRING $query_string;
            uwsgi_param REQUEST_METHOD $request_method;
            uwsgi_param CONTENT_TYPE $content_type;
            uwsgi_param CONTENT_LENGTH $content_length;
            uwsgi_param REQUEST_URI $request_uri;
            uwsgi_param PATH_INFO $document_uri;
            uwsgi_param DOCUMENT_ROOT $document_root;
            uwsgi_param SERVER_PROTOCOL $server_protocol;
            uwsgi_param REQUEST_SCHEME $scheme;
            uwsgi_param HTTPS $https if_not_empty;
            uwsgi_param REMOTE_ADDR $remote_addr;
            uwsgi_param REMOTE_PORT $remote_port;
            uwsgi_param SERVER_PORT $server_port;
            uwsgi_param SERVER_NAME $server_name;
        }}
    }}
"""

PROXY = """
    upstream ringhorn_{port} {{ server {upstream} max_fails=0; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://ringhorn_{port};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
"""


class Nginx:
    """One nginx with a listening port for each upstream address given."""

    def __init__(self, folder, upstreams):
        self.folder = Path(folder)
        self.upstreams = upstreams
        self.process = None
        self.addresses = {}

    def start(self):
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
        assert program, "the conformance suite needs nginx (Debian: apt-get install nginx-light)"
        sockets = []
        text = HEAD.format(folder=self.folder, user=pwd.getpwuid(os.getuid()).pw_name)
        for upstream in self.upstreams:
            listener = socket.create_server(("127.0.0.1", 0), backlog=511)
            sockets.append(listener)
            port = listener.getsockname()[1]
            block = UWSGI if upstream.scheme == "uwsgi" else PROXY
            text += block.format(port=port, upstream=upstream.upstream)
            self.addresses[upstream] = Address("http", host="127.0.0.1", port=port)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(text + "}\n")
        inherited = "".join(f"{listener.fileno()};" for listener in sockets)
        with open(self.folder / "output.log", "wb") as output:
            self.process = subprocess.Popen(
                [program, "-p", str(self.folder), "-c", str(configuration)],
                env={**os.environ, "NGINX": inherited},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno() for listener in sockets],
                start_new_session=True,
            )
        for listener in sockets:
            listener.close()
        # The kernel queues connections from here on; the pid file says the configuration was read.
        wait_until(self._is_up, "nginx to start", 10)
        return self

    def _is_up(self):
        assert self.process.poll() is None, f"nginx ended:\n{self.log()}"
        pid_file = self.folder / "nginx.pid"
        return pid_file.exists() and pid_file.read_text().strip() == str(self.process.pid)

    def log(self):
        parts = []
        for name in ("output.log", "error.log"):
            path = self.folder / name
            if path.exists():
                parts.append(path.read_text("utf-8", "backslashreplace"))
        return "\n".join("\n".join(parts).splitlines()[-60:])

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise AssertionError(f"nginx did not end on TERM:\n{self.log()}") from None
