"""Fork while other threads put."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from prelude import GIVEN, make, reap, track, track_some

t = make(durability=GIVEN["durability"])
track(t, "first")

over = threading.Event()


def produce(name: Any) -> None:
    n = 0
    while not over.is_set():
        track(t, f"{name}-{n}")
        n += 1


threads = [threading.Thread(target=produce, args=(f"thread{n}",), daemon=True) for n in range(3)]
for thread in threads:
    thread.start()


def stop() -> None:
    over.set()
    for thread in threads:
        thread.join(20)


for n in range(16):
    pid = os.fork()
    if pid == 0:
        track_some(t, f"child{n}", 3)
        if n % 2:
            os._exit(0)
        sys.exit(0)
    assert reap(pid) == 0
stop()
