"""`--preload`: workers are forked from a process that imported the application once."""

import concurrent.futures
import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from harness import process
from harness.release import ask
from harness.server import Server
from harness.watch import wait_until

APPLICATION = "preloaded:application"


class Preloaded(Server):
    """A server whose workers are its fork servers' children, or were."""

    def fork_servers(self):
        """Children that run our bootstrap and serve nothing."""
        return [pid for pid in process.children(self.pid) if is_ours(pid) and not is_worker(pid)]

    def fork_server(self):
        (pid,) = self.fork_servers()
        return pid

    def workers(self):
        parents = [self.pid, *self.fork_servers()]
        children = [pid for parent in parents for pid in process.children(parent)]
        return [pid for pid in children if is_ours(pid) and is_worker(pid)]

    def ask(self, path):
        """The JSON that a path answers with."""
        answer = self.request("GET", path)
        assert answer.status == 200
        return json.loads(answer.body)

    def facts(self):
        return self.ask("/facts")


def is_ours(pid):
    """Whether a process was started as a worker or fork server is, by its arguments or, once it
    has one, its title; hooks and probes are not."""
    with contextlib.suppress(OSError):
        shown = Path(f"/proc/{pid}/cmdline").read_text()
        titles = ("ringhorn: worker ", "ringhorn: fork server ")
        return shown.endswith("\0003\0") or shown.startswith(titles)
    return False


def descendants(pid):
    """Process ids below a process."""
    children = process.children(pid)
    return children + [below for child in children for below in descendants(child)]


