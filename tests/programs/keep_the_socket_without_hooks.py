"""Fork past Python's hooks, and let the child go on with the socket that it inherited."""

from __future__ import annotations

import time
from pathlib import Path

from hookless import hookless_fork
from prelude import JOURNAL, make, note, track

t = make(drain=False)
track(t, "first")
pid = hookless_fork()
if pid == 0:
    time.sleep(60)
Path(JOURNAL).with_name("child").write_text(str(pid), encoding="ascii")
note("forked")
time.sleep(60)
