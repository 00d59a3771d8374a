"""Reload: a new release takes over without a connection closed; a broken one changes nothing."""

import os
import re
import signal
import subprocess
import time

import pytest

from harness import process
from harness.release import ask, name_and_pid, served, wait_ready
from harness.server import binary
from harness.watch import wait_until

BROKEN = {
    "raises": "raise ValueError('this release is broken')\n",
    "exits": "import os\nos._exit(7)\n",
    "segfaults": "import ctypes\nctypes.string_at(0)\n",
    "leaves": "import sys\nsys.exit('not today')\n",
    "has no application": "",
}


@pytest.mark.parametrize("strategy", ["rolling", "all"])
def test_reload_takes_the_new_release_and_closes_no_connection(serve_release, release, strategy):
    one = serve_release(workers=2, options=["--reload-strategy", strategy])
    wait_ready(one, 2)
    old = one.workers()
    with one.connect() as kept:
        assert name_and_pid(kept.request())[0] == "one"
        release.write("two")
        code, said = ask(one, "reload")
        assert code == 0 and "generation 2 serves" in said
        # The command returns when the old workers are gone.
        assert not any(process.is_alive(pid) for pid in old)
        assert name_and_pid(kept.request())[0] == "two"
    assert len(one.workers()) == 2


def test_hup_reloads(serve_release, release):
    one = serve_release()
    release.write("two")
    one.signal(signal.SIGHUP)
    one.log.wait_for("reloaded: generation 2 serves")
    assert served(one) == "two"


def test_request_that_runs_is_finished_by_its_old_worker(start, tmp_path):
    from harness.client import encode_request
    from harness.server import APPS

    one = start("hygiene:application", options=["--chdir", APPS])
    gate, log = tmp_path / "gate", tmp_path / "log"
    (old,) = one.workers()
    with one.connect(20) as held:
        held.send(encode_request("GET", f"/hold?until={gate}&log={log}"))
        wait_until(lambda: log.exists() and "called" in log.read_text(), "a call", 5)
        one.signal(signal.SIGHUP)
        one.log.wait_for("replaces worker 1")
        # The new one serves meanwhile.
        assert one.request("GET", "/pid").status in (200, 404)
        assert process.is_alive(old)
        gate.touch()
        assert held.response().status == 200
    one.log.wait_for("reloaded: generation 2")
    assert not process.is_alive(old)


def test_worker_that_does_not_leave_is_killed(serve_release, release, tmp_path):
    hang = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
    release.write("one", before=hang)
    one = serve_release(options=["--graceful-timeout", "0.3"])
    (old,) = one.workers()
    release.write("two")
    code, said = ask(one, "reload")
    assert code == 0, said
    assert not process.is_alive(old) and served(one) == "two"
    one.log.wait_for("did not leave within --graceful-timeout")


@pytest.mark.parametrize("strategy", ["rolling", "all"])
@pytest.mark.parametrize("how", BROKEN)
def test_broken_release_changes_nothing(serve_release, release, how, strategy):
    one = serve_release(workers=2, options=["--reload-strategy", strategy])
    wait_ready(one, 2)
    old = sorted(one.workers())
    if how == "has no application":
        release.write_text("")
    else:
        release.write("two", before=BROKEN[how])
    code, said = ask(one, "reload")
    assert code != 0
    assert "reload failed" in said and "hint:" in said and "the old workers serve on" in said
    if how == "raises":
        # The whole traceback, where it was asked and in the log.
        line = "raise ValueError('this release is broken')"
        assert line in said
        one.log.wait_for(re.escape(line))
    wait_until(lambda: sorted(one.workers()) == old, "the new workers to go")
    assert served(one) == "one"
    release.write("three")
    assert ask(one, "reload")[0] == 0
    assert served(one) == "three"


def test_release_that_hangs_is_stopped_and_says_where(serve_release, release):
    one = serve_release(options=["--startup-timeout", "0.8"])
    old = one.workers()
    release.write("two", before="import time\ntime.sleep(3600)\n")
    code, said = ask(one, "reload")
    assert code != 0 and "--startup-timeout" in said
    one.log.wait_for(re.escape(f'File "{release.file}", line 2'))
    assert one.workers() == old and served(one) == "one"


