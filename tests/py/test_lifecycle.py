"""Start, stop and configuration of the server: signals, exit codes, the application specification,
options, their environment variables, and what is said when something is wrong.
"""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import process, server
from harness.address import Address
from harness.client import Client, Truncated, encode_request
from harness.server import APPS, LISTENING, Server
from harness.watch import wait_until

LOADING = APPS / "loading"


@pytest.fixture
def refused(interpreter):
    """Starts a server that must refuse; gives its exit code and log."""

    def run(application, **settings):
        settings.setdefault("python", interpreter)
        one = Server(application, **settings).launch()
        try:
            code = one.wait(20)
            assert code >= 0 and "panicked" not in one.log.text, one.log.text
            return code, one.log.text
        finally:
            one.kill()

    return run


def held(start, tmp_path, count=1, **settings):
    """A server with `count` requests standing in the application."""
    one = start("hygiene:application", **settings)
    gate, log = tmp_path / "gate", tmp_path / "log"
    clients = [one.connect(20) for _ in range(count)]
    for client in clients:
        client.send(encode_request("GET", f"/hold?until={gate}&log={log}"))
    wait_until(lambda: log.exists() and "called" in log.read_text(), "a call", 5)
    return one, clients, gate


# Stopping.


def test_term_finishes_what_is_running_and_queued(start, tmp_path):
    one, clients, gate = held(start, tmp_path, 5, threads=2)
    one.signal(signal.SIGTERM)
    time.sleep(0.2)
    assert one.process.poll() is None, "the server left requests alone"
    gate.touch()
    assert [client.response().status for client in clients] == [200] * 5
    assert one.wait(10) == 0


def test_term_finishes_an_answer_on_its_way(start, tmp_path):
    one = start("hygiene:application", threads=1)
    gate, log = tmp_path / "gate", tmp_path / "log"
    with one.connect() as client:
        client.send(encode_request("GET", f"/hold-in-body?until={gate}&log={log}"))
        wait_until(lambda: log.exists(), "the call", 5)
        one.signal(signal.SIGTERM)
        gate.touch()
        assert client.response().body == b"firstsecond"
    assert one.wait(10) == 0


def test_term_takes_no_new_connections(start, tmp_path):
    one, [client], gate = held(start, tmp_path)
    one.signal(signal.SIGTERM)

    def is_refused():
        try:
            with Client(one.address, 0.5) as late:
                return late.request("GET", "/pid").status == 503
        except (ConnectionError, TimeoutError, Truncated):
            return True

    wait_until(is_refused, "new connections to be refused", 5)
    gate.touch()
    assert client.response().status == 200
    assert one.wait(10) == 0


def test_term_closes_idle_connections(start):
    one = start("hygiene:application")
    with one.connect() as idle:
        assert idle.request("GET", "/pid").status == 200
        one.signal(signal.SIGTERM)
        assert idle.is_closed()
    assert one.wait(10) == 0


def test_answers_after_term_say_close(start, tmp_path):
    one, [client], gate = held(start, tmp_path)
    one.signal(signal.SIGTERM)
    time.sleep(0.1)
    gate.touch()
    assert client.response().header("Connection").lower() == "close"
    assert client.is_closed()
    assert one.wait(10) == 0


def test_term_under_load_loses_no_request(start, tmp_path):
    """Every request whose connection was made before TERM is answered."""
    path = tmp_path / "http.sock"
    one = start("hygiene:application", binds=("http://127.0.0.1:0", f"unix:{path}"), threads=2)
    ended = threading.Event()
    told = []
    lost = []
    answered = []

    def run(address):
        while not ended.is_set():
            try:
                client = Client(address, 20)
            except OSError:
                return
            before = not told
            try:
                with client:
                    response = client.request("GET", "/pid?ms=5&number=x")
                    answered.append(response.status)
            except (Truncated, ConnectionError) as error:
                if before:
                    lost.append(error)
                return

    threads = [
        threading.Thread(target=run, args=(address,), daemon=True) for address in one.addresses * 4
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 100, "a hundred answers", 10)
    told.append(time.monotonic())
    one.signal(signal.SIGTERM)
    assert one.wait(15) == 0
    ended.set()
    for thread in threads:
        thread.join(20)
    assert set(answered) <= {200, 503} and answered.count(200) > 100
    assert not lost


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_fast(start, tmp_path, number):
    one, [client], _ = held(start, tmp_path)
    workers = one.workers()
    started = time.monotonic()
    one.signal(number)
    one.wait(8)
    assert time.monotonic() - started < 6
    for pid in workers:
        wait_until(lambda pid=pid: not process.is_alive(pid), f"worker {pid} to end", 5)
    client.close()


