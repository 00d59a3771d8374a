"""`--user`, `--group`, `--umask`: what is done as root, what is left, and that nothing comes back.

These tests start servers as root and so need to be root themselves.
"""

import grp
import json
import os
import pwd
import shutil
import stat

import pytest

from harness import process
from harness.address import Address
from harness.client import Client
from harness.installed import Installed, python_for
from harness.server import Server
from harness.watch import wait_until

USER = "nobody"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def installed():
    one = Installed()
    yield one
    one.remove()


@pytest.fixture(scope="module")
def python(installed):
    found = python_for(USER, installed)
    if found is None:
        pytest.skip(f"no interpreter that {USER} can run and a native module was built for")
    return found


@pytest.fixture
def folder(installed, tmp_path_factory):
    """A folder of the user's, on a path that it can walk."""
    path = installed.folder / f"run-{tmp_path_factory.mktemp('name').name}"
    path.mkdir()
    shutil.chown(path, USER)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(installed, python):
    """Starts servers of the reachable installation as another user, or with other options."""
    started = []

    def start(application="privileges:application", options=("--user", USER), **settings):
        settings.setdefault("python", python)
        one = Server(application, options=options, pythonpath=installed.apps, **settings)
        one.command[0] = str(installed.binary)
        started.append(one)
        return one

    yield start
    for one in started:
        if one.process:
            one.__exit__(None)


def refused(one, code=2):
    """The log of a server that must not start."""
    assert one.launch().wait(20) == code, one.log.text
    assert "panicked" not in one.log.text
    return one.log.text


def ask(server, path):
    response = server.request("GET", path)
    assert response.status == 200, response
    return json.loads(response.text)


def owner(path):
    facts = os.lstat(path)
    return pwd.getpwuid(facts.st_uid).pw_name, grp.getgrgid(facts.st_gid).gr_name


def test_server_and_workers_are_the_user_and_nothing_more(server):
    one = server().start()
    user = pwd.getpwnam(USER)
    inside = ask(one, "/who")
    assert inside["uid"] == [str(user.pw_uid)] * 4
    assert inside["gid"] == [str(user.pw_gid)] * 4
    assert inside["groups"] == sorted(os.getgrouplist(USER, user.pw_gid))
    assert inside["regained"] == []
    for pid in [one.pid, *one.workers()]:
        status = process.status(pid)
        assert set(status["Uid"].split()) == {str(user.pw_uid)}
        assert set(status["Gid"].split()) == {str(user.pw_gid)}
        assert "0" not in status["Groups"].split()
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1"


def test_every_thread_of_the_server_has_dropped(server):
    one = server(workers=2).start()
    uid = str(pwd.getpwnam(USER).pw_uid)
    threads = os.listdir(f"/proc/{one.pid}/task")
    assert len(threads) >= 3, "the first thread and two loops"
    for thread in threads:
        status = process.status(f"{one.pid}/task/{thread}")
        assert set(status["Uid"].split()) == {uid} and int(status["CapPrm"], 16) == 0


def test_setuid_programs_gain_nothing(server, installed):
    program = installed.folder / "setuid-id"
    shutil.copy(shutil.which("id"), program)
    program.chmod(0o4755)
    one = server().start()
    assert ask(one, f"/run?program={program}") == str(pwd.getpwnam(USER).pw_uid)


def test_workers_cannot_look_into_the_server(server):
    """They run as the same user, and the server holds the listeners."""
    assert ask(server().start(), "/read-server") == []


def test_a_worker_is_still_the_first_to_go_when_memory_ends(server):
    one = server().start()
    [worker] = one.workers()
    score = {pid: int(open(f"/proc/{pid}/oom_score_adj").read()) for pid in (one.pid, worker)}
    assert score[worker] > score[one.pid]


def test_group_alone_and_numbers(server):
    one = server(options=("--user", "12345", "--group", "54321")).start()
    inside = ask(one, "/who")
    assert set(inside["uid"]) == {"12345"} and set(inside["gid"]) == {"54321"}
    assert inside["groups"] == [54321]
    other = server(options=("--group", "54321")).start()
    inside = ask(other, "/who")
    assert set(inside["uid"]) == {"0"} and set(inside["gid"]) == {"54321"}


