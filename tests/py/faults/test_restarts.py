"""The server stopped, restarted and upgraded under load: no request that was sent fails."""

import contextlib
import os
import select
import signal
import socket

import pytest

from faults.drill import Running, length
from harness import fronts
from harness.address import Address
from harness.server import Server

CLIENTS = 64
MIX = (
    {"path": "/work?ms=1"},
    {"path": "/work?ms=5", "post": 3000},
    {"path": "/work?ms=20&pieces=2&size=20000", "size": 20000},
)
TIMES = length(short=2, full=20)


@pytest.mark.timeout(length(short=60, full=300))
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "short"])
@pytest.mark.parametrize("name", ["direct-http-tcp", "direct-http-unix", "nginx-uwsgi-unix"])
def test_term_answers_what_was_asked(interpreter, progress, figure, name, keep):
    """Clients that stop asking when the server is told to stop: each gets its answer."""
    accounts = []
    for number in range(TIMES):
        stack = fronts.Stack("drilled:application", python=interpreter, workers=2, threads=2)
        stack.start()
        try:
            front = stack.front(name)
            with Running(front.address, CLIENTS, MIX, keep=keep) as load:
                load.wait_answers(300)
                stack.server.signal(signal.SIGTERM)
                accounts.append(load.stop())
            assert stack.server.wait() == 0
        finally:
            if stack.server.process.poll() is None:
                stack.server.kill()
            if stack.nginx:
                stack.nginx.stop()
        progress(f"{number + 1} of {TIMES}")
    sent = sum(one.sent for one in accounts)
    retried = sum(one.retried for one in accounts)
    failed = [str(one) for one in accounts if one.failed()]
    figure(f"TERM {TIMES} times, {name}: {sent} requests, {retried} sent again, failed: {failed}")
    assert not failed


@pytest.mark.timeout(60)
def test_term_refuses_whoever_comes_later(start, figure):
    """Clients that go on connecting are answered or find nobody; none is cut or left waiting."""
    server = start("drilled:application", workers=2, threads=2)
    with Running(server.address, CLIENTS, MIX) as load:
        load.wait_answers(300)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        account = load.stop()
    figure(f"TERM with clients that go on: {account}")
    assert set(account.kinds) <= {"ok", "refused", "reset", "closed"}
    # Those that connected at the very moment at which the listener closed.
    assert account.kinds.get("reset", 0) + account.kinds.get("closed", 0) <= CLIENTS


@contextlib.contextmanager
def held_listener():
    """A listening socket that outlives its servers, as a service manager holds one."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener, Address("http", host="127.0.0.1", port=listener.getsockname()[1])


def server_of(listener, address, interpreter):
    server = Server(
        "drilled:application",
        python=interpreter,
        workers=2,
        threads=2,
        binds=(f"fd://{listener.fileno()}",),
        pass_fds=(listener.fileno(),),
    ).start()
    server.addresses = [address]
    return server


@pytest.mark.timeout(length(short=60, full=300))
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "short"])
def test_restart_on_a_held_listener(interpreter, progress, figure, keep):
    """Stop, wait for the end, start: what systemd does with socket activation. Connections wait in
    the backlog meanwhile."""
    with held_listener() as (listener, address):
        server = server_of(listener, address, interpreter)
        try:
            with Running(address, CLIENTS, MIX, keep=keep) as load:
                load.wait_answers(300)
                load.window("restarts")
                for number in range(TIMES):
                    server.signal(signal.SIGTERM)
                    assert server.wait() == 0
                    server = server_of(listener, address, interpreter)
                    load.wait_answers(300)
                    progress(f"{number + 1} of {TIMES} restarts")
                account = load.stop()
        finally:
            server.__exit__(None)
    figure(
        f"{TIMES} restarts on a held listener: {account}; longest wait "
        f"{account.longest('restarts')} ms"
    )
    assert account.failed() == 0


class Upgraded:
    """A server that others follow by USR2: whichever is the server now, by the pid file."""

    def __init__(self, server, pid_file):
        self.server = server
        self.pid_file = pid_file

    @property
    def pid(self):
        return int(self.pid_file.read_text())

    def upgrade(self):
        """USR2; returns once the old process has ended."""
        old = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(old, signal.SIGUSR2)
            ended, _, _ = select.select([old], [], [], 40)
            assert ended, f"the old server did not end:\n{self.server.tail()}"
        finally:
            os.close(old)

    def end(self):
        """Ends the last one; the first one is the test's own child."""
        last = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(last, signal.SIGTERM)
            ended, _, _ = select.select([last], [], [], 40)
            assert ended, f"the last server did not end:\n{self.server.tail()}"
        finally:
            os.close(last)


@pytest.mark.timeout(length(short=60, full=300))
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "short"])
@pytest.mark.parametrize("name", ["direct-http-tcp", "nginx-uwsgi-unix"])
def test_usr2_upgrade(interpreter, progress, figure, tmp_path, name, keep):
    """One server after the other takes the listeners over."""
    stack = fronts.Stack(
        "drilled:application",
        python=interpreter,
        workers=2,
        threads=2,
        options=["--pid", tmp_path / "pid"],
    ).start()
    upgraded = Upgraded(stack.server, tmp_path / "pid")
    try:
        front = stack.front(name)
        pids = [upgraded.pid]
        with Running(front.address, CLIENTS, MIX, keep=keep) as load:
            load.wait_answers(300)
            load.window("without")
            load.wait_answers(300)
            load.window("upgrades")
            for number in range(TIMES):
                upgraded.upgrade()
                pids.append(upgraded.pid)
                load.wait_answers(100)
                progress(f"{number + 1} of {TIMES} upgrades")
            account = load.stop()
        figure(
            f"{TIMES} upgrades by USR2, {name}: {account}; longest wait "
            f"{account.longest('without')} ms without, {account.longest('upgrades')} ms with"
        )
        assert len(set(pids)) == TIMES + 1
        assert account.failed() == 0
    finally:
        upgraded.end()
        stack.server.kill()
        if stack.nginx:
            stack.nginx.stop()