def test_int_after_term_stops_fast(start, tmp_path):
    one, _, _ = held(start, tmp_path)
    one.signal(signal.SIGTERM)
    time.sleep(0.2)
    one.signal(signal.SIGINT)
    one.wait(8)


def test_graceful_timeout_ends_what_does_not_end(start, tmp_path):
    one, [client], _ = held(start, tmp_path, options=["--graceful-timeout", "1"])
    started = time.monotonic()
    one.signal(signal.SIGTERM)
    one.wait(10)
    assert 0.8 < time.monotonic() - started < 6
    client.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE])
def test_other_signals_never_kill_the_server(start, number):
    one = start("hygiene:application")
    for _ in range(3):
        one.signal(number)
        assert one.request("GET", "/pid").status == 200
    assert one.process.poll() is None


def test_winch_of_a_terminal_changes_nothing(start):
    ours, theirs = os.openpty()
    try:
        one = start("hygiene:application", stdin=theirs)
        before = one.workers()
        one.signal(signal.SIGWINCH)
        assert one.request("GET", "/pid").status == 200
        assert one.workers() == before and "Winch" not in one.log.text
    finally:
        os.close(ours)
        os.close(theirs)


def test_unix_socket_is_removed_and_a_stale_one_taken_over(start, tmp_path):
    path = tmp_path / "http.sock"
    first = start("hello:application", binds=(f"unix:{path}?mode=0600",))
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.request("GET", "/").status == 200
    first.kill()
    assert path.exists(), "a killed server leaves its socket"
    second = start("hello:application", binds=(f"unix:{path}",))
    assert second.request("GET", "/").status == 200
    second.stop()
    assert not path.exists()


def test_live_unix_socket_is_refused(start, refused, tmp_path):
    path = tmp_path / "http.sock"
    first = start("hello:application", binds=(f"unix:{path}",))
    code, log = refused("hello:application", binds=(f"unix:{path}",))
    assert code != 0 and str(path) in log
    assert first.request("GET", "/").status == 200


def test_taken_port_is_refused(start, refused):
    first = start("hello:application")
    bind = f"http://127.0.0.1:{first.address.port}"
    code, log = refused("hello:application", binds=(bind,))
    assert code != 0 and str(first.address.port) in log
    assert first.request("GET", "/").status == 200


def test_several_binds_of_one_kind(start):
    one = start("hello:application", binds=("http://127.0.0.1:0", "127.0.0.1:0"))
    assert len(set(one.addresses)) == 2
    for address in one.addresses:
        with Client(address) as client:
            assert client.request("GET", "/").status == 200


def test_ipv6(start):
    one = start("hello:application", binds=("http://[::1]:0",))
    assert one.address.host == "::1"
    assert one.request("GET", "/").status == 200


def test_inherited_descriptor(start):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        one = start("hello:application", binds=(f"http://fd://{number}",), pass_fds=(number,))
        address = Address("http", host="127.0.0.1", port=listener.getsockname()[1])
        with Client(address) as client:
            assert client.request("GET", "/").status == 200
        one.stop()


@pytest.mark.parametrize(
    "options", [["--event-loops", "2"], ["--event-loops", "2", "--reuse-port"]]
)
def test_several_event_loops(start, options):
    one = start("hygiene:application", workers=2, threads=2, options=options)
    clients = [one.connect() for _ in range(100)]
    for turn in range(3):
        for number, client in enumerate(clients):
            client.send(encode_request("GET", f"/pid?number={turn}-{number}"))
        for number, client in enumerate(clients):
            assert client.response().header("X-Number") == f"{turn}-{number}"
    for client in clients:
        client.close()


