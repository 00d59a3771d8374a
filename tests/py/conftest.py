"""Fixtures of the conformance suite. Purpose: one server (and nginx) per test module, every test
run on every front that its marker names, for every interpreter of RINGHORN_TEST_PYTHONS.

A module states what it serves in `STACK = dict(application=..., threads=...)`.
"""

import contextlib
import os
import sys

import pytest

from harness import fronts, server
from harness.release import Release


def interpreters():
    """Paths of the interpreters to serve with: RINGHORN_TEST_PYTHONS (separated by ":")."""
    return [path for path in os.environ.get("RINGHORN_TEST_PYTHONS", "").split(":") if path] or [
        sys.executable
    ]


def interpreter_name(path):
    return os.path.basename(os.path.dirname(os.path.dirname(path))) or os.path.basename(path)


def pytest_report_header():
    return f"serving with {server.binary()} and {', '.join(interpreters())}"


def pytest_generate_tests(metafunc):
    if "front" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("fronts")
        selection = fronts.names(marker.args if marker else ("all",))
        metafunc.parametrize("front", selection, indirect=True)


@pytest.fixture(scope="module", params=interpreters(), ids=interpreter_name)
def interpreter(request):
    """The interpreter that runs the application."""
    return request.param


@pytest.fixture(scope="module")
def stack(request, interpreter):
    """The server of this module, with nginx in front of it on demand."""
    stack = fronts.Stack(python=interpreter, **request.module.STACK).start()
    yield stack
    stack.stop()


@pytest.fixture
def front(request, stack):
    """One way to the application; parametrised by the marker `fronts`, all five without it."""
    return stack.front(request.param)


@pytest.fixture
def start(interpreter):
    """Starts servers that live for one test: `start("hello:application", options=[...])`."""
    with contextlib.ExitStack() as stopping:

        def start_server(application="hello:application", **settings):
            settings.setdefault("python", interpreter)
            return stopping.enter_context(server.Server(application, **settings))

        yield start_server


@pytest.fixture
def release(tmp_path):
    """An application on disk, to be replaced under a running server."""
    one = Release(tmp_path)
    one.write("one")
    return one


@pytest.fixture
def serve_release(start, release):
    """Starts servers of the release on disk."""

    def run(**settings):
        settings["options"] = ["--chdir", release.folder, *settings.get("options", ())]
        return start("app", **settings)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds the logs of the servers that run to the report of a test that failed."""
    report = yield
    if report.failed:
        for one in server.running:
            report.sections.append((f"server {one.pid}: {' '.join(one.command)}", one.tail()))
        stack = getattr(item, "funcargs", {}).get("stack")
        if stack and stack.nginx:
            report.sections.append(("nginx", stack.nginx.log()))
    return report


def pytest_terminal_summary(terminalreporter):
    """Prints the figures that tests state (`record_property("figure", ...)`)."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "figure" and report.when == "call":
                    terminalreporter.write_line(f"figure: {value}")
