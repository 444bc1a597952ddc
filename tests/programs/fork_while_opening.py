"""Fork while another thread opens the first slot."""

from __future__ import annotations

import os
import sys
import threading

from prelude import ENDPOINT, QUEUE_DIR, reap, track

from durable_tracker import Emitter, Tracker

for n in range(10):
    t = Tracker(Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name="test"))
    opener = threading.Thread(target=track, args=(t, f"opener{n}"), daemon=True)
    opener.start()
    pid = os.fork()
    if pid == 0:
        track(t, f"child{n}")
        sys.exit(0)
    assert reap(pid) == 0
    opener.join()
    t.close()
