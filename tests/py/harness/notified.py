"""systemd's end of sd_notify(3): a datagram socket that keeps what services tell, with the process
id that the kernel vouches for. Purpose: the protocol is tested as systemd sees it.
"""

import os
import socket
import struct
import time

from .watch import WaitedTooLong


class Notified:
    """A notification socket; `address` goes into NOTIFY_SOCKET."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.bind(path.replace("@", "\0") if path.startswith("@") else path)
        if not path.startswith("@"):
            os.chmod(path, 0o777)
        self.address = path
        self.heard = []

    def close(self):
        self.sock.close()

    def hear(self, seconds=10.0):
        """The next message: (process id, fields as a dict)."""
        self.sock.settimeout(seconds)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(12))
        except TimeoutError:
            raise WaitedTooLong(f"nothing was told; before: {self.heard}") from None
        [(_, _, credentials)] = ancillary
        pid, _, _ = struct.unpack("3i", credentials)
        fields = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.heard.append((pid, fields))
        return pid, fields

    def wait_for(self, name, seconds=20.0):
        """The next message that has this field."""
        deadline = time.monotonic() + seconds
        while True:
            pid, fields = self.hear(max(0.001, deadline - time.monotonic()))
            if name in fields:
                return pid, fields
