"""Track while the memory runs out now here, now there."""

from __future__ import annotations

import resource

from address_space import allow
from prelude import GIVEN, make, note, track

from durable_tracker.errors import QueueError

tracker = make(drain=False, durability=GIVEN["durability"])
track(tracker, "first")
allow(16)
hoard, failed, size = [], 0, 1 << 20
for count in range(2000):
    try:
        # Leave less and less, so that it fails now here, now there.
        hoard.append(bytearray(size))
    except MemoryError:
        size = max(size // 2, 64)
    try:
        track(tracker, f"short-{count}-" + "x" * (100 * (count % 50)))
    except (MemoryError, QueueError):
        failed += 1
    if failed and failed % 20 == 0:
        hoard.clear()
        size = 1 << 20
hoard.clear()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for n in range(5):
    track(tracker, f"after-{n}")
note(f"failed {failed}")
tracker.close()
