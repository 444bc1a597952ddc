"""Raise out of a signal handler during the first put."""

from __future__ import annotations

import signal
import warnings
from typing import Any

from prelude import make, track

warnings.simplefilter("ignore", ResourceWarning)  # of a file that io.open was about to return
armed = False


def handler(number: Any, frame: Any) -> None:
    if armed:
        raise KeyboardInterrupt


signal.signal(signal.SIGALRM, handler)
interrupted = 0
for n in range(80):
    t = make(drain=False)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, 0.00004 * (n + 1))
        track(t, f"first-{n}")
        armed = False
    except KeyboardInterrupt:
        armed = False
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    track(t, f"second-{n}")
    t.close()
assert interrupted > 10, interrupted
