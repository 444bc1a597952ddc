"""Track once more when the exit handler of durable_tracker is over: what was registered before it runs after it."""

from __future__ import annotations

import atexit
from typing import Any

late: list[Any] = []
atexit.register(lambda: [one() for one in late])

from prelude import make, track  # noqa: E402

t = make(drain=False)
track(t, "first")
late.append(lambda: track(t, "second"))
