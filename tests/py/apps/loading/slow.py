"""Takes its time to load: until the file that GATE names exists."""

import os
import time

from attributes import say

deadline = time.monotonic() + 20
while not os.path.exists(os.environ["GATE"]):
    if time.monotonic() > deadline:
        raise AssertionError("nobody opened the gate")
    time.sleep(0.01)

application = say(b"slow")
