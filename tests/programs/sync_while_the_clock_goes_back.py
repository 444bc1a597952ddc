"""Have the interval sync of a second due while the clock goes back by ten years."""

from __future__ import annotations

from typing import Any

from prelude import emitter_of, make, track, wait_until
from wall_clock import jump

tracker = make(durability="interval", drain=False)
track(tracker, "first")
jump(-3650)
track(tracker, "second")
opened: Any = emitter_of(tracker)._opened
file = opened.queue._books
assert file.is_dirty
wait_until(lambda: not file.is_dirty, 5)
tracker.close()
