"""Fork a child that forks one, too; all track."""

from __future__ import annotations

import os
import sys

from prelude import make, reap, track_some

t = make()
track_some(t, "first", 3)
first = os.getpid()
pid = os.fork()
if pid == 0:
    track_some(t, "second", 3)
    pid = os.fork()
    if pid == 0:
        track_some(t, "third", 3)
        sys.exit(0)
    track_some(t, "second-again", 3)
    sys.exit(reap(pid))
track_some(t, "first-again", 3)
sys.exit(reap(pid))
