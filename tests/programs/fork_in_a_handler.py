"""Fork in a signal handler that interrupts puts."""

from __future__ import annotations

import os
import signal
from typing import Any

from prelude import make, reap, track

t = make()
track(t, "first")
forked: list[int] = []


def handler(number: Any, frame: Any) -> None:
    pid = os.fork()
    if pid == 0:
        track(t, f"child{os.getpid()}")
        os._exit(0)
    forked.append(pid)


signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
n = 0
while len(forked) < 20:
    track(t, f"main{n}")
    n += 1
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0)
assert [0] * len(forked) == [reap(pid) for pid in forked]
