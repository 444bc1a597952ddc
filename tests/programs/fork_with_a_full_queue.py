"""Fork with a full queue, and fill the child's."""

from __future__ import annotations

import os

from hookless import fork
from prelude import GIVEN, make, reap, track_some

on_full = GIVEN["on_full"]
t = make(drain=on_full == "block", buffer_capacity=5, on_full=on_full)
track_some(t, "before", 5)
pid = fork()
if pid == 0:
    track_some(t, "child", 5)
    os._exit(0)
assert reap(pid) == 0
