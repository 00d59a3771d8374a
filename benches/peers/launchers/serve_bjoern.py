"""Starts bjoern, which has no command line of its own.

Place: run by `servers.Bjoern` with the virtualenv's Python: `serve_bjoern.py ADDRESS WORKERS
APPLICATION`, where ADDRESS is `HOST:PORT` or `unix:/path` and APPLICATION an attribute of `bench`.
More than one worker means processes forked after listening, as its documentation advises.
TCP_NODELAY is set on the listening socket, and inherited: bjoern never sets it, and without it
small answers wait for delayed acknowledgements.
"""

import os
import socket
import sys

import bjoern

import bench


def main():
    address, workers, application = sys.argv[1], int(sys.argv[2]), getattr(bench, sys.argv[3])
    if address.startswith("unix:"):
        listener = bjoern.bind_and_listen(address)
    else:
        host, port = address.rsplit(":", 1)
        listener = bjoern.bind_and_listen(host, int(port))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(workers - 1):
        if os.fork() == 0:
            break
    bjoern.server_run(listener, application)


if __name__ == "__main__":
    main()