def test_listeners_are_bound_before_as_root(server, folder):
    """A socket file in root's own folder, and a port below 1024 where that is root's right."""
    rooted = folder.parent / "root-only"
    rooted.mkdir()
    rooted.chmod(0o755)
    path = rooted / "http.sock"
    one = server(binds=(f"unix:{path}?mode=0660",)).start()
    assert ask(one, "/who")["regained"] == []
    assert owner(path)[0] == USER and stat.S_IMODE(path.stat().st_mode) == 0o660
    one.stop()
    # Its folder is root's: the file stays and is taken over by the next start.
    assert "cannot remove" in one.log.text and path.exists()
    again = server(binds=(f"unix:{path}",)).start()
    assert ask(again, "/who")["regained"] == []
    again.stop()
    shutil.rmtree(rooted)


def test_owner_of_a_socket_file_is_as_said(server, folder):
    path = folder / "http.sock"
    group = grp.getgrgid(1).gr_name
    one = server(binds=(f"unix:{path}?user=root&group={group}&mode=0620",)).start()
    assert owner(path) == ("root", group)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    one.stop()
    assert not path.exists()


def test_a_link_in_place_of_the_socket_file_is_not_followed(server, folder, installed):
    """The folder is the user's: what root does there must not reach beyond it."""
    victim = installed.folder / "victim"
    victim.write_text("root's")
    link = folder / "http.sock"
    link.symlink_to(victim)
    log = refused(server(binds=(f"unix:{link}?mode=0666",)))
    assert "is no socket" in log
    assert owner(victim)[0] == "root" and stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_umask_holds_for_server_and_workers(server, folder):
    path, socket_file = folder / "by-the-worker", folder / "http.sock"
    access, errors = folder / "access.log", folder / "error.log"
    options = ("--user", USER, "--umask", "0027", "--access-logfile", access)
    one = server(options=options, binds=("http://127.0.0.1:0", f"unix:{socket_file}")).start()
    assert ask(one, f"/write?path={path}") == "written"
    modes = {path: 0o640, socket_file: 0o750, access: 0o640}
    for file, mode in modes.items():
        assert stat.S_IMODE(file.stat().st_mode) == mode, file
        assert owner(file)[0] == USER
    assert not errors.exists()


def test_logs_are_opened_again_after_the_drop(server, folder):
    access, errors = folder / "access.log", folder / "error.log"
    options = ("--user", USER, "--access-logfile", access, "--error-logfile", errors)
    one = server(options=options, binds=(f"unix:{folder}/http.sock",)).launch()
    wait_until(lambda: errors.exists() and "ringhorn ready" in errors.read_text(), "ready", 20)
    address = Address("http", path=f"{folder}/http.sock")

    def get(path):
        with Client(address) as client:
            return client.request("GET", path).status

    assert get("/who?before") == 200
    wait_until(lambda: access.exists() and "before" in access.read_text(), "a line", 5)
    for log in (access, errors):
        log.rename(f"{log}.1")
    one.signal(10)
    wait_until(lambda: access.exists() and errors.exists(), "the logs again", 5)
    assert get("/who?after") == 200
    wait_until(lambda: "after" in access.read_text(), "a line in the new file", 5)
    assert "after" not in (folder / "access.log.1").read_text()
    assert owner(access)[0] == owner(errors)[0] == USER
    one.signal(15)
    assert one.wait() == 0
    assert "stopping gracefully" in errors.read_text()


def test_logs_in_a_folder_of_root_are_created_for_the_user(server, installed):
    rooted = installed.folder / "log"
    rooted.mkdir()
    rooted.chmod(0o755)
    access, errors = rooted / "access.log", rooted / "error.log"
    options = ("--user", USER, "--access-logfile", access, "--error-logfile", errors)
    one = server(options=options).launch()
    wait_until(lambda: errors.exists() and "ringhorn ready" in errors.read_text(), "ready", 20)
    assert owner(access)[0] == owner(errors)[0] == USER
    # logrotate with `create`: the user can open it. Without: the old file stays in use, loudly.
    access.rename(rooted / "access.log.1")
    one.signal(10)
    wait_until(lambda: "the old file stays in use" in errors.read_text(), "the complaint", 5)
    one.signal(15)
    assert one.wait() == 0


def test_a_log_that_is_not_the_users_is_refused(server, installed):
    """Also a link to one, which root would have followed."""
    foreign = installed.folder / "foreign.log"
    foreign.write_text("")
    log = refused(server(options=("--user", USER, "--access-logfile", foreign)))
    assert "may not write to" in log and f"chown 65534:65534 {foreign}" in log
    link = installed.folder / "link.log"
    link.symlink_to(foreign)
    log = refused(server(options=("--user", USER, "--access-logfile", link)))
    assert "may not write to" in log
    assert owner(foreign)[0] == "root"


