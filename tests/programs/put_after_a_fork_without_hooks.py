"""Fork past Python's hooks; the child tracks as well, into a queue of its own."""

from __future__ import annotations

import time

from hookless import hookless_fork
from prelude import make, note, track

t = make(drain=False)
track(t, "first")
if hookless_fork() == 0:
    track(t, "second")
    note("put")
time.sleep(60)
