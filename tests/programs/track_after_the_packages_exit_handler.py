"""Track in an exit handler that runs after the package's, and flush, close, or do nothing more."""

from __future__ import annotations

import atexit


def late() -> None:
    """Run after the package's own handler, since it is registered before it."""
    track_some(t, "after", 5)
    if GIVEN["then"] == "flush":
        t.flush(timeout=1.0)
    elif GIVEN["then"] == "close":
        t.close(1.0)


atexit.register(late)

from prelude import GIVEN, make, track_some  # noqa: E402 (after the handler)

t = make(shutdown_timeout=1.0, linger=0.01, request_timeout=30)
track_some(t, "main", 20)
