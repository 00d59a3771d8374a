"""Processes of the harness: started on a core and in a CPU group, watched by pidfd, ended by pid.

Place: every server, nginx and load generator is a `Process`. Invariants: each one leads a process
group of its own, which `stop` ends as a whole before the leader is reaped, so that no number is
ever signalled that could have passed to someone else; a wait ends as soon as the process dies.
"""

import os
import resource
import select
import signal
import subprocess
import time


class DidNotStart(Exception):
    """The process ended, or was not ready in time; the text ends with the tail of its output."""


class Process:
    def __init__(self, name, argv, core, group=None, env=None, cwd=None, log=None):
        self.name = name
        self.log = log
        output = open(log, "ab") if log else subprocess.DEVNULL
        try:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if log else subprocess.DEVNULL,
                env=env,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=lambda: _enter(core, group),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise DidNotStart(f"{name}: {error}") from error
        finally:
            if log:
                output.close()
        self.pid = self._child.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._exit = select.poll()
        self._exit.register(self._pidfd, select.POLLIN)
        if group:
            group.watch(self.pid)

    def wait_exit(self, seconds):
        """True once it has ended; it is not reaped yet."""
        return bool(self._exit.poll(max(0, seconds * 1000)))

    def wait_until(self, ready, seconds):
        """Asks `ready()` until it is true; between two tries it waits for the process to die."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.wait_exit(0.005):
                raise DidNotStart(f"{self.name} ended before it was ready\n{self.tail()}")
            if time.monotonic() > deadline:
                raise DidNotStart(f"{self.name} was not ready within {seconds} s\n{self.tail()}")

    def stop(self, term=signal.SIGTERM, grace=5):
        """Ends the process and its group. True when it left by itself within the grace."""
        if self._pidfd is None:
            return True
        signal.pidfd_send_signal(self._pidfd, term)
        in_time = self.wait_exit(grace)
        try:
            # The leader is not reaped yet, so the number still belongs to this group.
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody is left
        self._child.wait()
        os.close(self._pidfd)
        self._pidfd = None
        return in_time

    def tail(self, size=2000):
        if not self.log:
            return ""
        with open(self.log, "rb") as file:
            file.seek(max(0, os.path.getsize(self.log) - size))
            return file.read().decode("utf-8", "replace")


def _enter(core, group):
    """Runs in the child between fork and exec."""
    if group:
        group.enter()
    if core is not None:
        os.sched_setaffinity(0, {core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tree(root):
    """The process and all its descendants, parents first."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between listing and reading
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def end_stragglers(group, seconds=5):
    """Ends whatever of a group left its process group, by pidfd; True when the group is empty."""
    deadline = time.monotonic() + seconds
    while pids := group.pids():
        if time.monotonic() > deadline:
            return False
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 0.1)
            except ProcessLookupError:
                pass  # it has just ended
            finally:
                os.close(pidfd)
    return True
