"""Have an event refused, fork, and have one refused in the child: each keeps it in a queue of its own.

Takes the queue dir as its argument, and says how many each of the two keeps.
"""

from __future__ import annotations

import os
import sys

from durable_tracker import Emitter, StructuredEvent, Tracker

BAD = StructuredEvent("category", "action", value=float("nan"))

with Emitter("http://127.0.0.1:9", queue_dir=sys.argv[1], name="shop", drain=False) as emitter:
    tracker = Tracker(emitter, on_invalid="dead_letter")
    tracker.track(BAD)
    pid = os.fork()
    if pid == 0:
        tracker.track(BAD)
        print("child", emitter.stats().ledger.invalid, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    tracker.track(BAD)
    print("parent", emitter.stats().ledger.invalid, flush=True)
