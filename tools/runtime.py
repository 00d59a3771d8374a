"""Builds the server and the native modules and lays them out as one package folder.

Usage: runtime.py [--python PYTHON] [--out target/runtime] [--check | --test] [--no-server]

The folder is the same wherever Ringhorn runs: `target/runtime` in a checkout, `ringhorn/` in a
wheel. It holds the server binary, `_ringhorn.<EXT_SUFFIX>` for the given interpreter (full C API),
`_ringhorn.abi3.so` for every other CPython, and the Python files of `runtimes/python/ringhorn`.

Each module is built by a cargo call of its own in a target folder of its own: features and the
interpreter's configuration differ, and in one folder they would rebuild each other's dependencies.
`--check` runs clippy over the same two builds instead. `--test` runs the runtime's own tests
against both modules in the folder, which must have been built.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FILES = ROOT / "runtimes" / "python" / "ringhorn"

# Asked of the interpreter that the module is for. The base executable, because every virtual
# environment of one interpreter shares its module, and its path is part of cargo's fingerprint.
PROBE = """
import json, os, sys, sysconfig
executable = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({
    "implementation": sys.implementation.name,
    "executable": os.path.realpath(executable),
    "version": sys.version_info[:2],
    "suffix": sysconfig.get_config_var("EXT_SUFFIX"),
}))
"""


def main() -> None:
    """Parses the command line, builds, and fills the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter to build for")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "runtime")
    parser.add_argument("--check", action="store_true", help="clippy over both module builds")
    parser.add_argument("--test", action="store_true", help="test both modules as they are")
    parser.add_argument("--no-server", action="store_true", help="only the modules")
    options = parser.parse_args()

    interpreter = probe(options.python)
    modules = module_builds(interpreter)
    if options.check:
        for build in modules:
            cargo("clippy", build, ["--", "-D", "warnings"])
        return
    if options.test:
        for kind in ("version", "abi3"):
            test(modules[0], interpreter["executable"], options.out, kind)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for build in modules:
        cargo("build", build)
        install(build["target_dir"] / "release" / "lib_ringhorn.so", options.out / build["name"])
    for file in sorted(PYTHON_FILES.glob("*.py")):
        install(file, options.out / file.name)
    if not options.no_server:
        server = {"target_dir": target_dir(), "arguments": ["--bin", "ringhorn"], "environ": {}}
        cargo("build", server)
        install(server["target_dir"] / "release" / "ringhorn", options.out / "ringhorn")


def test(build: dict, python: str, runtime: Path, kind: str) -> None:
    """Runs runtimes/cpython/tests: real workers of one kind of module, driven without a server."""
    print(f"testing the {kind} module with {python}", flush=True)
    package = ["--package", "ringhorn-cpython", "--test", "worker"]
    environ = {
        "PYTHON": python,
        "RINGHORN_RUNTIME": kind,
        "RINGHORN_RUNTIME_DIR": str(runtime.resolve()),
    }
    cargo("test", {**build, "arguments": package, "environ": {**build["environ"], **environ}})


def probe(python: str) -> dict:
    """Asks the interpreter who it is; ends with a hint when no module can be built for it."""
    try:
        answer = subprocess.run([python, "-c", PROBE], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {python} did not run: {error}\nhint: name another with PYTHON=")
    interpreter = json.loads(answer.stdout)
    if interpreter["implementation"] != "cpython" or interpreter["version"] < [3, 9]:
        sys.exit(
            f"error: {python} is {interpreter['implementation']} {interpreter['version']}; "
            "the native module needs CPython 3.9 or newer\nhint: name another with PYTHON="
        )
    return interpreter


def module_builds(interpreter: dict) -> list:
    """The two cargo calls: for this interpreter's version, and for any CPython >= 3.9."""
    suffix = interpreter["suffix"]
    tag = suffix.split(".")[1]
    package = ["--package", "ringhorn-cpython", "--lib"]
    return [
        {
            "name": "_ringhorn" + suffix,
            "target_dir": target_dir() / tag,
            "arguments": package,
            "environ": {"PYO3_PYTHON": interpreter["executable"]},
        },
        {
            "name": "_ringhorn.abi3.so",
            "target_dir": target_dir() / "abi3",
            "arguments": [*package, "--features", "abi3"],
            # The limited API is the same for all: no interpreter is asked, none can be linked.
            "environ": {"PYO3_NO_PYTHON": "1"},
        },
    ]


def target_dir() -> Path:
    """Cargo's folder for this checkout."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def cargo(command: str, build: dict, more: list = ()) -> None:
    """Runs one cargo call with the lock file as it is; its own output tells what went wrong."""
    arguments = ["cargo", command, "--release", "--locked", "--target-dir", build["target_dir"]]
    environ = {**os.environ, "PYO3_BUILD_EXTENSION_MODULE": "1"}
    for name in ("PYO3_PYTHON", "PYO3_NO_PYTHON"):
        environ.pop(name, None)
    environ.update(build["environ"])
    result = subprocess.run([*arguments, *build["arguments"], *more], cwd=ROOT, env=environ)
    if result.returncode:
        sys.exit(result.returncode)


def install(source: Path, destination: Path) -> None:
    """Copies when the content may differ, by a rename: a server that runs keeps its old file."""
    if destination.exists():
        old, new = destination.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    temporary = destination.with_name(destination.name + ".new")
    shutil.copy2(source, temporary)
    os.replace(temporary, destination)


if __name__ == "__main__":
    main()