def test_connections_wait_until_a_worker_is_ready(interpreter, tmp_path):
    gate = tmp_path / "gate"
    one = Server(
        "slow:application", python=interpreter, pythonpath=LOADING, env={"GATE": str(gate)}
    )
    one.launch()
    try:
        found = one.log.wait_for(LISTENING, 10)
        with Client(Address("http", host="127.0.0.1", port=int(found.group(3)))) as client:
            client.send(encode_request("GET", "/"))
            assert client.is_silent(0.3)
            gate.touch()
            assert client.response().body == b"slow"
        one.wait_ready()
        one.stop()
    finally:
        one.kill()


# The interpreter.


@pytest.mark.parametrize("form", ["path", "folder", "VIRTUAL_ENV", "name"])
def test_interpreter_by(start, interpreter, form):
    folder = os.path.dirname(os.path.dirname(interpreter))
    path = os.path.dirname(interpreter) + ":" + os.environ["PATH"]
    python, env = {
        "path": (interpreter, {}),
        "folder": (folder, {}),
        "VIRTUAL_ENV": (None, {"VIRTUAL_ENV": folder}),
        "name": (os.path.basename(interpreter), {"PATH": path}),
    }[form]
    one = start("hygiene:application", python=python, env=env)
    told = json.loads(one.request("GET", "/inside").text)["executable"]
    assert os.path.dirname(told) == os.path.dirname(interpreter)


def test_abstract_unix_socket(start, tmp_path):
    name = "@ringhorn-test-" + tmp_path.name
    one = start("hello:application", binds=(f"unix:{name}",))
    with Client(Address("http", path="\0" + name[1:])) as client:
        assert client.request("GET", "/").status == 200
    one.stop()


# Loading the application.


@pytest.mark.parametrize(
    "application, answer",
    [
        ("attributes:app", b"app"),
        ("attributes:other", b"other"),
        ("attributes", b"app"),
        ("both", b"application"),
        ("attributes:factory()", b"factory"),
        (str(LOADING / "attributes.py"), b"app"),
        (str(LOADING / "attributes.py") + ":other", b"other"),
    ],
)
def test_application_specification(start, application, answer):
    one = start(application, pythonpath=LOADING)
    assert one.request("GET", "/").body == answer


@pytest.mark.parametrize(
    "application, said",
    [
        ("raises:application", "ValueError: the application could not be imported"),
        ("exits:application", "leaving at import"),
        ("nowhere:application", "No module named 'nowhere'"),
        ("attributes:missing", "missing"),
        ("attributes:not_callable", "not_callable"),
        ("attributes:missing()", "missing"),
        ("./nowhere.py", "nowhere.py"),
    ],
)
def test_application_that_cannot_be_loaded(refused, application, said):
    code, log = refused(application, pythonpath=LOADING)
    assert code != 0
    assert said in log, log


def test_import_error_shows_the_whole_traceback(refused):
    code, log = refused("raises:application", pythonpath=LOADING)
    assert code != 0
    assert "Traceback (most recent call last)" in log
    assert re.search(r'File ".*raises\.py", line \d+, in deep', log)


def test_broken_application_with_many_workers_ends_once(refused):
    code, log = refused("raises:application", pythonpath=LOADING, workers=3)
    assert code != 0
    assert log.count("the application could not be imported") <= 6


def test_chdir_and_env_reach_the_worker(start, tmp_path):
    options = ["--chdir", tmp_path, "--env", "OWN=a=b c", "-e", "OTHER="]
    one = start("hygiene:application", options=options)
    facts = json.loads(one.request("GET", "/inside").text)
    assert facts["cwd"] == str(tmp_path)
    assert (facts["env"]["OWN"], facts["env"]["OTHER"]) == ("a=b c", "")


def test_pythonpath_of_the_environment_is_honoured(start):
    one = start("attributes:app", pythonpath=None, env={"PYTHONPATH": str(LOADING)})
    assert one.request("GET", "/").body == b"app"


def test_application_beside_the_working_directory(start):
    one = start("attributes:app", pythonpath=None, options=["--chdir", LOADING])
    assert one.request("GET", "/").body == b"app"


# Options.