def is_worker(pid):
    """Workers have a native thread that reads their control socket."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return "ringhorn-contro" in [(task / "comm").read_text().strip() for task in tasks]
    return False


@pytest.fixture
def preloaded(interpreter):
    """Makes servers with --preload; `start=False`: for those that are to refuse."""
    servers = []

    def make(application=APPLICATION, *, options=(), said="", start=True, env=None, **settings):
        settings.setdefault("workers", 2)
        env = {"PRELOADED": said, **(env or {})}
        options = ("--preload", *options)
        server = Preloaded(application, python=interpreter, options=options, env=env, **settings)
        servers.append(server)
        return server.start() if start else server.launch()

    yield make
    for server in servers:
        server.kill()


def facts_of_all(server, count):
    """The facts of every worker, by process id."""
    workers = server.wait_workers(count)
    found = {}

    def all_answered():
        facts = server.facts()
        found[facts["pid"]] = facts
        return set(found) >= set(workers)

    wait_until(all_answered, "an answer of every worker", 20)
    return found


def test_the_application_is_imported_once_and_shared(preloaded):
    server = preloaded(workers=3)
    parent = server.fork_server()
    found = facts_of_all(server, 3)
    assert {facts["imported by"] for facts in found.values()} == {parent}
    assert {facts["parent"] for facts in found.values()} == {parent}
    assert len({facts["marker"] for facts in found.values()}) == 1
    assert all(facts["frozen"] > 1000 and facts["gc"] for facts in found.values())
    server.stop()


def test_at_fork_hooks_run_once_in_each_worker(preloaded):
    server = preloaded()
    for pid, facts in facts_of_all(server, 2).items():
        assert facts["forked in"] == [pid]
    server.stop()


@pytest.mark.parametrize("said", ["", "handle-term", "ignore-children"])
def test_a_forked_worker_is_like_one_that_was_started_alone(preloaded, interpreter, said):
    server = preloaded(said=said, workers=2)
    env = {"PRELOADED": said}
    with Server(APPLICATION, python=interpreter, workers=2, env=env) as other:
        alone = json.loads(other.request("GET", "/facts").body)
    for pid, facts in facts_of_all(server, 2).items():
        assert facts["group"] == pid
        for name in (
            "handlers",
            "wakeup",
            "oom_score_adj",
            "blocked",
            "ignored",
            "stdin",
            "threads",
            "main",
        ):
            assert facts[name] == alone[name], name
        assert facts["multiprocess"] is True
        kinds = [
            sorted(re.sub(r"\d+", "N", name) for name in each["descriptors"])
            for each in (facts, alone)
        ]
        assert kinds[0] == kinds[1], "descriptors of the fork server are left in its workers"
    server.stop()


def test_children_of_the_application_work(preloaded):
    server = preloaded(workers=1)
    assert server.ask("/children") == ["42", 5, 49, True, 49, True]
    server.stop()


def test_threads_in_a_forked_worker(preloaded):
    server = preloaded(workers=1, threads=3)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        held = [pool.submit(server.ask, "/hold?seconds=0.3") for _ in range(3)]
        assert len({answer.result() for answer in held}) == 1
    server.stop()


@pytest.mark.parametrize(("path", "status"), [("/die", "SIGKILL"), ("/exit", "exit status: 7")])
def test_a_worker_that_dies_is_replaced_by_another_fork(preloaded, path, status):
    server = preloaded(workers=1)
    parent = server.fork_server()
    before = server.wait_workers(1)
    assert server.request("GET", path).status == 502
    server.log.wait_for(rf"worker 1 \(pid {before[0]}\) ended: .*{status}")
    server.wait_workers(1, without=before)
    facts = server.facts()
    assert facts["imported by"] == parent and facts["pid"] not in before
    server.stop()


@pytest.mark.parametrize("said", ["", "ignore-children"])
def test_no_zombies_stay(preloaded, said):
    server = preloaded(workers=1, said=said)
    for _ in range(3):
        before = server.wait_workers(1)
        os.kill(before[0], signal.SIGKILL)
        server.wait_workers(1, without=before)
    states = [process.status(pid)["State"] for pid in process.children(server.fork_server())]
    assert len(states) == 1 and not states[0].startswith("Z")
    ignored = 1 << (signal.SIGCHLD - 1)
    assert bool(int(server.facts()["ignored"], 16) & ignored) is bool(said)
    assert len(re.findall(r"ended: signal: 9", server.log.text)) == 3
    server.stop()


def test_workers_outlive_their_fork_server_and_a_new_one_imports_when_needed(preloaded):
    server = preloaded(workers=2)
    parent = server.fork_server()
    workers = server.wait_workers(2)
    facts_of_all(server, 2)
    os.kill(parent, signal.SIGKILL)
    server.log.wait_for(r"fork server 1 .* ended: signal: 9 .*its workers serve on")
    wait_until(lambda: set(process.children(server.pid)) == set(workers), "adoption", 10)
    assert server.facts()["pid"] in workers
    # The next is started by need only, and what adopted workers do is noticed as before.
    os.kill(workers[0], signal.SIGKILL)
    server.log.wait_for(rf"\(pid {workers[0]}\) ended: signal: 9")
    wait_until(lambda: len(server.fork_servers()) == 1, "a new fork server", 10)

    def new_one():
        facts = server.facts()
        return facts if facts["pid"] not in workers else None

    facts = wait_until(new_one, "an answer of the new worker", 20)
    assert facts["imported by"] == server.fork_server() != parent
    server.stop()


REFUSED = {
    "raise": "preloaded cannot be imported: LookupError",
    "exit": "its interpreter ended",
}


@pytest.mark.parametrize("said", REFUSED)
def test_an_application_that_cannot_be_imported(preloaded, said):
    server = preloaded(said=said, start=False)
    assert server.wait() == 3
    assert REFUSED[said] in server.log.text
    assert server.log.text.count("LookupError: no such release") <= 1
    assert "hint: " in server.log.text


def test_a_fork_that_is_refused_is_said_so(preloaded):
    server = preloaded(said="refuse-fork", start=False)
    assert server.wait() == 4
    assert "a worker cannot boot: fork: Resource temporarily unavailable" in server.log.text


def test_a_fork_server_that_hangs_is_replaced(preloaded):
    server = preloaded(workers=1)
    parent = server.fork_server()
    (worker,) = server.wait_workers(1)
    os.kill(parent, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    server.log.wait_for(r"fork server 1 .* is killed: it does not say how its workers end")
    # The dead worker became the server's own child: it learned the status all the same.
    server.log.wait_for(rf"\(pid {worker}\) ended: signal: 9")
    server.wait_workers(1, without=[worker])
    assert server.facts()["imported by"] == server.fork_server() != parent
    server.stop()


def test_kills_at_random_instants_leave_nobody_behind(preloaded):
    """Of workers and fork servers, at any stage of their lives; the seed is in the log of a
    failure."""
    seed = int(time.time())
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = preloaded(workers=2)
    for _ in range(25):
        everybody = [pid for pid in descendants(server.pid) if is_ours(pid)]
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(chance.choice(everybody), signal.SIGKILL)
        time.sleep(chance.random() * 0.05)
    server.wait_workers(2, seconds=40)
    assert server.facts()["imported by"] in server.fork_servers()

    def settled():
        ours = [pid for pid in descendants(server.pid) if is_ours(pid)]
        return len(ours) == 3 and len(server.workers()) == 2

    wait_until(settled, "one fork server and two workers, and nobody else", 20)
    server.stop()


def test_an_import_that_hangs_ends_with_its_stack(preloaded):
    server = preloaded(said="hang", options=("--startup-timeout", "1"), start=False)
    assert server.wait() == 3
    assert "was not ready within --startup-timeout" in server.log.text
    assert re.search(r'File ".*preloaded.py", line \d+ in <module>', server.log.text)


def test_a_fork_that_hangs_ends_with_its_stack(preloaded):
    server = preloaded(said="hang-fork", options=("--startup-timeout", "1"), start=False)
    assert server.wait() == 3
    assert "was not ready within --startup-timeout" in server.log.text
    assert re.search(r'File ".*_preload.py", line \d+ in serve', server.log.text)


def test_term_during_the_import_ends_at_once(preloaded):
    server = preloaded(said="hang", start=False)
    server.log.wait_for("import hangs")
    children = process.children(server.pid)
    server.signal(signal.SIGTERM)
    assert server.wait(5) == 0
    assert not any(process.is_alive(pid) for pid in children)


def test_threads_started_at_import_are_warned_of(preloaded):
    server = preloaded(said="thread")
    assert "1 more thread runs after the import (poller)" in server.log.text
    assert "poller" not in server.facts()["threads"]
    server.stop()


def test_without_threads_nothing_is_warned_of(preloaded):
    server = preloaded()
    server.stop()
    assert "warning" not in server.log.text


def test_output_buffered_at_import_is_written_once(preloaded):
    server = preloaded(said="buffered", workers=3)
    server.wait_workers(3)
    server.stop()
    assert server.out.text.count("written once") == 1


def test_warm_up_and_hooks_run_in_each_worker(preloaded, tmp_path):
    hooks = tmp_path / "hooks_of_tests.py"
    hooks.write_text(
        "import os\n"
        "imported_by = os.getpid()\n"
        "def say(name, worker):\n"
        "    import preloaded\n"
        "    said = (name, worker.pid, len(preloaded.forked_in), imported_by)\n"
        # One write: lines of two workers that leave at a time do not mix.
        "    os.write(1, b'%s %d %d %d\\n' % (said[0].encode(), *said[1:]))\n"
        "def post_fork(server, worker): say('post_fork', worker)\n"
        "def worker_start(server, worker): say('worker_start', worker)\n"
        "def worker_exit(server, worker): say('worker_exit', worker)\n"
    )
    options = ("--hooks", hooks, "--warm-up", "/facts", "--warm-up", "/nowhere")
    server = preloaded(options=options)
    parent = server.fork_server()
    workers = server.wait_workers(2)
    facts_of_all(server, 2)
    server.stop()
    said = [line.split() for line in server.out.text.splitlines()]
    for name in ("post_fork", "worker_start", "worker_exit"):
        assert {int(pid) for hook, pid, *_ in said if hook == name} == set(workers)
    assert {(count, by) for _, _, count, by in said} == {("1", str(parent))}
    assert server.log.text.count("GET /nowhere was answered 404") == 2


def test_reload_imports_in_a_new_fork_server_beside_the_old_one(preloaded):
    server = preloaded(workers=2)
    parent = server.fork_server()
    before = server.wait_workers(2)
    server.signal(signal.SIGHUP)
    server.log.wait_for("reloaded: generation 2", 30)
    wait_until(lambda: parent not in server.fork_servers(), "the old fork server to leave", 10)
    found = facts_of_all(server, 2)
    assert {facts["imported by"] for facts in found.values()} == {server.fork_server()}
    assert not set(found) & set(before)
    server.stop()


@pytest.mark.parametrize("strategy", ["rolling", "all"])
def test_reloads_under_load_fail_no_request_and_close_no_connection(preloaded, strategy):
    server = preloaded(workers=2, said="slow", options=("--reload-strategy", strategy))
    server.wait_workers(2)
    over = threading.Event()

    def keep_asking():
        statuses = []
        with server.connect() as client:
            while not over.is_set():
                statuses.append(client.request("GET", "/hold?seconds=0.002").status)
        return statuses

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_asking) for _ in range(8)]
        try:
            for generation in (2, 3, 4):
                server.signal(signal.SIGHUP)
                server.log.wait_for(f"reloaded: generation {generation}", 30)
        finally:
            over.set()
        statuses = [status for client in clients for status in client.result()]
    assert len(statuses) > 100 and set(statuses) == {200}
    wait_until(lambda: len(server.fork_servers()) == 1, "the old fork servers to leave", 10)
    server.stop()


def test_a_reload_during_a_reload_gives_the_first_one_up(preloaded):
    """Workers that wait for the first one's fork server are not wanted any more, and nor is it."""
    server = preloaded(workers=2, said="slow", options=("--reload-strategy", "all"))
    before = server.wait_workers(2)
    first = server.fork_server()
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(server.fork_servers()) == 2, "the second fork server", 10)
    second = next(pid for pid in server.fork_servers() if pid != first)
    server.signal(signal.SIGHUP)
    server.log.wait_for("the reload under way is given up for a newer one")
    server.log.wait_for("reloaded: generation 3", 30)
    assert "generation 2 serves" not in server.log.text
    for pid in (first, second, *before):
        wait_until(lambda pid=pid: not process.is_alive(pid), f"process {pid} to end", 10)
    server.wait_workers(2)
    server.stop()


