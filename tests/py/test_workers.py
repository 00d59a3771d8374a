"""Worker processes: what they are started with, and what applications may do in them: fork,
subprocess, multiprocessing, threads, signals. How they die is in test_deaths.py.
"""

import json
import os
import resource
import signal

import pytest

from harness import process
from harness.watch import wait_until

STACK = dict(application="hygiene:application", threads=2)


def inside(server):
    return json.loads(server.request("GET", "/inside").text)


def still_serves(server):
    assert server.request("GET", "/pid?number=alive").header("X-Number") == "alive"


def test_worker_is_the_servers_child(stack):
    facts = inside(stack.server)
    assert facts["pid"] in stack.server.workers()
    assert facts["parent"] == stack.server.pid


def test_worker_has_its_own_process_group(stack):
    facts = inside(stack.server)
    assert facts["group"] == facts["pid"]


def test_no_signal_is_blocked_or_ignored(stack):
    status = inside(stack.server)["status"]
    assert process.signal_set(status["SigBlk"]) == set()
    # CPython itself ignores SIGPIPE and SIGXFSZ; nothing else may be ignored.
    assert process.signal_set(status["SigIgn"]) <= {signal.SIGPIPE, signal.SIGXFSZ}


def test_limit_of_open_files_is_the_original(stack):
    assert tuple(inside(stack.server)["nofile"]) == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_limit_of_open_files_is_the_original_when_the_server_raises_its_own(start):
    def lower():
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = start("hygiene:application", preexec=lower)
    assert inside(server)["nofile"][0] == 2048


def test_worker_dies_before_the_server_when_memory_ends(stack):
    with open(f"/proc/{stack.server.pid}/oom_score_adj") as file:
        assert inside(stack.server)["oom_score_adj"] > int(file.read())


def test_stdin_is_dev_null(stack):
    assert inside(stack.server)["stdin"] == "/dev/null"


def test_stdin_is_dev_null_even_when_the_servers_is_not(start):
    reading, writing = os.pipe()
    try:
        server = start("hygiene:application", stdin=reading)
        assert inside(server)["stdin"] == "/dev/null"
    finally:
        os.close(reading)
        os.close(writing)


def test_stdout_is_inherited(stack):
    told = inside(stack.server)["stdout"]
    assert told == os.readlink(f"/proc/{stack.server.pid}/fd/1")


def test_faulthandler_is_on(stack):
    assert inside(stack.server)["faulthandler"] is True


def test_application_is_loaded_in_the_main_thread(stack):
    assert inside(stack.server)["loaded in main thread"] is True


def test_interpreter_is_the_chosen_one(stack, interpreter):
    assert os.path.realpath(inside(stack.server)["executable"]) == os.path.realpath(interpreter)


def test_our_folder_is_not_on_the_path(stack):
    for folder in inside(stack.server)["path"]:
        if os.path.isdir(folder or "."):
            assert not [name for name in os.listdir(folder or ".") if "_ringhorn" in name], folder


def test_worker_is_not_pinned_by_default(stack):
    assert inside(stack.server)["affinity"] == sorted(os.sched_getaffinity(0))


def test_worker_holds_no_listener(stack):
    """The sockets are the server's: a worker that hangs or lives on keeps no port."""
    [worker] = stack.server.workers()
    mine = set(process.descriptors(stack.server.pid).values())
    shared = [
        name for name in process.descriptors(worker).values() if name in mine and "socket" in name
    ]
    assert shared == []


FORKS = ["return", "exit", "sys-exit", "raise", "write", "read", "yield"]


@pytest.mark.parametrize("how", FORKS)
def test_forked_child_harms_nothing(stack, how):
    workers = stack.server.workers()
    with stack.server.connect() as client:
        for number in range(3):
            response = client.request("POST", f"/fork/{how}", (), b"body")
            assert isinstance(json.loads(response.text)["status"], int), response.text
            assert client.request("GET", f"/pid?number={number}").header("X-Number") == str(number)
    assert stack.server.workers() == workers


def test_forked_child_that_lives_on_harms_nothing(stack):
    for _ in range(5):
        assert json.loads(stack.server.request("GET", "/fork-and-leave").text) == "left"
        still_serves(stack.server)


def test_subprocess_gets_clean_signals_and_descriptors(stack):
    told = json.loads(stack.server.request("GET", "/subprocess").text)
    assert process.signal_set(told["blocked"]) == set()
    assert process.signal_set(told["ignored"]) <= {signal.SIGPIPE, signal.SIGXFSZ}
    leaked = [name for name in told["descriptors"] if not name.startswith("/proc/")]
    assert leaked == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(stack, method):
    with stack.server.connect(40) as client:
        response = client.request("GET", f"/multiprocessing/{method}")
    assert json.loads(response.text) == [49, 0, [0, 1, 4, 9, 16]]
    still_serves(stack.server)


def test_threads_of_the_application(stack):
    assert json.loads(stack.server.request("GET", "/threads").text) == [0, 1, 2, 3, 4]


def test_signal_handlers_of_the_application_run(stack):
    for _ in range(4):
        assert json.loads(stack.server.request("GET", "/signal-self").text) is True


def test_signal_handlers_run_while_the_worker_idles(stack):
    [worker] = stack.server.workers()
    os.kill(worker, signal.SIGUSR2)
    still_serves(stack.server)
    assert stack.server.workers() == [worker]


@pytest.mark.parametrize("kind", ["system-exit", "keyboard-interrupt"])
@pytest.mark.parametrize("where", ["call", "iteration"])
def test_exit_in_the_application_costs_its_request_only(stack, kind, where):
    workers = stack.server.workers()
    for _ in range(6):
        assert stack.server.request("GET", f"/exit/{kind}/{where}").status == 500
    still_serves(stack.server)
    assert stack.server.workers() == workers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_reach_a_worker_are_only_noted(stack, number):
    [worker] = stack.server.workers()
    os.kill(worker, number)
    for count in range(5):
        told = json.loads(stack.server.request("GET", f"/pid?number={count}").text)
        assert told == [worker, str(count)]


def test_workers_end_with_the_server(start):
    server = start("hygiene:application", workers=2)
    workers = server.wait_workers(2)
    server.kill()
    for pid in workers:
        wait_until(lambda pid=pid: not process.is_alive(pid), f"worker {pid} to end", 5)