def test_newer_reload_supersedes_one_under_way(serve_release, release, tmp_path):
    one = serve_release()
    gate = tmp_path / "gate"
    release.write(
        "two",
        before=f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n",
    )
    command = [binary(), "reload", "--server-pid", str(one.pid)]
    with subprocess.Popen(command, env=one.env, stdout=subprocess.PIPE, text=True) as first:
        wait_until(lambda: len(one.workers()) == 2, "the second generation to start")
        release.write("three")
        assert ask(one, "reload")[0] == 0
        # Who asked first is answered with the newest.
        assert "generation 3 serves" in first.communicate(timeout=20)[0]
        assert first.returncode == 0
    assert served(one) == "three" and not gate.exists()


def test_reload_during_a_stop_is_refused(serve_release, release, tmp_path):
    one = serve_release()
    one.signal(signal.SIGTERM)
    one.log.wait_for("stopping gracefully")
    assert ask(one, "reload")[0] != 0
    assert one.wait() == 0


def test_term_gives_a_reload_up(serve_release, release):
    one = serve_release()
    release.write("two", before="import time\ntime.sleep(3600)\n")
    one.signal(signal.SIGHUP)
    wait_until(lambda: len(one.workers()) == 2, "the second generation to start")
    one.stop()


def test_touch_reloads(serve_release, release, tmp_path):
    file = tmp_path / "touch-me"
    one = serve_release(options=["--touch-reload", file])
    release.write("two")
    file.touch()
    one.log.wait_for("reloaded: generation 2")
    assert served(one) == "two"
    os.utime(file, (1, 1))
    one.log.wait_for("reloaded: generation 3")


def test_reload_option_watches_what_was_imported(serve_release, release):
    (release.folder / "part.py").write_text("WORD = 'a'\n")
    release.write("one", before="import part\n")
    page = release.folder / "page.html"
    page.write_text("<p>")
    one = serve_release(
        workers=2, options=["--reload", "--reload-extra-file", release.folder / "*.html"]
    )
    time.sleep(1.2)
    assert "reload (" not in one.log.text
    (release.folder / "part.py").write_text("WORD = 'longer'\n")
    one.log.wait_for(r"part\.py changed")
    one.log.wait_for("reloaded: generation 2")
    page.write_text("<p>more")
    one.log.wait_for(r"page\.html changed")
    one.log.wait_for("reloaded: generation 3")
    # A release that fails is followed by the one that mends it.
    release.write("broken", before="import missing_part\n")
    one.log.wait_for("reload failed")
    (release.folder / "missing_part.py").write_text("")
    one.log.wait_for("reloaded: generation 5")
    assert served(one) == "broken"
    assert one.log.text.count("changed): generation") == 4


def test_status_names_workers_and_generations(serve_release, release):
    one = serve_release(workers=2)
    wait_ready(one, 2)
    code, said = ask(one, "status")
    assert code == 0 and f"(pid {one.pid}): serving" in said
    assert said.count("generation 1, ready") == 2
    for pid in one.workers():
        assert f"(pid {pid})" in said


def test_control_socket_is_the_owners_alone_and_goes_with_the_server(serve_release, tmp_path):
    path = tmp_path / "server.ctl"
    one = serve_release(options=["--control-socket", path])
    assert path.stat().st_mode & 0o777 == 0o600
    command = [binary(), "status", "--control-socket", str(path)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    one.stop()
    assert not path.exists()
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode != 0 and "no server answers" in run.stderr and "hint:" in run.stderr


def test_control_socket_of_a_living_server_is_refused(serve_release, tmp_path, release):
    path = tmp_path / "server.ctl"
    serve_release(options=["--control-socket", path])
    run = subprocess.run(
        [binary(), "app", "--bind", "127.0.0.1:0", "--control-socket", path],
        capture_output=True,
        text=True,
        cwd=release.folder,
    )
    assert run.returncode == 2 and "--control-socket" in run.stderr