def test_more_and_fewer_workers_by_hand(preloaded):
    server = preloaded(workers=1)
    parent = server.fork_server()
    server.wait_workers(1)
    server.signal(signal.SIGTTIN)
    server.wait_workers(2)
    server.signal(signal.SIGTTOU)
    server.wait_workers(1)
    assert server.fork_server() == parent
    code, status = ask(server, "status")
    assert code == 0
    assert f"fork server 1 (pid {parent}): generation 1, ready" in status
    server.stop()


def test_reload_onto_a_release_that_cannot_be_imported(preloaded, tmp_path):
    release = tmp_path / "release.py"
    release.write_text("from preloaded import application\n")
    server = preloaded("release:application", options=("--chdir", tmp_path))
    parent = server.fork_server()
    before = server.wait_workers(2)
    release.write_text("raise LookupError('the new release')\n")
    server.signal(signal.SIGHUP)
    server.log.wait_for("reload failed: .*release cannot be imported: LookupError")
    wait_until(lambda: server.fork_servers() == [parent], "the new fork server to leave", 10)
    assert set(facts_of_all(server, 2)) == set(before)
    # The old generation still forks.
    os.kill(before[0], signal.SIGKILL)
    server.wait_workers(2, without=before[:1])
    assert server.facts()["imported by"] == parent
    server.stop()


