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

PATH=$PATH:/usr/sbin # Debian's nginx lies there, and a user's PATH may not name it
command -v "$python" >/dev/null || { echo "setup: $python is not on PATH" >&2; exit 1; }

# A header or program that shows the package is there, and the Debian package that brings it.
missing=
need() { [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need nginx nginx
need wrk wrk
need cc gcc
need /usr/include/ev.h libev-dev
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
need "$headers/Python.h" python3-dev
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing$missing"
        # No service may start with its package: the harness runs an nginx of its own.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # shellcheck disable=SC2086  # the names are words on purpose
        apt-get install -qq -y --no-install-recommends $missing
    else
        echo "setup: missing; install with: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
"$venv/bin/python" -c 'import sys; print("setup:", sys.prefix, "on CPython", sys.version.split()[0])'
