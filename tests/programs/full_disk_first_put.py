"""Put for the first time where there is no room for an empty queue."""

from __future__ import annotations

import os
import threading

from prelude import GIVEN, emitter_of, make, track
from small_disk import REST, fill_the_rest

from durable_tracker.errors import QueueFullError

fill_the_rest()
t = make(drain=GIVEN["on_full"] == "block", on_full=GIVEN["on_full"])
outcomes: list[str] = []


def work() -> None:
    try:
        track(t, "first")
        outcomes.append("returned")
    except QueueFullError:
        outcomes.append("raised")


thread = threading.Thread(target=work, daemon=True)
thread.start()
thread.join(1)
expected = {"drop_newest": ["returned"], "block": []}.get(GIVEN["on_full"], ["raised"])
assert outcomes == expected, outcomes
assert emitter_of(t).stats().dropped == (GIVEN["on_full"] == "drop_newest")
os.unlink(REST)
thread.join(10)
assert not thread.is_alive()
