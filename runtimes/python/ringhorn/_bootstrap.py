"""First Python code of a worker process: loads the native module, then the application, then serves.

How a worker is started (the contract with `src/supervisor/worker.rs`)
----------------------------------------------------------------------
The server executes, with the control socket (SOCK_SEQPACKET) as descriptor CONTROL:

    PYTHON [interpreter flags] -X faulthandler -c BOOT RUNTIME_DIR CONTROL [KIND]

BOOT is this text, exactly (one line; the supervisor keeps the same constant):

    import sys;sys.path[:1]=filter(None,sys.path[:1]);from importlib.util import *;s=spec_from_file_location('_ringhorn_bootstrap',sys.argv[1]+'/_bootstrap.py');m=sys.modules[s.name]=module_from_spec(s);s.loader.exec_module(m);m.main(*sys.argv[1:])

RUNTIME_DIR  absolute path of the folder that holds, side by side and flat: this file, `_loader.py`,
             `_errors.py`, and the native modules `_ringhorn.cpython-3XX-x86_64-linux-gnu.so` (one
             per version built for) and `_ringhorn.abi3.so`. In a checkout that is `target/runtime/`;
             in an installed wheel it is the package folder itself, beside the `ringhorn` binary.
CONTROL      the descriptor number in decimal; 3 when the server starts us. It may be inheritable:
             the first thing done here is to make it close-on-exec.
KIND         `auto` (default): the version-specific module if there is one, else abi3; `version` or
             `abi3`: only that one (for measurements, and to step round a broken build).

No interpreter flag is added beyond `-X faulthandler`: no `-I`, `-E`, `-s` or `-P`, so PYTHONPATH, the
virtualenv, sitecustomize and usercustomize are honoured. Environment, working directory, process
group and descriptors 0-2 are the supervisor's to arrange before exec; `Setup.chdir` and
`Setup.pythonpath` are applied here.

How the native modules get there: two separate cargo calls with target folders of their own,

    PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=/path/python3.11 \\
        cargo build -p ringhorn-cpython --release --target-dir target/cpython-3.11
    PYO3_BUILD_EXTENSION_MODULE=1 \\
        cargo build -p ringhorn-cpython --release --features abi3 --target-dir target/abi3

each leaving `release/lib_ringhorn.so`, copied to RUNTIME_DIR under the names above (the version-specific
one takes `_ringhorn` + `sysconfig.get_config_var("EXT_SUFFIX")` of that interpreter).

What a worker's end looks like from outside
-------------------------------------------
Exit code 0: stopped on request. 3: the application cannot be loaded (a `Failed` message went up the
control socket and the traceback to stderr). 4: the worker cannot boot: no fitting native module, a
module of another version or layout, a refused hand-shake (stderr says what; `Failed` too where a
module was there to send it).

Invariants
----------
`__main__` stays what `python -c` makes it: no `__file__`, no `__spec__`, no names of ours. That is what
`multiprocessing` wants to see: its spawn and forkserver children then re-import nothing. RUNTIME_DIR
never enters `sys.path`. `sys.path[0]` is the application's folder (`--chdir`, else the working
directory) unless the interpreter runs with `-P` or `-I`.
"""
