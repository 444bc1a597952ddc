"""Drop on a full disk, and count what was dropped."""

from __future__ import annotations

import time

import small_disk  # noqa: F401 (mounts it)
from prelude import GIVEN, emitter_of, make

from durable_tracker import StructuredEvent

t = make(drain=False, on_full=GIVEN["on_full"])
count = 4500
for n in range(count):
    started_at = time.monotonic()
    t.track(StructuredEvent("test", "tracked", f"{n}-" + "x" * 600))
    assert time.monotonic() - started_at < 5
stats = emitter_of(t).stats()
ledger = stats.ledger
assert ledger.accepted + stats.dropped == count, stats
assert ledger.accepted == ledger.pending + ledger.evicted, stats
assert 0 < ledger.pending < count, stats
assert stats.dropped > 0 if GIVEN["on_full"] == "drop_newest" else ledger.evicted > 0
pair = emitter_of(t)._opened
assert pair is not None
assert len(pair.queue.events) == ledger.pending  # type: ignore[attr-defined]
