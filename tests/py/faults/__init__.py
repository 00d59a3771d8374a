"""The fault drills: the server under load while something breaks, and every request accounted for.

Purpose: `docs/operations.md` ("Drills") says what each shows. `load.py` is the client, a process of
its own; `drill.py` starts it, and judges what is left of the server afterwards. RINGHORN_DRILLS
says how long they are: "short" (the default, part of `make test`) or "full" (`make drills`).
"""
