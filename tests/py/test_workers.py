"""Worker processes: what they are started with, how they die and what that costs, and what
applications may do in them: fork, subprocess, multiprocessing, threads, signals.
"""

import json
import os
import resource
import signal

import pytest

from harness import process
from harness.client import Truncated, encode_request
from harness.watch import wait_until

STACK = dict(application="hygiene:application", threads=2)
DEADLY = {signal.SIGKILL: "kill", signal.SIGABRT: "abort", signal.SIGSEGV: "segfault"}


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


@pytest.mark.parametrize("how", ["kill", "exit", "abort", "segfault"])
def test_death_in_a_request_gives_502_and_a_new_worker(stack, how):
    before = stack.server.workers()
    assert stack.server.request("GET", f"/die/{how}").status == 502
    still_serves(stack.server)
    wait_until(
        lambda: len(stack.server.workers()) == 1 and stack.server.workers() != before,
        "a new worker",
        10,
    )


def test_segfault_leaves_a_trace_in_the_log(stack):
    mark = stack.server.log.mark()
    assert stack.server.request("GET", "/die/segfault").status == 502
    stack.server.log.wait_for("Fatal Python error: Segmentation fault", 5, since=mark)
    stack.server.log.wait_for("_die", 5, since=mark)
    still_serves(stack.server)


def test_death_is_logged_with_its_signal(stack):
    mark = stack.server.log.mark()
    stack.server.request("GET", "/die/kill")
    stack.server.log.wait_for(r"(?i)worker.*(SIGKILL|signal:? 9|killed)", 5, since=mark)
    still_serves(stack.server)


@pytest.mark.fronts("all")
def test_death_in_a_request_behind_every_front(front):
    with front.connect() as client:
        assert client.request("GET", "/die/kill").status == 502
    assert front.request("GET", "/pid?number=next").header("X-Number") == "next"


@pytest.mark.fronts("http")
def test_death_in_the_body_cuts_the_connection(front):
    with front.connect() as client, pytest.raises(Truncated):
        client.request("GET", "/die/kill-in-body")
    assert front.request("GET", "/pid?number=next").header("X-Number") == "next"


def test_death_harms_no_other_request(start, tmp_path):
    server = start("hygiene:application", workers=2, threads=2)
    gate, log = tmp_path / "gate", tmp_path / "log"
    path = f"/hold?until={gate}&log={log}"
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        client.send(encode_request("GET", path))
    wait_until(lambda: log.exists() and log.read_text().count("called") == 4, "4 calls", 5)
    pids = [int(line.split()[1]) for line in log.read_text().splitlines() if "called" in line]
    assert len(set(pids)) == 2
    victim = pids[0]
    with server.connect() as queued:
        queued.send(encode_request("GET", "/pid?number=queued"))
        os.kill(victim, signal.SIGKILL)
        # The queued request is served by the new worker: it was nobody's yet.
        assert queued.response().header("X-Number") == "queued"
    gate.touch()
    answers = sorted(client.response().status for client in clients)
    for client in clients:
        client.close()
    lost = pids.count(victim)
    assert answers == [200] * (4 - lost) + [502] * lost


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
    workers = server.workers()
    assert len(workers) == 2
    server.kill()
    for pid in workers:
        wait_until(lambda pid=pid: not process.is_alive(pid), f"worker {pid} to end", 5)
