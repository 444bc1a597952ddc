"""Close every descriptor and open others; when somebody has asked at the socket, let an emitter open anew.

Two emitters, so that the socket is not taken down when the first of them leaves its files.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

from prelude import ENDPOINT, QUEUE_DIR

from durable_tracker import Emitter
from durable_tracker.control import client, server

EVENT = b'{"e":"pv","p":"srv","tv":"x","eid":"11111111-1111-4111-8111-111111111111","dtm":"1700000000000"}'

one, other = [Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name=name, drain=False) for name in ("a", "b")]
one.put(EVENT)
other.put(EVENT)
(number,) = [listener.socket.fileno() for listener in server._listeners.values()]
os.closerange(3, 256)
opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]
client.stats_in(Path(QUEUE_DIR))
time.sleep(0.3)  # the thread that waited at the socket ends
one.put(EVENT)
gc.collect()
for descriptor in opened:
    os.fstat(descriptor)  # raises if it was closed
assert number in opened
slot = one.stats().slot
assert slot is not None
assert client.ask(slot, "stats")["emitter"] == "a"
os._exit(0)
