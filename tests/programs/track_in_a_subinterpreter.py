"""Track and deliver; run as text, in an interpreter that has neither an `argv` nor a path of its own."""

from __future__ import annotations

import json
import os
import sys

given = json.loads(os.environ["GIVEN"])
sys.path[:] = given["path"]

from durable_tracker import Emitter, StructuredEvent, Tracker  # noqa: E402 (found by the path)

emitter = Emitter(given["url"], queue_dir=given["folder"], name="n")
tracker = Tracker(emitter)
tracker.track(StructuredEvent("a", "b"))
print(tracker.flush(timeout=10), emitter.stats().ledger.delivered)
tracker.close()
