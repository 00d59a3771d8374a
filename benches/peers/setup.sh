#!/bin/sh
# Makes target/peers-venv: every server that benches/peers runs, at pinned versions, on one CPython.
#
# Use: benches/peers/setup.sh            PYTHON=python3.12 benches/peers/setup.sh for another one.
# As root on Debian or Ubuntu it installs the packages it needs; else it names what is missing and
# goes on only when nothing is. It may be run again: it then only brings the virtualenv up to date.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${PEERS_VENV:-$root/target/peers-venv}
python=${PYTHON:-python3}

command -v "$python" >/dev/null || { echo "setup: $python is not on PATH" >&2; exit 1; }

# A header or program that shows the package is there, and the Debian package that brings it.
missing=
need() { [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need nginx nginx-light
need wrk wrk
need cc gcc
need /usr/include/ev.h libev-dev
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
need "$headers/Python.h" python3-dev
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086  # the names are words on purpose
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    else
        echo "setup: missing; install with: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
"$venv/bin/python" -c 'import sys; print("setup:", sys.prefix, "on CPython", sys.version.split()[0])'
