"""`python -m benchmarks.idle DIRECTORY PORT LEVEL`: a process with emitters that have nothing to do.

Prints, as JSON, what they cost: memory of each, and wake-ups a second of one.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final, cast

from benchmarks.payloads import payload
from benchmarks.stores import make_emitter

if TYPE_CHECKING:
    from benchmarks.stores import Level
    from durable_tracker import Emitter

_WATCH_S: Final = 20.0
_EMITTERS: Final = 20
_SETTLE_S: Final = 2.0


def _private_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def _switches() -> int:
    own = threading.get_native_id()
    total = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != own:
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


def _busy_once(directory: Path, level: Level, port: int) -> Emitter:
    """Return an emitter that has taken an event, and sent it or met an outage."""
    emitter = make_emitter(directory, level, port=port, drain=True, max_retry_delay_seconds=60)
    emitter.put(payload())
    emitter.flush(5.0)
    return emitter


def main() -> None:
    """Measure, and print."""
    directory, port, level = Path(sys.argv[1]), int(sys.argv[2]), cast("Level", sys.argv[3])
    logging.getLogger("durable_tracker").setLevel(logging.CRITICAL)
    emitters = [_busy_once(directory / "first", level, port)]
    sleep(_SETTLE_S)
    before, start = _switches(), perf_counter()
    sleep(_WATCH_S)
    wakeups_per_s = (_switches() - before) / (perf_counter() - start)
    gc.collect()
    memory = _private_kib()
    emitters += [_busy_once(directory / str(number), level, port) for number in range(_EMITTERS)]
    gc.collect()
    memory_kib = (_private_kib() - memory) / _EMITTERS
    print(json.dumps({"wakeups_per_s": wakeups_per_s, "memory_kib": memory_kib}))
    sys.stdout.flush()
    for emitter in emitters:
        emitter.close(0.0)


if __name__ == "__main__":
    main()
