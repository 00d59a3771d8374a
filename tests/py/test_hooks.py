"""`--hooks`: which functions run, when, where, and what their faults cost.

Each test writes a module of hooks of its own; what ran is read from a file they append to.
"""

import json
import os
import signal
import subprocess

import pytest
from harness import process
from harness.server import Server, binary
from harness.watch import wait_until

RECORDING = """
import json, os, sys

def note(name, server, worker=None):
    entry = {"hook": name, "pid": os.getpid(), "server": vars(server), "path": sys.path[:2],
             "argv": sys.argv, "modules": sorted(sys.modules)}
    if worker is not None:
        entry["worker"] = vars(worker)
    line = json.dumps(entry) + "\\n"
    handle = os.open(os.environ["HOOK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, line.encode())
    os.close(handle)

def on_starting(server): note("on_starting", server)
def when_ready(server): note("when_ready", server)
def on_reload(server): note("on_reload", server)
def on_exit(server): note("on_exit", server)
def post_fork(server, worker): note("post_fork", server, worker)
def worker_start(server, worker): note("worker_start", server, worker)
def worker_exit(server, worker): note("worker_exit", server, worker)
"""


@pytest.fixture
def hooks(interpreter, tmp_path):
    """Makes servers with a module of hooks, and reads what ran."""
    hooks = Hooks(interpreter, tmp_path)
    yield hooks
    for server in hooks.servers:
        server.kill()


class Hooks:
    def __init__(self, interpreter, folder):
        self.interpreter = interpreter
        self.servers = []
        self.folder = folder
        self.log = folder / "ran"

    def server(self, text, application="hello:application", options=(), env=None, **settings):
        file = self.folder / "hooks_of_tests.py"
        file.write_text(text)
        server = Server(
            application,
            python=self.interpreter,
            options=("--hooks", str(file), *options),
            env={"HOOK_LOG": str(self.log), **(env or {})},
            **settings,
        )
        self.servers.append(server)
        return server

    def entries(self, name=None):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines]
        return [entry for entry in found if name is None or entry["hook"] == name]

    def wait(self, name, count=1):
        def found():
            entries = self.entries(name)
            return entries if len(entries) >= count else None

        return wait_until(found, f"{count} x {name}", 15)

    def names(self):
        return [entry["hook"] for entry in self.entries()]


def test_each_hook_runs_once_in_its_place(hooks):
    server = hooks.server(RECORDING, workers=2).start()
    hooks.wait("worker_start", 2)
    ready = hooks.wait("when_ready")[0]
    # Both workers are there, so two children are these two: the process of when_ready ended.
    workers = server.wait_workers(2)
    server.stop()
    assert hooks.names()[0] == "on_starting"
    assert hooks.names()[-1] == "on_exit"
    counts = {name: len(hooks.entries(name)) for name in set(hooks.names())}
    assert counts == {
        "on_starting": 1,
        "when_ready": 1,
        "on_exit": 1,
        "post_fork": 2,
        "worker_start": 2,
        "worker_exit": 2,
    }
    for name in ("post_fork", "worker_start", "worker_exit"):
        entries = hooks.entries(name)
        assert {entry["pid"] for entry in entries} == set(workers)
        assert {entry["worker"]["pid"] for entry in entries} == set(workers)
        assert {entry["worker"]["number"] for entry in entries} == {1, 2}
    for name in ("on_starting", "when_ready", "on_exit"):
        assert hooks.entries(name)[0]["pid"] not in {server.pid, *workers}
    assert all(entry["server"]["pid"] == server.pid for entry in hooks.entries())
    assert hooks.entries("on_starting")[0]["server"]["addresses"] == []
    assert ready["server"]["addresses"] == [f"http://127.0.0.1:{server.address.port}"]
    assert ready["server"]["generation"] == 1
    assert ready["argv"] == ["ringhorn"]


def test_server_hooks_and_post_fork_come_before_the_application_is_imported(hooks):
    with hooks.server(RECORDING):
        hooks.wait("when_ready")
        for name in ("on_starting", "when_ready", "post_fork"):
            assert "hello" not in hooks.entries(name)[0]["modules"], name
        assert "hello" in hooks.entries("worker_start")[0]["modules"]


