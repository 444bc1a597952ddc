"""Fill a queue up to a limit on the size of files."""

from __future__ import annotations

import resource

from prelude import make, note, track, track_some, wait_until

from durable_tracker.errors import QueueFullError

resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
t = make(max_retry_delay_seconds=0.1, durability="interval")
n = 0
try:
    while True:
        track(t, str(n), 600)
        n += 1
        assert n < 20_000
except QueueFullError:
    note("full")
wait_until(lambda: t.flush(timeout=10), 30)
track_some(t, "after", 20)
assert t.close()
