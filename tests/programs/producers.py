"""Track with three threads until killed."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from prelude import GIVEN, make, track

t = make(linger=0.005, batch_size=GIVEN["batch_size"], max_retry_delay_seconds=0.02)


def produce(name: Any) -> None:
    n = 0
    while True:
        track(t, f"{os.getpid()}-{name}-{n}")
        n += 1
        time.sleep(0.001)


threads = [threading.Thread(target=produce, args=(str(n),), daemon=True) for n in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
