"""Crashes at import, after SECONDS, as the environment says: CRASH names how, each start leaves a
line in the file STARTS, and once there are CALM lines, or the file UNTIL exists, it loads.
"""

import ctypes
import os
import signal
import time

from attributes import say

with open(os.environ["STARTS"], "a", encoding="ascii") as starts:
    starts.write(f"{os.getpid()}\n")
with open(os.environ["STARTS"], encoding="ascii") as starts:
    started = len(starts.readlines())

is_calm = started > int(os.environ.get("CALM", "1000")) or os.path.exists(
    os.environ.get("UNTIL", "/nonexistent")
)
# The first one of a server that is to crash later only.
is_calm = is_calm or (started == 1 and "FIRST" in os.environ)
if not is_calm:
    time.sleep(float(os.environ.get("SECONDS", "0")))
    how = os.environ["CRASH"]
    if how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(7)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "raise":
        raise RuntimeError("no crash, an error")

application = say(b"calm")
