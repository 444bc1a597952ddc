"""Succeed a killed process on a disk that is still full."""

from __future__ import annotations

import contextlib
import os
import signal

from prelude import emitter_of, make, reap, track, track_some, wait_until
from small_disk import REST, fill, fill_the_rest

from durable_tracker.errors import QueueFullError

pid = os.fork()
if pid == 0:
    t = make(drain=False)
    fill(t, "killed")
    fill_the_rest()
    os.kill(os.getpid(), signal.SIGKILL)
assert reap(pid) == -signal.SIGKILL
t = make(max_retry_delay_seconds=0.1)
with contextlib.suppress(QueueFullError):
    track(t, "on-the-full-disk-" + "x" * 300)
t.flush(timeout=20)
wait_until(lambda: not emitter_of(t).stats().ledger.pending, 20)
os.unlink(REST)
track_some(t, "after", 20)
assert t.close()
