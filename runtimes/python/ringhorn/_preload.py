"""`--preload`: the application is imported once, then workers are forked; shared by all runtimes.

A fork server is started like a worker and gets no seats: it imports the application, freezes what
the garbage collector knows (`gc.freeze`, so that no collection in a worker writes to shared pages),
says READY, and forks a worker whenever the server asks for one.

Invariants: the fork is `os.fork`, called once for a worker in the main thread, so the application's
at-fork hooks run as for any fork, and nothing but the child's own code tells a worker from one that
was started alone: it has its own process group and control socket and holds nothing of the fork
server's. What the application left running at import (threads) does not exist in workers; that is
warned of.
"""

import gc
import os
import signal
import sys
import threading


def serve(fork_server):
    """Forks until the server wants no more. Returns in each worker the descriptor of its control
    socket, and None in the fork server, at its end."""
    warn_of_threads()
    child_signal = take_child_signal()
    # What is garbage now would be kept for ever.
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()
    fork_server.ready()
    while True:
        asked = fork_server.next()
        if asked is None:
            return None
        worker, control = asked
        flush()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(control)
            fork_server.fork_failed(worker, "fork: %s" % error.strerror)
            continue
        if pid == 0:
            fork_server.leave()
            os.setpgid(0, 0)
            if child_signal is not None:
                signal.signal(signal.SIGCHLD, child_signal)
            return control
        os.close(control)
        fork_server.forked(worker, pid)


def warn_of_threads():
    """Threads that the application, or a library of it, started at import stay behind."""
    try:
        running = len(os.listdir("/proc/self/task"))
    except OSError:
        running = threading.active_count()
    if running <= 1:
        return
    main = threading.main_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not main]
    unnamed = running - 1 - len(names)
    if unnamed > 0:
        names.append("%d not started by Python" % unnamed)
    sys.stderr.write(
        "ringhorn: warning: --preload: %d more thread%s runs after the import (%s); threads do not "
        "survive a fork, and locks they hold then stay locked in workers\n"
        "hint: start them in worker_start of --hooks, or serve without --preload\n"
        % (running - 1, "s" if running > 2 else "", ", ".join(names))
    )
    sys.stderr.flush()


def take_child_signal():
    """How children end is for the server to know: an application that has SIGCHLD ignored gets that
    back in the workers only. Returns what it had, or None if nothing was changed."""
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
        return None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return signal.SIG_IGN


def flush():
    """What is buffered would be written by every worker again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # replaced, closed or gone: not ours to judge
