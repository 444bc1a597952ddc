"""Track with eight emitters, and exit."""

from __future__ import annotations

from prelude import ENDPOINT, QUEUE_DIR, track_some

from durable_tracker import Emitter, Tracker

trackers: list[Tracker] = []
for n in range(8):
    emitter = Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name=f"n{n}", shutdown_timeout=1.0, linger=0.0)
    trackers.append(Tracker(emitter))
    track_some(trackers[-1], f"emitter{n}", 3)
