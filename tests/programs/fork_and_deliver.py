"""Deliver before and after a fork, in parent and child."""

from __future__ import annotations

import sys

from hookless import fork
from prelude import make, reap, track_some

t = make(linger=0.01)
track_some(t, "parent", 10)
t.flush(timeout=10)
pid = fork()
track_some(t, "both" + str(pid), 10)
empty = t.flush(timeout=10)
if pid == 0:
    sys.exit(0 if empty else 5)
assert empty
assert reap(pid) == 0
track_some(t, "after", 5)
assert t.close()
