"""The functions of `--hooks`: found, checked and called; shared by all runtimes.

Two kinds of process come here, and neither is the server, which runs no Python:

- a worker calls the hooks of workers (`WORKER_HOOKS`) in its main thread (`_bootstrap.py`);
- a short-lived process of the same interpreter, started by the server, calls one hook of the server
  (`SERVER_HOOKS`) and ends (`run_for_server`). The first of them, before anything is bound, also
  checks the module and says which hooks it defines, so that no process is started for the others.

A hook is a plain function of the module and takes the facts of its subject:

    on_starting(server)   when_ready(server)   on_reload(server)   on_exit(server)
    post_fork(server, worker)   worker_start(server, worker)   worker_exit(server, worker)

Invariants: the module is imported without the application. Whatever a hook raises, SystemExit
included, ends in `ApplicationError` whose text is meant for the log.
"""

import faulthandler
import os
import sys
import traceback
from types import SimpleNamespace

SERVER_HOOKS = ("on_starting", "when_ready", "on_reload", "on_exit")
WORKER_HOOKS = ("post_fork", "worker_start", "worker_exit")

# gunicorn's other names: a module written for it would wait for them in vain.
NOT_CALLED = {
    "pre_fork": "post_fork",
    "post_worker_init": "worker_start",
    "child_exit": "worker_exit",
    "worker_int": "worker_exit",
    "worker_abort": "worker_exit",
    "pre_exec": "on_starting",
    "nworkers_changed": "worker_start",
    "pre_request": "a WSGI middleware",
    "post_request": "a WSGI middleware",
    "ssl_context": "nginx",
}

# Longest line of the report to the server, in characters.
LINE_MAX = 2000


class Hooks:
    """The module of `--hooks`, imported."""

    def __init__(self, specification, loader):
        self.specification = specification
        self.loader = loader
        if ":" in specification:
            raise loader.ApplicationError(
                "--hooks %s: a module or a file is named, without an attribute" % specification,
                "hooks are found by their names: %s" % ", ".join(SERVER_HOOKS + WORKER_HOOKS),
            )
        try:
            self.module = loader.load_module(specification)
        except loader.ApplicationError as error:
            raise loader.ApplicationError(
                "--hooks: " + error.what, error.hint, error.traceback_text
            ) from None

    def of_worker(self, setup):
        """Those of one worker."""
        return WorkerHooks(self, setup)

    def find(self, name):
        """The function of that name, or None."""
        return getattr(self.module, name, None)

    def defined(self):
        """Names of the hooks that the module defines."""
        return [name for name in SERVER_HOOKS + WORKER_HOOKS if self.find(name) is not None]

    def check(self):
        """Raises ApplicationError for what could never be called; warns of what never will be."""
        # Not at the top: only the first process of a server checks.
        import inspect

        defined = self.defined()
        for name in defined:
            function = self.find(name)
            wanted = ("server",) if name in SERVER_HOOKS else ("server", "worker")
            shown = "%s(%s)" % (name, ", ".join(wanted))
            if not callable(function) or inspect.iscoroutinefunction(function):
                what = "coroutine function" if callable(function) else type(function).__name__
                raise self.loader.ApplicationError(
                    "--hooks %s: %s is a %s" % (self.specification, name, what),
                    "a hook is a plain function: def %s" % shown,
                )
            try:
                inspect.signature(function).bind(*wanted)
            except TypeError as error:
                raise self.loader.ApplicationError(
                    "--hooks %s: %s cannot be called: %s" % (self.specification, name, error),
                    "it is called as %s" % shown,
                ) from None
            except ValueError:
                pass  # written in C, and says nothing of its arguments
        if not defined:
            raise self.loader.ApplicationError(
                "--hooks %s: it defines no hook" % self.specification,
                "hooks are %s" % ", ".join(SERVER_HOOKS + WORKER_HOOKS),
            )
        for name in filter(self.find, NOT_CALLED):
            sys.stderr.write(
                "ringhorn: --hooks %s: %s is never called here; see %s\n"
                % (self.specification, name, NOT_CALLED[name])
            )

    def call(self, name, *arguments):
        """Calls a hook if there is one; what it raises becomes ApplicationError."""
        function = self.find(name)
        if function is None:
            return
        try:
            function(*arguments)
        except BaseException as error:
            frames = error.__traceback__.tb_next
            raise self.loader.ApplicationError(
                "the hook %s of %s failed: %s" % (name, self.specification, last_line(error)),
                "",
                "".join(traceback.format_exception(type(error), error, frames)),
            ) from None


class WorkerHooks:
    """The hooks of one worker, called by their names."""

    def __init__(self, hooks, setup):
        self.hooks = hooks
        self.facts = (server_facts(setup["options"]), worker_facts(setup))

    def call(self, name):
        self.hooks.call(name, *self.facts)

    def call_at_the_end(self, name):
        """As `call`, where nothing is left to be prevented: what it raises is only logged."""
        try:
            self.call(name)
        except self.hooks.loader.ApplicationError as error:
            sys.stderr.write("%s\nringhorn: the worker leaves all the same\n" % error)
            sys.stderr.flush()


def last_line(error):
    """`ValueError: no such table`, on one line."""
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    return text.splitlines()[-1]


def server_facts(options):
    """What hooks are told of the server; `options` are pairs of name and value."""
    one = dict(options)
    return SimpleNamespace(
        name=one.get("name", "ringhorn"),
        pid=int(one["server-pid"]),
        version=one["version"],
        generation=int(one.get("generation", 0)),
        addresses=tuple(value for name, value in options if name == "address"),
    )


def worker_facts(setup):
    """What hooks are told of their worker."""
    return SimpleNamespace(
        number=setup["worker"],
        pid=os.getpid(),
        generation=setup["generation"],
        threads=setup["threads"],
    )


def run_for_server(name, facts, bootstrap, loader):
    """The life of a process that the server starts for one hook.

    Standard output is where the server reads the report, so it is moved out of the way first: what
    hooks print goes to the error log. `facts` are NAME=VALUE; `name` may be `check`: nothing runs.
    """
    report = os.dup(1)
    os.dup2(2, 1)
    bootstrap.clean_main_module()
    options = [tuple(fact.split("=", 1)) for fact in facts]
    one = dict(options)
    # By a thread that needs no GIL: it also ends a hook that hangs after the server is gone.
    faulthandler.dump_traceback_later(float(one["timeout"]), exit=True)
    try:
        pythonpath = [value for key, value in options if key == "pythonpath"]
        bootstrap.enter_application_folder(one["chdir"], pythonpath, loader)
        hooks = Hooks(one["hooks"], loader)
        if name in ("check", SERVER_HOOKS[0]):
            hooks.check()
            say(report, "defines", " ".join(hooks.defined()))
        hooks.call(name, server_facts(options))
    except loader.ApplicationError as error:
        say(report, "failed", error.what)
        say(report, "hint", error.hint)
        bootstrap.leave(bootstrap.EXIT_APPLICATION, str(error))
    # What a hook started and left behind is not waited for.
    faulthandler.cancel_dump_traceback_later()


def say(report, word, text):
    """One line to the server."""
    line = " ".join(text.split())[:LINE_MAX]
    os.write(report, ("%s %s\n" % (word, line)).encode("utf-8", "backslashreplace"))
