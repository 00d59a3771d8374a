"""What a worker may do: who it is, and whether it can become more."""

import os
import subprocess
from pathlib import Path

from shared import Router, answer, query

router = application = Router()


@router.case
def _who(environ, start_response):
    """Users, groups and flags as the kernel states them, and the tries to get more."""
    status = Path("/proc/self/status").read_text()
    status = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    facts = {
        "uid": status["Uid"].split(),
        "gid": status["Gid"].split(),
        "groups": sorted(os.getgroups()),
        "no_new_privs": status["NoNewPrivs"],
        "capabilities": status["CapPrm"],
        "regained": [name for name, regain in TRIES.items() if succeeds(regain)],
    }
    return answer(start_response, facts)


TRIES = {
    "setuid": lambda: os.setuid(0),
    "seteuid": lambda: os.setresuid(-1, 0, -1),
    "setgid": lambda: os.setresgid(-1, 0, -1),
    "groups": lambda: os.setgroups([0]),
}


def succeeds(regain):
    try:
        regain()
    except PermissionError:
        return False
    return True


@router.case
def _write(environ, start_response):
    """Creates the file that the query names."""
    with open(query(environ)["path"], "x"):
        pass
    return answer(start_response, "written")


@router.case
def _read_server(environ, start_response):
    """Tries to look into the server's memory and descriptors, as a debugger would."""
    server = os.getppid()
    opened = []
    for name in ("mem", "environ", "maps"):
        try:
            with open(f"/proc/{server}/{name}", "rb"):
                opened.append(name)
        except OSError:
            pass
    try:
        opened += os.listdir(f"/proc/{server}/fd")
    except OSError:
        pass
    return answer(start_response, opened)


@router.case
def _run(environ, start_response):
    """What a program with the setuid bit runs as."""
    ran = subprocess.run([query(environ)["program"], "-u"], capture_output=True, text=True)
    return answer(start_response, ran.stdout.strip())
