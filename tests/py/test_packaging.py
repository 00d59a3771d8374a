"""The wheel: what `pip install .` builds, and what it gives when it is installed.

One wheel is built for the module (its cargo calls are those of `make build`, so little is compiled)
and installed into a fresh virtual environment without the network.
"""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from harness.server import Server

ROOT = Path(__file__).resolve().parents[2]
VERSION_MODULE = "_ringhorn" + sysconfig.get_config_var("EXT_SUFFIX")
ABI3_MODULE = "_ringhorn.abi3.so"

# The data of the stable ABI whose names start with an underscore (CPython's stable_abi.toml).
STABLE_UNDERSCORED = re.compile(
    r"_Py_(NoneStruct|TrueStruct|FalseStruct|EllipsisObject|NotImplementedStruct|Dealloc|IncRef"
    r"|DecRef|BuildValue_SizeT|CheckRecursiveCall|RefTotal|SwappedOp|VaBuildValue_SizeT)"
    r"|_PyBytes_Resize|_PyArg_\w+_SizeT|_PyObject_(GC_(New|NewVar|Resize)|New|NewVar)|_PyErr_BadInternalCall"
    r"|_PyState_AddModule|_PyThreadState_(Init|Prealloc)|_PyTrash_\w+|_PyWeakref_\w+"
)
# Functions that the limited API of 3.9 does not have; the version-specific module uses some.
FULL_API = {
    "PyObject_CallNoArgs",
    "PyObject_Vectorcall",
    "PyObject_VectorcallMethod",
    "PyType_GetName",
    "PyType_GetQualName",
    "PyUnicode_New",
}


def run(*command, **settings):
    """Runs to the end; its whole output is in the report when it fails."""
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, **settings
    )
    assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that this checkout builds for this interpreter."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
        "--no-build-isolation", "--wheel-dir", folder, ROOT,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with nothing but the wheel."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "pip", "install", "--quiet", "--no-index", wheel)
    return venv


@pytest.fixture(scope="module")
def package(installed):
    """The folder of the installed package."""
    (package,) = installed.glob("lib/python*/site-packages/ringhorn")
    return package


@pytest.fixture
def environ(installed):
    """An environment in which the virtual environment is not active and nothing configures us."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RINGHORN_") and name not in ("VIRTUAL_ENV", "PYTHONPATH")
    }


def test_wheel_holds_binary_modules_and_python_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    python_files = {path.name for path in (ROOT / "runtimes/python/ringhorn").glob("*.py")}
    expected = {"ringhorn", VERSION_MODULE, ABI3_MODULE} | python_files
    assert {name for name in names if name.startswith("ringhorn/")} == {
        f"ringhorn/{name}" for name in expected
    }
    assert re.fullmatch(r"ringhorn-[0-9.]+-py3-none-linux_\w+\.whl", wheel.name)


def test_wheel_states_licence_and_python(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
    metadata = archive.read(name).decode()
    assert "License-Expression: MIT OR Apache-2.0\n" in metadata
    assert "Requires-Python: >=3.9\n" in metadata


@pytest.mark.parametrize("name", ["ringhorn", VERSION_MODULE, ABI3_MODULE])
def test_nothing_needs_libpython(package, name):
    dynamic = run("readelf", "--dynamic", "--wide", package / name)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert needed, dynamic
    assert not [library for library in needed if "python" in library]


def python_symbols(module):
    """What a module takes from the interpreter."""
    table = run("nm", "--dynamic", "--undefined-only", module)
    return {line.split()[-1] for line in table.splitlines() if re.search(r" _?Py", line)}


def test_only_one_module_is_abi3(package):
    limited = python_symbols(package / ABI3_MODULE)
    full = python_symbols(package / VERSION_MODULE)
    assert limited and full
    beyond = {name for name in limited if name[0] == "_" and not STABLE_UNDERSCORED.fullmatch(name)}
    assert not beyond | (limited & FULL_API)
    assert full & FULL_API


def test_server_has_no_symbol_of_an_interpreter(package):
    assert python_symbols(package / "ringhorn") == set()


@pytest.mark.parametrize("script", [["bin/ringhorn"], ["bin/python", "-m", "ringhorn"]])
def test_script_becomes_the_binary(installed, package, environ, script):
    """The process that serves is the binary, started by either name, and answers."""
    command = [str(installed / script[0]), *script[1:]]
    server = Server("hello:application")
    server.command[:1] = command
    server.env = environ
    with server:
        assert os.path.realpath(f"/proc/{server.pid}/exe") == str(package / "ringhorn")
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        assert "python" not in maps.replace(str(package), "")
        assert server.request("GET", "/").body == b"Hello, World!\n"


def test_default_interpreter_is_the_one_of_the_script(installed, environ):
    """Without --python and an active virtualenv, the packages beside the script are served."""
    result = subprocess.run(
        [installed / "bin/ringhorn", "--check", "--chdir", ROOT / "examples/hello", "hello"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert str(installed / "bin" / "python") in result.stdout + result.stderr


def test_missing_binary_has_a_hint(installed, package, environ):
    hidden = package / "hidden"
    (package / "ringhorn").rename(hidden)
    try:
        result = subprocess.run(
            [installed / "bin/ringhorn", "--help"], env=environ, capture_output=True, text=True
        )
    finally:
        hidden.rename(package / "ringhorn")
    assert result.returncode != 0
    assert "hint:" in result.stderr
