"""The application loader and the bootstrap's helpers, without a server: what a specification means,
and what a user reads when it means nothing.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "runtimes" / "python" / "ringhorn"

APPLICATION = "def {name}(environ, start_response):\n    return []\n"


def load_file(name):
    spec = importlib.util.spec_from_file_location("_ringhorn" + name, PACKAGE / (name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


loader = load_file("_loader")
errors = load_file("_errors")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An application's folder: working directory and first on sys.path; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(specification):
    with pytest.raises(loader.ApplicationError) as caught:
        loader.load_application(specification)
    return str(caught.value)


@pytest.mark.parametrize(
    "specification, source, attribute",
    [
        ("shop", "shop", None),
        ("shop:site", "shop", "site"),
        ("shop.wsgi:site.application", "shop.wsgi", "site.application"),
        ("shop:create('a:b')", "shop", "create('a:b')"),
        ("./a/b.py", "./a/b.py", None),
        (" shop : site ", "shop", "site"),
    ],
)
def test_specification_is_split(specification, source, attribute):
    assert loader.split_specification(specification) == (source, attribute)


@pytest.mark.parametrize("specification", ["", ":", "shop:", ":site", "  "])
def test_specification_without_a_part_is_refused(specification):
    assert "does not name an application" in refusal(specification)
    assert "hint: " in refusal(specification)


@pytest.mark.parametrize("name", ["application", "app"])
def test_default_attributes(folder, name):
    write(folder, "shop.py", APPLICATION.format(name=name))
    assert loader.load_application("shop").__name__ == name


def test_application_goes_before_app(folder):
    text = APPLICATION.format(name="app") + APPLICATION.format(name="application")
    write(folder, "shop.py", text)
    assert loader.load_application("shop").__name__ == "application"


def test_dotted_module_and_attribute(folder):
    write(folder, "shop/__init__.py", "")
    write(folder, "shop/wsgi.py", "class site:\n    @staticmethod\n    def run(e, s): ...\n")
    assert loader.load_application("shop.wsgi:site.run").__name__ == "run"


@pytest.mark.parametrize(
    "call, expected",
    [
        ("make()", "() {}"),
        ("make('x', 2)", "('x', 2) {}"),
        ("make(debug=True, sizes=[1, 2])", "() {'debug': True, 'sizes': [1, 2]}"),
    ],
)
def test_factory_is_called_with_literals(folder, call, expected):
    write(
        folder,
        "shop.py",
        "def make(*args, **kwargs):\n"
        "    def application(e, s): ...\n"
        "    application.told = f'{args} {kwargs}'\n"
        "    return application\n",
    )
    assert loader.load_application("shop:" + call).told == expected


@pytest.mark.parametrize(
    "expression", ["make(name)", "make(*[1])", "make(**{'a': 1})", "make(1 + print())"]
)
def test_factory_arguments_must_be_literals(folder, expression):
    write(folder, "shop.py", "def make(*args): ...\n")
    assert "are not literals" in refusal("shop:" + expression)


@pytest.mark.parametrize("expression", ["a b", "make()()", "x[0]", "1", "make(", "'text'"])
def test_other_expressions_are_refused(folder, expression):
    write(folder, "shop.py", "")
    assert "neither an attribute nor a factory call" in refusal("shop:" + expression)


def test_factory_that_raises_shows_its_traceback(folder):
    write(folder, "shop.py", "def make():\n    raise RuntimeError('no database')\n")
    told = refusal("shop:make()")
    assert "Traceback (most recent call last)" in told and "RuntimeError: no database" in told
    assert "_loader.py" not in told
    assert told.splitlines()[-1] == "ringhorn: the factory shop:make() raised RuntimeError"


def test_factory_that_returns_no_callable(folder):
    write(folder, "shop.py", "def make():\n    return 5\n")
    assert "is not callable: it is a int" in refusal("shop:make()")


def test_attribute_that_is_not_callable(folder):
    write(folder, "shop.py", "site = 'text'\n")
    told = refusal("shop:site")
    assert "shop:site is not callable: it is a str" in told and "hint: " in told


def test_missing_attribute_names_candidates(folder):
    write(folder, "shop.py", APPLICATION.format(name="my_app"))
    assert "hint: it does have `shop:my_app`" in refusal("shop:application")
    assert "neither `application` nor `app`" in refusal("shop")


def test_missing_module_says_where_it_looked(folder):
    told = refusal("nowhere.wsgi:application")
    assert "no module named 'nowhere'" in told
    assert str(folder) in told and "hint: " in told


def test_module_missing_further_down_keeps_its_traceback(folder):
    write(folder, "shop.py", "import sqlalchemy_is_not_here\n")
    told = refusal("shop")
    assert "shop.py" in told and "ModuleNotFoundError" in told
    assert "shop cannot be imported: ModuleNotFoundError" in told


@pytest.mark.parametrize(
    "text, name",
    [
        ("1 / 0\n", "ZeroDivisionError"),
        ("import sys; sys.exit('stop')\n", "SystemExit"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("def broken(:\n", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("specification", ["shop", "shop.py"])
def test_import_that_raises_shows_the_whole_traceback(folder, text, name, specification):
    write(folder, "shop.py", text)
    told = refusal(specification)
    assert name in told and "shop.py" in told and "_loader.py" not in told
    assert "cannot be imported: " + name in told.splitlines()[-1]


def test_chained_exceptions_are_shown(folder):
    text = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise RuntimeError from e\n"
    write(folder, "shop.py", text)
    assert "direct cause" in refusal("shop")


def test_file_is_loaded_and_importable_by_name(folder):
    write(folder, "sites/helper.py", "WORD = 'helped'\n")
    write(folder, "sites/shop.py", "import helper\n" + APPLICATION.format(name="app"))
    application = loader.load_application("sites/shop.py")
    assert application.__module__ == "shop"
    assert sys.path[0] == str(folder / "sites")
    assert sys.modules["shop"].helper.WORD == "helped"
    assert sys.modules["shop"].__file__ == str(folder / "sites" / "shop.py")


def test_file_with_attribute_and_unimportable_name(folder):
    write(folder, "my-shop.wsgi", APPLICATION.format(name="site"))
    assert loader.load_application("my-shop.wsgi:site").__name__ == "site"


def test_missing_file(folder):
    assert f"there is no file {folder / 'shop.py'}" in refusal("./shop.py")


def test_file_that_would_hide_a_loaded_module(folder):
    write(folder, "json.py", APPLICATION.format(name="app"))
    import json  # noqa: F401

    assert "would hide the module 'json'" in refusal("json.py")


# The bootstrap ------------------------------------------------------------------------------------


def boot_line():
    """The one-liner of the bootstrap's docstring, as the supervisor passes it."""
    text = (PACKAGE / "_bootstrap.py").read_text()
    block = text[text.index("    import sys;") : text.index("RUNTIME_DIR  absolute")]
    return "".join(line.strip() for line in block.splitlines())


