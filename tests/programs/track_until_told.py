"""Track event after event until a file beside the journal says that it is over; if it delivers, flush then."""

from __future__ import annotations

import os
import time

from prelude import GIVEN, JOURNAL, make, track

drains = GIVEN["drains"]
t = make(linger=0.0) if drains else make(drain=False)
n = 0
while not os.path.exists(JOURNAL + ".over"):
    track(t, f"{os.getpid()}-{n}")
    n += 1
    time.sleep(GIVEN["pause_s"])
if drains:
    assert t.flush(timeout=10)
