"""Track an event after each jump of the clock, and flush each, or wait for the end of an outage after the last."""

from __future__ import annotations

import time

from prelude import GIVEN, emitter_of, make, note, track, wait_until
from wall_clock import jump

tracker = make(linger=0.01, **GIVEN["settings"])
for days in GIVEN["days"]:
    jump(days)
    track(tracker, f"at-{days}")
    if GIVEN["flushes"]:
        assert tracker.flush(timeout=15), days
    else:
        time.sleep(0.05)
if not GIVEN["flushes"]:
    note("waiting")
    wait_until(lambda: emitter_of(tracker).stats().ledger.pending == 0)
tracker.close()
