"""Print an id that was made in a forked child, and one of its parent."""

from __future__ import annotations

import os

from durable_tracker.tracker import Tracker

Tracker.get_uuid()
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
print(Tracker.get_uuid(), flush=True)
