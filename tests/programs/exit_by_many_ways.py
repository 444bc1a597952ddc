"""Track, and end in the way that the test says."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import time
from typing import Any

from prelude import ENDPOINT, GIVEN, QUEUE_DIR, emitter_of, make, track, track_some, wait_until

from durable_tracker import Emitter, Tracker

t = make(shutdown_timeout=1.0, linger=0.01, request_timeout=30)
track_some(t, "main", 20)


def track_and_exit() -> None:
    track_some(t, "thread", 5)
    sys.exit(3)


def track_for_a_while() -> None:
    for n in range(50):
        track(t, f"thread-{n}")
        time.sleep(0.002)


def track_for_ever() -> None:
    n = 0
    while True:
        track(t, f"daemon-{n}")
        n += 1


match GIVEN["way"]:
    case "return":
        pass
    case "sys.exit":
        sys.exit(0)
    case "exception":
        raise LookupError("on purpose")
    case "sys.exit in a thread":
        thread = threading.Thread(target=track_and_exit)
        thread.start()
        thread.join()
    case "a thread that is still tracking":
        threading.Thread(target=track_for_a_while).start()
    case "a daemon that never stops tracking":
        threading.Thread(target=track_for_ever, daemon=True).start()
        wait_until(lambda: emitter_of(t).stats().ledger.accepted > 40)
    case "an atexit handler before the package's":
        atexit.register(track_some, t, "atexit", 5)
    case "a late __del__":

        class Late:
            """Tracks when it is finalised, with what its finaliser holds: the module's names are gone by then."""

            def __del__(self, track_some: Any = track_some, tracker: Tracker = t) -> None:
                track_some(tracker, "late", 5)

        _late = Late()
    case "no with block, no close, no reference":
        del t
        gc.collect()
    case "a first event in an atexit handler":
        late = Tracker(Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name="late", shutdown_timeout=1.0))
        atexit.register(track_some, late, "first", 5)
    case "a close by the program":
        assert t.close(1.0) in (True, False)
    case "os._exit":
        os._exit(0)
    case "the default SIGTERM":
        track(t, "last")
        time.sleep(60)
    case other:
        sys.exit(f"unknown: {other}")
