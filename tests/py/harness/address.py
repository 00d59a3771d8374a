"""Where something listens: TCP on the loopback or a Unix socket. Purpose: one type that the client,
nginx's configuration and the server's `--bind` all understand.
"""

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    """A place to connect to. `scheme` is "http" or "uwsgi"; `path` is set for Unix sockets."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self):
        return bool(self.path)

    def connect(self, timeout=10.0, receive_buffer=None):
        """A connected stream socket; `receive_buffer` (bytes) makes this side a slow reader."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        if self.is_unix:
            family = socket.AF_UNIX
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(timeout)
            sock.connect(self.path if self.is_unix else (self.host, self.port))
            if not self.is_unix:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    @property
    def upstream(self):
        """The way nginx writes it."""
        return f"unix:{self.path}" if self.is_unix else f"{self.host}:{self.port}"
