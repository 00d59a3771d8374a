"""Builds the wheel: what `tools/runtime.py` lays out becomes the package folder.

Setuptools alone, without a Rust plug-in: the server and the two modules are three cargo calls with
target folders of their own, the same that `make build` runs, so a checkout that was built is not
built again. The wheel is for every CPython >= 3.9 of its platform: it holds a module of its own for
the version that built it, and the abi3 module for the others.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildRuntime(build_py):
    """Fills the package folder anew, so that nothing of an older build is shipped."""

    def run(self):
        """Copies the Python files, then builds and adds the binary and the modules."""
        if self.editable_mode:
            sys.exit(
                "error: there is no editable install\nhint: make build; target/runtime/ringhorn"
            )
        package = Path(self.build_lib).resolve() / "ringhorn"
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        needs = subprocess.run([ROOT / "tools" / "needs", "rust"])
        if needs.returncode:
            sys.exit(needs.returncode)
        tool = [sys.executable, ROOT / "tools" / "runtime.py"]
        subprocess.run([*tool, "--python", sys.executable, "--out", package], check=True)


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 of this platform."""

    def get_tag(self):
        """The platform's tag with neither version nor ABI: `requires-python` has the floor."""
        return ("py3", "none", super().get_tag()[2])


class PlatformDistribution(Distribution):
    """Has native parts, although none is a setuptools extension."""

    def has_ext_modules(self):
        """Sends the package to platlib."""
        return True


def version() -> str:
    """The workspace's version."""
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"$', manifest, re.MULTILINE).group(1)


setup(
    version=version(),
    cmdclass={"build_py": BuildRuntime, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
)
