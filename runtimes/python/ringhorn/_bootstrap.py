"""First Python code of a worker process: loads the native module and the application, then serves.

How a worker is started (the contract with `src/supervisor/worker.rs`)
----------------------------------------------------------------------
The server executes a worker, or a fork server (`Setup` says which; `_preload.py`), with the control
socket (SOCK_SEQPACKET) as descriptor CONTROL:

    PYTHON [interpreter flags] -X faulthandler -c BOOT RUNTIME_DIR CONTROL [KIND]

and, for one hook of the server (`_hooks.py` says what FACTs there are), without a control socket:

    PYTHON -X faulthandler -c BOOT RUNTIME_DIR hook NAME FACT...

BOOT is this text without its line breaks (the supervisor keeps the same constant):

    import sys;sys.path[:1]=filter(None,sys.path[:1]);
    from importlib.util import *;
    s=spec_from_file_location('_ringhorn_bootstrap',sys.argv[1]+'/_bootstrap.py');
    m=sys.modules[s.name]=module_from_spec(s);s.loader.exec_module(m);m.main(*sys.argv[1:])

RUNTIME_DIR  absolute path of the folder that holds, side by side and flat: this file, its siblings
             `_*.py`, and the native modules `_ringhorn.cpython-3XX-x86_64-linux-gnu.so` (one
             per version built for) and `_ringhorn.abi3.so`. In a checkout that is `target/runtime`;
             in an installed wheel it is the package folder itself, beside the `ringhorn` binary.
CONTROL      the descriptor number in decimal; 3 when the server starts us. It may be inheritable:
             the first thing done here is to make it close-on-exec.
KIND         `auto` (default): the version-specific module if there is one, else abi3; `version` or
             `abi3`: only that one (for measurements, and to step round a broken build).

No interpreter flag is added beyond `-X faulthandler`: no `-I`, `-E`, `-s` or `-P`, so PYTHONPATH,
the virtualenv, sitecustomize and usercustomize are honoured. Environment, working directory,
process group and descriptors 0-2 are the supervisor's to arrange before exec; `Setup.chdir` and
`Setup.pythonpath` are applied here.

How the native modules get there: two separate cargo calls with target folders of their own,

    PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=/path/python3.11 \\
        cargo build -p ringhorn-cpython --release --target-dir target/cpython-3.11
    PYO3_BUILD_EXTENSION_MODULE=1 \\
        cargo build -p ringhorn-cpython --release --features abi3 --target-dir target/abi3

each leaving `release/lib_ringhorn.so`, copied to RUNTIME_DIR under the names above (the
version-specific one takes `_ringhorn` + `sysconfig.get_config_var("EXT_SUFFIX")` of that
interpreter). `make python-module PYTHON=...` does it all.

What a worker's end looks like from outside
-------------------------------------------
Exit code 0: stopped on request. 3: the application cannot be loaded, or a hook or a warm-up request
of the start failed (a `Failed` message went up the control socket and the traceback to stderr). 4:
the worker cannot boot: no fitting native module, a module of another version or layout, a refused
hand-shake (stderr says what).

Invariants
----------
`__main__` stays what `python -c` makes it: no `__file__`, no `__spec__`, no names of ours. That is
what `multiprocessing` wants to see: its spawn and forkserver children then re-import nothing.
RUNTIME_DIR never enters `sys.path`. `sys.path[0]` is the application's folder (`--chdir`, else the
working directory) unless the interpreter runs with `-P` or `-I`.
"""

import faulthandler
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading

EXIT_APPLICATION = 3
EXIT_BOOT = 4
KINDS = ("auto", "version", "abi3")
ABI3_FILE = "_ringhorn.abi3.so"
# Real-time signals at the far end of their range: nobody's by convention.
POKE_SIGNAL = int(signal.SIGRTMAX) - 1
DUMP_SIGNAL = int(signal.SIGRTMAX) - 2


class BootError(Exception):
    """The worker cannot boot; text for the log, a `hint:` line included."""


def main(runtime_dir, control, kind="auto", *facts):
    """A worker's whole life; returns when the server says stop, so that atexit handlers run."""
    if control == "hook":
        run_hook(runtime_dir, kind, facts)
        return
    control = int(control)
    os.set_inheritable(control, False)
    clean_main_module()
    if not faulthandler.is_enabled():
        faulthandler.enable()
    prepared = NOT_PREPARED
    try:
        native = load_native(runtime_dir, kind)
        errors = load_sibling(runtime_dir, "_errors")
        loader = load_sibling(runtime_dir, "_loader")
        offer_exceptions(errors)
        end = connect(native, control)
        if isinstance(end, native.ForkServer):
            prepared = be_fork_server(end, runtime_dir, loader)
            if prepared is None:
                return
            end = connect(native, prepared.control)
    except BootError as error:
        leave(EXIT_BOOT, "ringhorn: this worker cannot boot: %s" % error)
    be_worker(end, prepared, runtime_dir, native, errors, loader)


class Prepared:
    """What a fork server leaves to the workers it forks."""

    def __init__(self, control=None, application=None, hooks=None):
        self.control = control
        self.application = application
        self.hooks = hooks


