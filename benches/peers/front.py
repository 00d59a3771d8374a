"""nginx between load and server, for the cases behind a front.

Place: started by `measure.py` after the server's Unix socket accepts; pinned to the load's core and
in a CPU group of its own, so that its time is never the server's. The settings are those the
documentation of nginx gives for upstreams kept alive: HTTP/1.1, an empty Connection header,
`keepalive 64`.
"""

import os
import signal

import processes
import servers
import wire

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    uwsgi_temp_path {folder}/uwsgi;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    upstream application {{
        server unix:{socket};
        {keepalive}
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
{location}
        }}
    }}
}}
"""

UWSGI_LOCATION = """
            uwsgi_pass application;
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
            uwsgi_param SERVER_NAME $server_name;"""

PROXY_LOCATION = """
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;"""


class Front:
    """A running nginx; `address` is where it listens."""

    def __init__(self, kind, socket, folder, core, group):
        self.address = servers.Address(port=wire.free_port())
        configuration = os.path.join(folder, "nginx.conf")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(
                CONFIGURATION.format(
                    user="user root;" if os.geteuid() == 0 else "",
                    folder=folder,
                    socket=socket,
                    keepalive="keepalive 64;\n        keepalive_requests 1000000000;"
                    if kind == "proxy_pass"
                    else "",
                    port=self.address.port,
                    location=PROXY_LOCATION if kind == "proxy_pass" else UWSGI_LOCATION,
                )
            )
        argv = [
            "nginx",
            "-p",
            folder,
            "-c",
            configuration,
            "-e",
            os.path.join(folder, "nginx-error.log"),
        ]
        self.process = processes.Process(
            "nginx", argv, core, group, log=os.path.join(folder, "nginx.log")
        )

    def stop(self):
        self.process.stop(signal.SIGTERM)
