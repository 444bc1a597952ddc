"""Put five events, and log each whose put returned. Takes the store's folder and the log as its arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from faults.program import payload
from faults.subjects import subject

root, log = Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
store = subject("queue").open(root)
for number in range(1, 6):
    store.put(payload(number))
    log.write(f"{number}\n")
