"""Be killed with a backlog, which the child that lives on cannot take."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from prelude import JOURNAL, make, note, track_some, wait_until

parent = os.getpid()


class Handler(logging.Handler):
    def emit(self, record: Any) -> None:
        note(vars(record)["event"])


logging.getLogger("durable_tracker").addHandler(Handler())
t = make(max_retry_delay_seconds=0.1)
track_some(t, "parent", 10)
pid = os.fork()
if pid == 0:
    wait_until(lambda: os.getppid() != parent)
    track_some(t, "child", 1)
    wait_until(lambda: os.path.exists(JOURNAL + ".over"))
    t.close()
    note("child done")
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
