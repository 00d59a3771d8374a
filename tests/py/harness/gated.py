"""Applications whose import waits for a file. Purpose: tests that look at a server, or do something
to it, while a worker boots, for as long as they want.
"""


def waiting_for(gate):
    """Python text that returns once the file is there."""
    return f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"


def write(folder, module="hygiene"):
    """Puts `gated.py`, the module's application behind a gate, into a folder; gives the gate, which
    is shut (the file is not there)."""
    gate = folder / "gate"
    (folder / "gated.py").write_text(waiting_for(gate) + f"from {module} import application\n")
    return gate
