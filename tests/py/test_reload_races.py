"""Reloads that meet recycling, another number of workers, or each other: they end, and say how."""

import pytest
from harness import process
from harness.release import Release, ask
from harness.watch import wait_until


@pytest.fixture
def release(tmp_path):
    one = Release(tmp_path)
    one.write("one")
    return one


@pytest.fixture
def serve(start, release):
    def run(**settings):
        settings["options"] = ["--chdir", release.folder, *settings.get("options", ())]
        return start("app", **settings)

    return run


def served(server):
    return server.request().text.split()[0]


def test_worn_out_worker_is_replaced_after_a_reload_failed(serve, release):
    """It says so once; a reload that failed made the server forget it."""
    slow = "import time\ntime.sleep(0.5)\n"
    options = ["--max-requests", "3", "--max-requests-jitter", "0"]
    release.write("one", before=slow)
    one = serve(options=options)
    (old,) = one.workers()
    release.write_text("raise ValueError('broken')\n")
    for _ in range(3):
        one.request()
    one.log.wait_for("is to be replaced after 3 requests")
    assert ask(one, "reload")[0] == 1
    release.write("two")
    wait_until(lambda: not process.is_alive(old), "the worn out worker to leave", 10)
    assert served(one) == "two"
