"""The `ringhorn` package as pip installs it: the server binary and what its workers load.

Nothing here is imported in a worker, and nothing here needs importing by an application: `ringhorn`
(or `python -m ringhorn`) executes the binary beside this file. See `_bootstrap.py` for how that
binary starts its workers.
"""

__version__ = "0.1.0"
