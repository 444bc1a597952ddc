"""Fill the disk while tracking, and go on when somebody has made room."""

from __future__ import annotations

import contextlib
import os

from prelude import GIVEN, JOURNAL, QUEUE_DIR, emitter_of, make, track, track_some, wait_until
from small_disk import REST, fill, fill_the_rest

from durable_tracker.errors import QueueFullError

t = make(durability=GIVEN["durability"], max_retry_delay_seconds=0.1)
fill(t, "first")
fill_the_rest()
for n in range(3):
    with contextlib.suppress(QueueFullError):
        track(t, f"while-full-{n}-" + "x" * 300)
open(JOURNAL + ".full", "w").close()
wait_until(lambda: not emitter_of(t).stats().ledger.pending, 30)
os.unlink(REST)
track_some(t, "after", 20)
assert t.flush(timeout=10)
ledger = emitter_of(t).stats().ledger
assert ledger.accepted == ledger.delivered, ledger
wait_until(lambda: os.stat(QUEUE_DIR + "/test/0.sqlite3").st_size < 400_000)
assert t.close()
