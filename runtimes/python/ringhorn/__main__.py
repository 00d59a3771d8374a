"""`ringhorn` and `python -m ringhorn`: becomes the server binary that lies beside this file.

The process is replaced (exec): no interpreter stays behind in the server process. The interpreter
that ran this script is passed on in RINGHORN_LAUNCHED_BY, because without `--python` and without an
active virtualenv it is the one whose packages the user means. The server takes that variable out of
the environment of its workers.
"""

import os
import sys


def main():
    """Does not return unless the binary is missing or cannot be executed."""
    binary = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ringhorn")
    environment = dict(os.environ)
    if sys.executable:
        environment["RINGHORN_LAUNCHED_BY"] = sys.executable
    try:
        os.execve(binary, ["ringhorn"] + sys.argv[1:], environment)
    except OSError as error:
        sys.stderr.write(
            "ringhorn: cannot execute %s: %s\n"
            "hint: pip install --force-reinstall ringhorn; in a checkout, make build\n"
            % (binary, error.strerror)
        )
        return 4


if __name__ == "__main__":
    sys.exit(main())