def test_a_spool_dir_that_is_not_the_users_is_refused(server, installed):
    closed = installed.folder / "spool"
    closed.mkdir()
    closed.chmod(0o755)
    log = refused(server(options=("--user", USER, "--spool-dir", closed)))
    assert f"--spool-dir: cannot make a file in {closed}" in log and "hint: name a folder" in log
    one = server(
        options=(
            "--user",
            USER,
            "--spool-dir",
            closed,
            "--body-spool-size",
            "0",
            "--body-buffer-size",
            "0",
        )
    )
    one.start().stop()


def test_a_pid_file_is_the_users(server, folder, installed):
    path = folder / "pid"
    one = server(options=("--user", USER, "--pid", path)).start()
    assert path.read_text() == f"{one.pid}\n" and owner(path)[0] == USER
    one.stop()
    assert not path.exists()
    log = refused(server(options=("--user", USER, "--pid", installed.folder / "pid")))
    assert "cannot write it" in log and "RuntimeDirectory=" in log


def test_the_interpreter_is_probed_as_the_user(server, installed, folder):
    """A virtualenv of the user's must not run anything as root."""
    seen = folder / "seen"
    (folder / "usercustomize.py").write_text("")
    (folder / "sitecustomize.py").write_text(
        f"import os\nopen({str(seen)!r}, 'a').write(f'{{os.getuid()}} {{os.geteuid()}}\\n')\n"
    )
    one = server(env={"PYTHONPATH": str(folder)}).start()
    assert ask(one, "/who")["regained"] == []
    uid = pwd.getpwnam(USER).pw_uid
    assert set(seen.read_text().splitlines()) == {f"{uid} {uid}"}


def test_hooks_and_fork_server_run_as_the_user(server, folder):
    """`on_starting` runs before anything is bound, while the server is still root."""
    seen = folder / "seen"
    (folder / "hooked.py").write_text(
        "import os\n"
        "def note(name):\n"
        f"    open({str(seen)!r}, 'a').write(f'{{name}} {{os.getuid()}}\\n')\n"
        "def on_starting(server): note('on_starting')\n"
        "def when_ready(server): note('when_ready')\n"
        "def on_exit(server): note('on_exit')\n"
    )
    options = ("--user", USER, "--hooks", "hooked", "--preload", "--chdir", folder)
    one = server(options=options).start()
    assert ask(one, "/who")["regained"] == []
    wait_until(lambda: "when_ready" in seen.read_text(), "the hook", 10)
    one.stop()
    uid = pwd.getpwnam(USER).pw_uid
    expected = [f"{name} {uid}" for name in ("on_starting", "when_ready", "on_exit")]
    assert seen.read_text().splitlines() == expected


@pytest.mark.parametrize(
    "options, said",
    [
        (("--user", "no-such-user"), "--user: there is no user `no-such-user`"),
        (("--group", "no-such-group"), "--group: there is no group `no-such-group`"),
        (("--user", "4000000001"), "say --group as well"),
        (("--umask", "9"), "--umask cannot be `9`"),
    ],
)
def test_what_makes_no_sense_is_refused(server, options, said):
    log = refused(server(options=options))
    assert said in log and "hint:" in log


def test_only_root_becomes_another(server):
    one = server(options=("--user", "root"))
    one.preexec = lambda: (os.setgroups([]), os.setgid(65534), os.setuid(65534))
    log = refused(one)
    assert "cannot run as root (0), group 0" in log and "start the server as root" in log


def test_whoever_is_the_user_already_needs_no_root(server):
    one = server(options=("--user", USER))
    user = pwd.getpwnam(USER)
    one.preexec = lambda: (os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid))
    one.start()
    inside = ask(one, "/who")
    assert set(inside["uid"]) == {str(user.pw_uid)} and inside["no_new_privs"] == "1"


def test_check_loads_the_application_as_the_user(server, folder, installed):
    app = folder / "whoami.py"
    app.write_text(
        "import os\n"
        f"open({str(folder / 'seen')!r}, 'w').write(str(os.getuid()))\n"
        "application = print\n"
    )
    one = server("whoami:application", options=("--user", USER, "--check", "--chdir", folder))
    assert one.launch().wait(20) == 0, one.log.text
    assert (folder / "seen").read_text() == str(pwd.getpwnam(USER).pw_uid)
