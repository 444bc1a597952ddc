"""Fork, and have many threads of the child find out at once."""

from __future__ import annotations

import sys
import threading
from typing import Any

from hookless import fork
from prelude import QUEUE_DIR, make, note, reap, track, track_some

t = make()
track(t, "first")
pid = fork()
if pid == 0:
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(8)

    def work(name: Any) -> None:
        barrier.wait()
        track_some(t, name, 5)

    threads = [threading.Thread(target=work, args=(f"child{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from pathlib import Path

    from durable_tracker.engines.sqlite.slots import existing_slots

    slots = list(existing_slots(Path(QUEUE_DIR) / "test"))
    note("slots " + str([slot.acquire() for slot in slots]))
    sys.exit(0)
assert reap(pid) == 0