def boot(runtime_dir, *arguments, **options):
    command = [sys.executable, "-X", "faulthandler", "-c", boot_line(), str(runtime_dir)]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=30, **options
    )


@pytest.fixture
def empty_runtime(tmp_path):
    """A runtime folder with the Python files and no native module."""
    for name in ("_bootstrap", "_loader", "_errors"):
        write(tmp_path, name + ".py", (PACKAGE / (name + ".py")).read_text())
    return tmp_path


def test_missing_native_module_is_exit_4_with_a_hint(empty_runtime):
    ended = boot(empty_runtime, "0")
    assert ended.returncode == 4
    assert "no native module for cpython" in ended.stderr
    assert "hint: make python-module PYTHON=" + sys.executable in ended.stderr


def test_native_module_that_does_not_load_is_exit_4_with_a_hint(empty_runtime):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    write(empty_runtime, "_ringhorn" + suffix, "not an ELF file")
    ended = boot(empty_runtime, "0")
    assert ended.returncode == 4
    assert "cannot be loaded" in ended.stderr and "hint: " in ended.stderr


def test_unknown_kind_is_exit_4(empty_runtime):
    ended = boot(empty_runtime, "0", "fastest")
    assert ended.returncode == 4 and "'fastest' is no kind" in ended.stderr


@pytest.mark.parametrize("kind, files", [("auto", [0, 1]), ("version", [0]), ("abi3", [1])])
def test_order_in_which_native_modules_are_tried(kind, files):
    bootstrap = load_file("_bootstrap")
    both = ["_ringhorn" + importlib.machinery.EXTENSION_SUFFIXES[0], "_ringhorn.abi3.so"]
    if ".abi3.so" in importlib.machinery.EXTENSION_SUFFIXES:
        assert bootstrap.native_files(kind) == [both[index] for index in files]


