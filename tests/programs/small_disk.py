"""Mount a small disk at the queue dir, in a mount namespace of its own, and fill it."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from prelude import QUEUE_DIR, track

from durable_tracker.errors import QueueFullError


def mount(*options: Any) -> None:
    subprocess.run(["mount", *options], check=True)


os.makedirs(QUEUE_DIR, exist_ok=True)
mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", QUEUE_DIR)
os.chmod(QUEUE_DIR, 0o700)
REST = QUEUE_DIR + "/rest"


def fill_the_rest() -> None:
    block = 1 << 16
    with open(REST, "ab", buffering=0) as file:
        while block:
            try:
                file.write(b"x" * block)
            except OSError:
                block //= 2


def fill(t: Any, name: Any, count: Any = 100_000) -> Any:
    """Track until it is full; return how many were stored."""
    for n in range(count):
        started_at = time.monotonic()
        try:
            track(t, f"{name}-{n}-" + "x" * 300)
        except QueueFullError:
            assert time.monotonic() - started_at < 5
            return n
    raise AssertionError("never full")
