"""The `ringhorn` package as pip installs it: the server binary and what its workers load.

An application needs nothing of it, but may import the exceptions that interrupt a request:
`from ringhorn import RequestTimeout, ClientDisconnected`. (In a worker that works without the
package, too.) `ringhorn` (or `python -m ringhorn`) executes the binary beside this file. See
`_bootstrap.py` for how that binary starts its workers.
"""

__version__ = "0.1.0"


def __getattr__(name):
    """The exceptions: those that a worker raises, wherever they were loaded from."""
    if name not in ("RequestTimeout", "ClientDisconnected"):
        raise AttributeError("module 'ringhorn' has no attribute %r" % name)
    import sys

    errors = sys.modules.get("_ringhorn_errors")
    if errors is None:
        from . import _errors as errors
    return getattr(errors, name)