def test_recycling_forks_from_the_one_import(preloaded):
    options = ("--max-requests", "5", "--max-requests-jitter", "0")
    server = preloaded(workers=1, options=options)
    parent = server.fork_server()
    pids = set()

    def recycled():
        facts = server.facts()
        assert facts["imported by"] == parent
        pids.add(facts["pid"])
        return len(pids) >= 4

    wait_until(recycled, "four workers one after the other", 30)
    assert server.fork_server() == parent
    server.stop()


def test_kills_under_load_cost_the_requests_that_ran(preloaded):
    server = preloaded(workers=2, said="")
    server.wait_workers(2)
    outcomes = []

    def ask():
        with contextlib.suppress(OSError):
            outcomes.append(server.request("GET", "/hold?seconds=0.01").status)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(200)]
        for _ in range(5):
            victims = server.wait_workers(2)
            os.kill(victims[0], signal.SIGKILL)
            server.wait_workers(2, without=victims[:1])
        concurrent.futures.wait(asked)
    assert len(outcomes) == 200
    assert set(outcomes) <= {200, 502} and outcomes.count(502) <= 5
    server.stop()


def test_fast_stop_leaves_nothing(preloaded):
    server = preloaded(said="atexit")
    everybody = [*server.fork_servers(), *server.wait_workers(2)]
    server.signal(signal.SIGINT)
    assert server.wait(10) == 0
    assert not any(process.is_alive(pid) for pid in everybody)


def test_nobody_outlives_a_server_that_is_killed(preloaded):
    server = preloaded()
    everybody = [*server.fork_servers(), *server.wait_workers(2)]
    server.process.kill()
    for pid in everybody:
        wait_until(lambda pid=pid: not process.is_alive(pid), f"process {pid} to end", 10)


def test_check_loads_the_application_without_a_fork_server(preloaded):
    server = preloaded(options=("--check",), start=False)
    assert server.wait() == 0
    assert server.out.text == "OK"
