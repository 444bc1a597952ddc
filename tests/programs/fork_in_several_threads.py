"""Fork in several threads at once."""

from __future__ import annotations

import os
import threading
from typing import Any

from prelude import make, reap, track

t = make()
track(t, "first")


def fork_often(name: Any) -> None:
    for n in range(15):
        pid = os.fork()
        if pid == 0:
            if n % 5 == 0:
                track(t, f"{name}-child{n}")
            os._exit(0)
        assert reap(pid) == 0
        track(t, f"{name}-{n}")


threads = [threading.Thread(target=fork_often, args=(f"thread{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