def run(*arguments, env=None):
    """Runs the binary to its end."""
    done = subprocess.run(
        [server.binary(), *arguments],
        env=server.environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode >= 0 and "panicked" not in done.stderr, done.stderr
    return done


def check(interpreter, application, *options, env=None):
    paths = ["--pythonpath", str(APPS), "--pythonpath", str(LOADING)]
    return run("--python", interpreter, *paths, "--check", *options, application, env=env)


def test_check_of_a_good_application(interpreter):
    done = check(interpreter, "hello:application")
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout + done.stderr


@pytest.mark.parametrize("application", ["raises:application", "nowhere", "attributes:missing"])
def test_check_of_a_bad_application(interpreter, application):
    done = check(interpreter, application)
    assert done.returncode != 0
    assert "OK" not in done.stdout


def test_check_of_a_bad_option(interpreter):
    assert check(interpreter, "hello:application", "--threads", "many").returncode != 0


@pytest.mark.parametrize(
    "option, suggestion",
    [
        ("--worker=2", "--workers"),
        ("--thread=2", "--threads"),
        ("--access-log-file=-", "--access-logfile"),
        ("--limit-request-lines=1", "--limit-request-line"),
        ("--pythonpth=x", "--pythonpath"),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(option, suggestion):
    done = run(option, "hello:application")
    assert done.returncode != 0
    assert suggestion in done.stderr, done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--threads", "0"],
        ["--workers", "-1"],
        ["--bind", "nonsense://x"],
        ["--bind", "127.0.0.1:99999"],
        ["--keep-alive", "soon"],
        ["--limit-request-body", "5 apples"],
        ["--access-logformat", "%(nonsense)s"],
        ["--cpu-affinity", "9999"],
        ["--python", "/nowhere/python"],
        ["--python", "/bin/false"],
    ],
)
def test_bad_values_are_refused(options):
    done = run(*options, "--bind", "127.0.0.1:0", "--pythonpath", str(APPS), "hello:application")
    assert done.returncode != 0
    assert options[0].lstrip("-") in done.stderr or options[1] in done.stderr, done.stderr


def test_version_and_help():
    assert re.search(r"ringhorn \d+\.\d+", run("--version").stdout)
    told = run("--help").stdout
    for option in ("--bind", "--workers", "--threads", "--python"):
        assert option in told


def test_options_from_the_environment(start):
    env = {"RINGHORN_THREADS": "3", "RINGHORN_WORKERS": "2"}
    one = start("pep3333:application", workers=None, threads=None, env=env)
    told = json.loads(one.request("GET", "/environ-object").text)
    assert (told["multithread"], told["multiprocess"]) == (True, True)
    one.wait_workers(2)


def test_command_line_comes_before_the_environment(start):
    one = start("hello:application", workers=1, env={"RINGHORN_WORKERS": "3"})
    one.wait_workers(1)
    assert "ready: 1 worker" in one.log.text


def test_web_concurrency(start):
    start("hello:application", workers=None, env={"WEB_CONCURRENCY": "2"}).wait_workers(2)


def test_own_variable_comes_before_web_concurrency(start):
    env = {"WEB_CONCURRENCY": "3", "RINGHORN_WORKERS": "2"}
    start("hello:application", workers=None, env=env).wait_workers(2)


def test_port(start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one = start("hello:application", binds=(), env={"PORT": str(port)})
    one.log.wait_for(rf"listening on http://0\.0\.0\.0:{port}", 1)
    with Client(Address("http", host="127.0.0.1", port=port)) as client:
        assert client.request("GET", "/").status == 200


def test_bad_variable_is_refused(refused):
    code, log = refused("hello:application", threads=None, env={"RINGHORN_THREADS": "many"})
    assert code != 0 and "RINGHORN_THREADS" in log


def test_first_line_says_which_interpreter_and_why(start, interpreter):
    one = start("hello:application")
    line = next(line for line in one.log.text.splitlines() if line.strip())
    assert str(interpreter) in line and "--python" in line


def test_cpu_affinity_pins_the_workers(start):
    core = min(os.sched_getaffinity(0))
    one = start("hygiene:application", options=["--cpu-affinity", str(core)])
    assert json.loads(one.request("GET", "/inside").text)["affinity"] == [core]