NOT_PREPARED = Prepared()


def be_fork_server(end, runtime_dir, loader):
    """`--preload`: imports the application and forks workers. Returns in each of them what they
    start from, and None in the fork server, when the server wants no more of it."""
    note_signals()
    setup = end.setup()
    try:
        enter_application_folder(setup["chdir"], setup["pythonpath"], loader)
        hooks = load_hooks(runtime_dir, setup, loader)
        application = loader.load_application(setup["application"])
    except loader.ApplicationError as error:
        end.failed(EXIT_APPLICATION, str(error))
        leave(EXIT_APPLICATION, str(error))
    control = load_sibling(runtime_dir, "_preload").serve(end)
    return None if control is None else Prepared(control, application, hooks)


def be_worker(worker, prepared, runtime_dir, native, errors, loader):
    """From the hand-shake to the end of a worker."""
    note_signals(worker.wakeup_descriptor())
    setup = worker.setup()
    application = prepared.application
    try:
        if application is None:
            enter_application_folder(setup["chdir"], setup["pythonpath"], loader)
        hooks = worker_hooks(prepared.hooks or load_hooks(runtime_dir, setup, loader), setup)
        hooks.call("post_fork")
        if application is None:
            application = loader.load_application(setup["application"])
        if setup["check_only"]:
            worker.ready()
            return
        hooks.call("worker_start")
        warm_up(runtime_dir, native, application, setup, errors, loader)
    except loader.ApplicationError as error:
        worker.failed(EXIT_APPLICATION, str(error))
        leave(EXIT_APPLICATION, str(error))
    worker.prepare(application, errors.ErrorStream(), errors.report)
    watch_files(worker, runtime_dir, setup["options"])
    watch_requests(worker, errors)
    serve(worker, setup["threads"])
    hooks.call_at_the_end("worker_exit")


def clean_main_module():
    """Leaves `__main__` and `sys.argv` as an application may expect them."""
    names = vars(sys.modules["__main__"])
    for name in [name for name in names if not (name.startswith("__") and name.endswith("__"))]:
        del names[name]
    # Not our own command line: applications that parse sys.argv at import would stumble over it.
    sys.argv[:] = ["ringhorn"]


def load_native(runtime_dir, kind):
    """Loads `_ringhorn` by its absolute path, so that our folder need not be on sys.path."""
    if kind not in KINDS:
        raise BootError(
            "%r is no kind of native module\nhint: one of %s" % (kind, ", ".join(KINDS))
        )
    wanted = native_files(kind)
    for filename in wanted:
        path = os.path.join(runtime_dir, filename)
        if not os.path.exists(path):
            continue
        loader = importlib.machinery.ExtensionFileLoader("_ringhorn", path)
        try:
            module = importlib.util.module_from_spec(
                importlib.util.spec_from_loader("_ringhorn", loader)
            )
            loader.exec_module(module)
        except ImportError as error:
            raise BootError(
                "%s cannot be loaded: %s\nhint: build it for this interpreter: "
                "make python-module PYTHON=%s" % (path, error, sys.executable)
            ) from None
        sys.modules["_ringhorn"] = module
        return module
    raise BootError(
        "no native module for %s %s in %s (looked for %s)\n"
        "hint: make python-module PYTHON=%s builds it; --runtime-dir names another folder"
        % (
            sys.implementation.name,
            sys.version.split()[0],
            runtime_dir,
            ", ".join(wanted),
            sys.executable,
        )
    )


def native_files(kind):
    """File names that would serve this interpreter, the better first."""
    # The first suffix is the version-specific one: .cpython-312-x86_64-linux-gnu.so
    wanted = ["_ringhorn" + importlib.machinery.EXTENSION_SUFFIXES[0]]
    # A free-threaded interpreter does not load the limited API of the others.
    if ".abi3.so" in importlib.machinery.EXTENSION_SUFFIXES:
        wanted.append(ABI3_FILE)
    if kind == "version":
        return wanted[:1]
    if kind == "abi3":
        return wanted[1:]
    return wanted


def load_sibling(runtime_dir, name):
    """Loads one of our own Python files by path, as `_ringhorn_NAME`."""
    path = os.path.join(runtime_dir, name + ".py")
    spec = importlib.util.spec_from_file_location("_ringhorn" + name, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise BootError("%s cannot be read: %s\nhint: install again" % (path, error)) from None
    sys.modules[spec.name] = module
    return module


def connect(native, control):
    try:
        return native.connect(control)
    except (OSError, RuntimeError) as error:
        raise BootError(error) from None


# The handlers of TERM and INT before `note_signals`.
usual_handlers = {}


def note_signals(wakeup_descriptor=None):
    """TERM and INT reach workers too (systemd, Ctrl-C); the server decides what they mean.

    A handler that does nothing, not SIG_IGN: children of the application would inherit SIG_IGN.
    Children that are forked and do not exec get the usual handlers back; a forked worker among
    them comes here again, and keeps those that the application installed before the fork.
    """
    if wakeup_descriptor is not None:
        signal.set_wakeup_fd(wakeup_descriptor, warn_on_full_buffer=False)
    if not usual_handlers:
        os.register_at_fork(after_in_child=restore_signals)
        for number in (signal.SIGTERM, signal.SIGINT):
            usual_handlers[number] = signal.getsignal(number)
    for number, handler in usual_handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, note_signal)


