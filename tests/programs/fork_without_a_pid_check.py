"""A broken variant: the child passes for its parent."""

from __future__ import annotations

import os
import signal

from hookless import hookless_fork
from prelude import make, reap, track, track_some

real_pid = os.getpid()
t = make(drain=False)
track(t, "first")
pid = hookless_fork()
if pid == 0:
    os.getpid = lambda: real_pid
    track_some(t, "child", 20)
    os._exit(0)
reap(pid)
track_some(t, "parent", 20)
os.kill(os.getpid(), signal.SIGKILL)
