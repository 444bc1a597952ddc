"""Put where files may be smaller than the ballast."""

from __future__ import annotations

import resource

from prelude import make, track

from durable_tracker.errors import QueueFullError

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
t = make()
try:
    track(t, "first")
except QueueFullError as error:
    assert "ballast" in str(error), error
else:
    raise AssertionError("accepted")