def restore_signals():
    """In a forked child."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.set_wakeup_fd(-1)
    for number, handler in usual_handlers.items():
        if signal.getsignal(number) is note_signal:
            signal.signal(number, handler)


def note_signal(number, frame):
    """The server was told as well, and will tell us."""


def watch_requests(worker, errors):
    """Lets the server interrupt requests.

    A sleep or a wait of the main thread is ended by a signal whose handler does nothing. When
    native code keeps the interpreter's lock, only a signal handler in C can say where: faulthandler
    has one. Both signals are sent to one thread, and only about a request that is interrupted.
    """
    signal.signal(POKE_SIGNAL, note_signal)
    if hasattr(faulthandler, "register"):
        faulthandler.register(DUMP_SIGNAL, file=2, all_threads=False)
    worker.watch_requests(
        errors.take_stack,
        errors.log_stack,
        errors.RequestTimeout,
        errors.ClientDisconnected,
        POKE_SIGNAL,
        DUMP_SIGNAL,
    )


def offer_exceptions(errors):
    """Makes `from ringhorn import RequestTimeout` work also where the package is not installed.

    The finder comes last: an installed package is found before it, and gives the same classes.
    """
    sys.meta_path.append(LastResort(errors))


class LastResort:
    """Finds a module `ringhorn` that holds the exceptions and nothing else."""

    def __init__(self, errors):
        self.errors = errors

    def find_spec(self, name, path, target=None):
        if name != "ringhorn":
            return None
        return importlib.util.spec_from_loader(name, self, origin="a ringhorn worker")

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        for exception in self.errors.PUBLIC:
            setattr(module, exception.__name__, exception)


def enter_application_folder(chdir, pythonpath, loader):
    """Applies --chdir and --pythonpath; relative entries of the latter start where we do."""
    pythonpath = [os.path.abspath(entry) for entry in pythonpath]
    if chdir:
        try:
            os.chdir(chdir)
        except OSError as error:
            raise loader.ApplicationError(
                "cannot enter %s: %s" % (chdir, error.strerror), "--chdir names the folder"
            ) from None
    sys.path[:0] = pythonpath
    if not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated):
        sys.path.insert(0, os.getcwd())


def watch_files(worker, runtime_dir, options):
    """`--reload`: a thread tells the server when a file of the application changes."""
    if "reload" not in dict(options):
        return
    globs = [value for name, value in options if name == "reload-extra-file"]
    watch = load_sibling(runtime_dir, "_watch")
    watch.start(worker.changed, globs)


class NoHooks:
    """What a worker without `--hooks` calls."""

    def call(self, name):
        """Nothing."""

    call_at_the_end = call


def load_hooks(runtime_dir, setup, loader):
    """The module of `--hooks`, or None; raises ApplicationError."""
    specification = dict(setup["options"]).get("hooks")
    if specification is None or setup["check_only"]:
        return None
    return load_sibling(runtime_dir, "_hooks").Hooks(specification, loader)


def worker_hooks(hooks, setup):
    """The hooks of this worker, each called by its name alone."""
    return NoHooks() if hooks is None else hooks.of_worker(setup)


def warm_up(runtime_dir, native, application, setup, errors, loader):
    """`--warm-up`: this worker's first requests are its own; raises ApplicationError."""
    targets = [value for name, value in setup["options"] if name == "warm-up"]
    if not targets:
        return
    one = dict(setup["options"])
    facts = {
        "server_name": one["server-name"],
        "server_port": one["server-port"],
        "server_software": setup["server_software"],
        "errors": errors.ErrorStream(),
        "multithread": setup["threads"] > 1,
        "multiprocess": setup["multiprocess"],
        "file_wrapper": native.FileWrapper,
    }
    load_sibling(runtime_dir, "_warm_up").warm_up(application, targets, facts, loader)


def run_hook(runtime_dir, name, facts):
    """One hook of the server, in a process of its own (`_hooks.py`)."""
    try:
        loader = load_sibling(runtime_dir, "_loader")
        hooks = load_sibling(runtime_dir, "_hooks")
    except BootError as error:
        leave(EXIT_BOOT, "ringhorn: no hook can run: %s" % error)
    hooks.run_for_server(name, facts, sys.modules[__name__], loader)


def serve(worker, threads):
    """One seat a thread; the main thread is seat 0 and the only one that runs signal handlers."""
    seats = [
        threading.Thread(target=worker.serve, args=(seat,), name="ringhorn-seat-%d" % seat)
        for seat in range(1, threads)
    ]
    for seat in seats:
        seat.start()
    worker.ready()
    worker.serve(0)
    for seat in seats:
        seat.join()
    worker.close()


def leave(code, text):
    """Ends the process at once: what failed half-way may have left threads behind."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
        sys.stdout.flush()
    finally:
        os._exit(code)