def test_main_module_is_left_clean(empty_runtime, tmp_path):
    """What `multiprocessing` looks at, and what applications look at, seen by a stand-in module."""
    write(
        empty_runtime,
        "_bootstrap.py",
        (PACKAGE / "_bootstrap.py").read_text() + "\n\ndef load_native(runtime_dir, kind):\n"
        "    import json, multiprocessing.spawn\n"
        "    main = sys.modules['__main__']\n"
        "    prepared = multiprocessing.spawn.get_preparation_data('child')\n"
        "    print(json.dumps({\n"
        "        'argv': sys.argv, 'names': sorted(set(vars(main)) - {'__builtins__'}),\n"
        "        'main': [key for key in prepared if key.startswith('init_main')],\n"
        "        'path': sys.path, 'faulthandler': faulthandler.is_enabled(),\n"
        "    }))\n"
        "    raise BootError('enough')\n",
    )
    import json

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ended = boot(empty_runtime, "0", cwd=elsewhere)
    told = json.loads(ended.stdout)
    assert told["argv"] == ["ringhorn"]
    assert told["main"] == []
    assert all(name.startswith("__") for name in told["names"])
    assert str(empty_runtime) not in told["path"] and "" not in told["path"]
    assert told["faulthandler"] is True


def test_a_module_of_the_application_cannot_break_the_bootstrap(empty_runtime, tmp_path):
    """The working directory is not on sys.path until our own imports are done."""
    elsewhere = tmp_path / "elsewhere"
    for name in ("faulthandler", "importlib", "threading", "traceback", "signal"):
        write(elsewhere, name + ".py", "raise RuntimeError('shadowed')\n")
    ended = boot(empty_runtime, "0", cwd=elsewhere)
    assert "shadowed" not in ended.stderr
    assert "no native module" in ended.stderr


# wsgi.errors --------------------------------------------------------------------------------------


def test_error_stream_takes_any_text(capsys):
    stream = errors.ErrorStream()
    assert stream.write("plain \u20ac \udcff") == 9
    stream.writelines(["a", "b"])
    stream.flush()
    stream.close()
    stream.write("!\n")
    assert capsys.readouterr().err.endswith("ab!\n")


def test_error_stream_refuses_bytes():
    with pytest.raises(TypeError):
        errors.ErrorStream().write(b"bytes")


def test_error_stream_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    errors.ErrorStream().write("nobody hears")


def test_error_stream_survives_a_strict_stderr(monkeypatch, tmp_path):
    with open(tmp_path / "log", "w", encoding="ascii") as strict:
        monkeypatch.setattr(sys, "stderr", strict)
        errors.ErrorStream().write("caf\xe9")
    assert (tmp_path / "log").read_text() == "caf\\xe9"


def test_report_names_the_request_and_shows_the_traceback(capsys):
    try:
        raise RuntimeError("no luck")
    except RuntimeError as error:
        errors.report("the application raised", "id-7", "GET", "/path", error)
    told = capsys.readouterr().err
    assert told.startswith("ringhorn: the application raised (request id-7: GET /path)\n")
    assert "Traceback (most recent call last)" in told and "RuntimeError: no luck" in told


def test_report_stays_on_its_line(capsys):
    errors.report("it failed", "id", "GET", "/a\nringhorn: forged\x1b[0m", None)
    told = capsys.readouterr().err
    assert told == "ringhorn: it failed (request id: GET /a\\nringhorn: forged\\x1b[0m)\n"


def test_report_survives_an_exception_that_cannot_be_printed(capsys):
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no")

    errors.report("it failed", "id", "GET", "/", Unprintable())
    assert "ringhorn: it failed" in capsys.readouterr().err


def test_version_is_that_of_the_crates():
    text = (PACKAGE / "__init__.py").read_text()
    cargo = (PACKAGE.parents[2] / "Cargo.toml").read_text()
    [version] = [line.split('"')[1] for line in text.splitlines() if "__version__" in line]
    assert f'version = "{version}"' in cargo


def test_script_without_a_binary_says_so(tmp_path):
    write(tmp_path, "ringhorn/__main__.py", (PACKAGE / "__main__.py").read_text())
    ended = subprocess.run(
        [sys.executable, "-m", "ringhorn"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 4
    assert "cannot execute" in ended.stderr and "hint: " in ended.stderr
