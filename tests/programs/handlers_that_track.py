"""Track in a signal handler whatever the main thread is in."""

from __future__ import annotations

import signal
from typing import Any

from prelude import emitter_of, make, track, track_some

handled = 0
t = None


def handler(number: Any, frame: Any) -> None:
    global handled
    if t is not None:
        handled += 1
        try:
            track(t, f"handler-{handled}")
        except Exception as error:
            # What is tracked after the close is refused, and said to be.
            assert type(error).__name__ == "QueueClosedError", error
    signal.setitimer(signal.ITIMER_REAL, 0.0003)


signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0003)
for n in range(15):
    t = make(linger=0.001)
    track_some(t, f"main{n}", 3)
    t.flush(timeout=10)
    emitter_of(t).stats()
    t.close()
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm amid the interpreter's end would end it otherwise
assert handled > 50
