"""Block on a full disk until there is room."""

from __future__ import annotations

import threading
import time

import small_disk  # noqa: F401 (mounts it)
from prelude import JOURNAL, make, track

t = make(on_full="block", max_retry_delay_seconds=0.1)
done = threading.Event()


def work() -> None:
    for n in range(6000):
        track(t, f"blocked-{n}-" + "x" * 600)
    done.set()


threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
open(JOURNAL + ".full", "w").close()
assert done.wait(40)
assert t.flush(timeout=20)
