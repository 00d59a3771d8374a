"""An installation that any user can reach: the binary, its runtime modules and the test
applications, copied to a folder of their own. Purpose: servers with `--user` and upgrades to
another binary need files that are not below somebody's home, and that a test may replace.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .server import APPS, binary


class Installed:
    """`binary` and `apps` are paths; `remove()` deletes all."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ringhorn-"))
        self.folder.chmod(0o755)
        runtime = Path(os.environ.get("RINGHORN_RUNTIME_DIR", Path(binary()).resolve().parent))
        for path in [*runtime.glob("_*.py"), *runtime.glob("_*.so")]:
            shutil.copy(path, self.folder)
        self.binary = self.folder / "ringhorn"
        shutil.copy(binary(), self.binary)
        self.apps = shutil.copytree(
            APPS, self.folder / "apps", ignore=shutil.ignore_patterns("__pycache__")
        )

    def remove(self):
        shutil.rmtree(self.folder)


def python_for(user, installed):
    """An interpreter that this user can run and that one of the native modules fits: the one of
    this suite, or the system's. None if there is none."""
    for path in (sys.executable, sys._base_executable, "/usr/bin/python3"):
        suffix = "import importlib.machinery as m; print('\\n'.join(m.EXTENSION_SUFFIXES))"
        try:
            ran = subprocess.run(
                [path, "-c", suffix], user=user, capture_output=True, text=True, cwd="/"
            )
        except OSError:
            continue
        names = {f"_ringhorn{suffix}" for suffix in ran.stdout.split()}
        if ran.returncode == 0 and any((installed.folder / name).exists() for name in names):
            return path
    return None
