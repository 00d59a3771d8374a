"""Fixtures of the drills."""

import sys
import time

import pytest

from faults import drill


@pytest.fixture
def progress(request):
    """Prints where a long drill stands, at most every five seconds: `progress("120 of 200")`."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    began = time.monotonic()
    said = began

    def say(text):
        nonlocal said
        now = time.monotonic()
        if drill.LENGTH == "full" and now - said >= 5:
            said = now
            with manager.global_and_fixture_disabled():
                print(f"\n{request.node.name}: {now - began:.0f} s: {text}", file=sys.stderr)

    return say


@pytest.fixture
def figure(record_property):
    """States a figure of the drill, for the summary and for docs/operations.md."""
    return lambda text: record_property("figure", text)
