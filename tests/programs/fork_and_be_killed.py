"""Fork, and be killed, so that the child is left alone."""

from __future__ import annotations

import os
import signal
import sys

from hookless import fork
from prelude import make, note, track_some, wait_until

parent = os.getpid()
t = make()
track_some(t, "parent", 10)
pid = fork()
if pid == 0:
    wait_until(lambda: os.getppid() != parent)
    track_some(t, "child", 10)
    note("child done")
    sys.exit(0)
os.kill(os.getpid(), signal.SIGKILL)