def test_a_process_of_a_hook_starts_as_a_worker_does(hooks):
    text = """
import json, os, resource, sys
def facts():
    status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status"))
    return {"ignored": status["SigIgn"], "blocked": status["SigBlk"],
            "limit": resource.getrlimit(resource.RLIMIT_NOFILE), "cwd": os.getcwd(),
            "stdin": os.readlink("/proc/self/fd/0"), "env": os.environ["FROM_OPTION"],
            "path": sys.path}
def when_ready(server): print("server hook", json.dumps(facts()), flush=True)
def worker_start(server, worker): print("worker hook", json.dumps(facts()), file=sys.stderr)
"""
    options = ("--chdir", hooks.folder, "--env", "FROM_OPTION=x")
    with hooks.server(text, options=options) as server:
        of_server = json.loads(server.log.wait_for("^server hook (.*)").group(1))
        of_worker = json.loads(server.log.wait_for("^worker hook (.*)").group(1))
    assert of_server == of_worker


def test_a_module_by_name_is_found_as_the_application_is(interpreter, tmp_path):
    (tmp_path / "deploy_hooks.py").write_text(RECORDING)
    log = tmp_path / "ran"
    options = ("--hooks", "deploy_hooks", "--chdir", tmp_path)
    env = {"HOOK_LOG": str(log)}
    with Server("hello:application", python=interpreter, options=options, env=env) as server:
        wait_until(lambda: "when_ready" in log.read_text(), "when_ready", 10)
        assert server.request().status == 200


def test_no_process_is_started_for_a_hook_that_is_not_defined(hooks):
    text = "def worker_start(server, worker): print('hook says', worker.number, flush=True)\n"
    with hooks.server(text, options=("--log-level", "debug")) as server:
        server.out.wait_for("hook says 1")
        assert server.request().status == 200
    assert "the hook" not in server.log.text


def test_what_a_server_hook_prints_is_in_the_error_log(hooks):
    with hooks.server("def when_ready(server): print('printed by', server.name)") as server:
        server.log.wait_for("printed by ringhorn")


FAILING = "def {name}(*facts): raise LookupError('no such table')\n"


def test_on_starting_that_fails_prevents_the_start(hooks):
    server = hooks.server(FAILING.format(name="on_starting")).launch()
    assert server.wait() == 3
    text = server.log.text
    assert "Traceback" in text and "in on_starting" in text
    error = next(line for line in text.splitlines() if line.startswith("error: "))
    assert "the hook on_starting of" in error and "LookupError: no such table" in error
    assert "does not start" in error
    assert "hint: " in text and "listening on" not in text


@pytest.mark.parametrize("name", ["when_ready", "on_exit"])
def test_a_server_hook_that_fails_later_is_logged_and_the_server_goes_on(hooks, name):
    server = hooks.server(FAILING.format(name=name)).start()
    if name == "when_ready":
        server.log.wait_for(f"hook {name} .*LookupError: no such table; the server goes on")
    assert server.request().status == 200
    server.stop()
    assert f"in {name}" in server.log.text
    assert "LookupError: no such table; the server goes on" in server.log.text


def test_on_reload_runs_once_for_a_reload_and_is_told_the_new_generation(hooks):
    with hooks.server(RECORDING) as server:
        server.signal(signal.SIGHUP)
        server.log.wait_for("reloaded: generation 2")
        (entry,) = hooks.wait("on_reload")
        assert entry["server"]["generation"] == 2
        assert "hello" not in entry["modules"]
        assert [e["worker"]["generation"] for e in hooks.wait("worker_start", 2)] == [1, 2]
        assert hooks.wait("worker_exit")[0]["worker"]["generation"] == 1


def test_a_reload_goes_on_when_on_reload_fails(hooks):
    with hooks.server(FAILING.format(name="on_reload")) as server:
        server.signal(signal.SIGHUP)
        server.log.wait_for("hook on_reload .*LookupError: no such table; the server goes on")
        server.log.wait_for("reloaded: generation 2")
        assert server.request().status == 200


@pytest.mark.parametrize("name", ["post_fork", "worker_start"])
def test_a_hook_of_a_starting_worker_that_fails_is_as_an_import_that_fails(hooks, name):
    server = hooks.server(FAILING.format(name=name)).launch()
    assert server.wait() == 3
    text = server.log.text
    assert f"in {name}" in text
    assert f"the hook {name} of" in text and "LookupError: no such table" in text


