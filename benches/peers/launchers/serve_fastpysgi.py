"""Starts FastPySGI with the settings its command line does not offer.

Place: run by `servers.FastPySGI` with the virtualenv's Python: `serve_fastpysgi.py HOST PORT
APPLICATION`. TCP_NODELAY is on (its default is off): with it small answers do not wait for delayed
acknowledgements.
"""

import sys

import fastpysgi

import bench


def main():
    host, port, application = sys.argv[1], int(sys.argv[2]), getattr(bench, sys.argv[3])
    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.run(application, host=host, port=port)


if __name__ == "__main__":
    main()