def test_worker_exit_that_fails_is_logged_and_the_worker_leaves_as_told(hooks):
    server = hooks.server(FAILING.format(name="worker_exit")).start()
    server.stop()
    assert "in worker_exit" in server.log.text
    assert "the worker leaves all the same" in server.log.text


def test_system_exit_in_a_hook_is_a_failure(hooks):
    server = hooks.server("import sys\ndef on_starting(server): sys.exit(0)").launch()
    assert server.wait() == 3
    assert "SystemExit: 0" in server.log.text


def test_worker_exit_does_not_run_for_a_worker_that_is_killed(hooks):
    with hooks.server(RECORDING) as server:
        (worker,) = server.wait_workers(1)
        os.kill(worker, signal.SIGKILL)
        server.wait_workers(1, without=[worker])
        hooks.wait("worker_start", 2)
    assert [entry["pid"] == worker for entry in hooks.entries("worker_exit")] == [False]


WRONG = {
    "nothing": ("x = 1\n", "it defines no hook"),
    "missing import": ("import no_such_module_here\n", "cannot be imported: ModuleNotFoundError"),
    "arguments": ("def post_fork(worker): pass\n", "post_fork cannot be called"),
    "coroutine": ("async def when_ready(server): pass\n", "when_ready is a coroutine function"),
    "no function": ("on_exit = 1\n", "on_exit is a int"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("check", [False, True])
def test_a_module_that_cannot_be_used_is_refused_at_start(hooks, case, check):
    text, complaint = WRONG[case]
    server = hooks.server(text, options=("--check",) if check else ()).launch()
    assert server.wait() == 3
    assert complaint in server.log.text
    assert "does not start" in server.log.text


def test_a_missing_module_is_refused_with_where_it_was_sought(interpreter):
    server = Server(python=interpreter, options=("--hooks", "no_hooks_here")).launch()
    assert server.wait() == 3
    assert "--hooks: no module named 'no_hooks_here'" in server.log.text
    assert "hint: looked in" in server.log.text


def test_check_runs_no_hook(hooks):
    server = hooks.server(RECORDING, options=("--check",)).launch()
    assert server.wait() == 0
    assert hooks.entries() == []


def test_gunicorns_other_names_are_warned_of(hooks):
    text = "def pre_fork(server, worker): pass\ndef when_ready(server): pass\n"
    with hooks.server(text) as server:
        assert "pre_fork is never called here; see post_fork" in server.log.text


def test_a_hook_that_hangs_is_ended_by_a_fast_stop(hooks):
    text = """
import os, threading
def on_exit(server):
    print("on_exit hangs in", os.getpid())
    threading.Event().wait()
"""
    server = hooks.server(text).start()
    server.signal(signal.SIGTERM)
    pid = int(server.log.wait_for("on_exit hangs in ([0-9]+)").group(1))
    server.signal(signal.SIGINT)
    assert server.wait(10) == 0
    assert not process.is_alive(pid)


def test_a_hook_that_still_runs_at_the_end_is_killed(hooks):
    text = """
import os, threading
def when_ready(server):
    print("when_ready hangs in", os.getpid())
    threading.Event().wait()
"""
    server = hooks.server(text).start()
    pid = int(server.log.wait_for("when_ready hangs in ([0-9]+)").group(1))
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert not process.is_alive(pid)
    assert "the hook when_ready still ran: it is killed" in server.log.text


BOOT = (
    "import sys;from importlib.util import *;"
    "s=spec_from_file_location('_ringhorn_bootstrap',sys.argv[1]+'/_bootstrap.py');"
    "m=sys.modules[s.name]=module_from_spec(s);s.loader.exec_module(m);m.main(*sys.argv[1:])"
)


def test_a_hook_that_takes_too_long_ends_with_its_stack(interpreter, tmp_path):
    """The bound that the server gives is kept by the process itself, so that it holds after the
    server's end too; the server gives 30 seconds, which is too long for a test."""
    file = tmp_path / "hanging.py"
    file.write_text("import threading\ndef on_starting(server):\n    threading.Event().wait()\n")
    runtime = os.path.dirname(os.path.realpath(binary()))
    facts = ["timeout=0.2", f"chdir={tmp_path}", f"hooks={file}", "server-pid=1", "version=0"]
    command = [interpreter, "-c", BOOT, runtime, "hook", "on_starting", *facts]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert ended.stdout == "defines on_starting\n"
    assert "Timeout (0:00:00.2" in ended.stderr and "in on_starting" in ended.stderr
