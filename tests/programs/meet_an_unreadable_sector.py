"""Put, have a sector of the open file become unreadable, and deliver; print how many events went out and are left.

Takes a folder for the slot, the file that tells the library of tests/faults/eio.c what cannot be read, the suffix of
the file in question, and the offset of its sector.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from faults.test_unreadable import EVENTS, event

from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

folder, control, suffix, first = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
make_private_directory(folder)
slot = Slot(folder, 0)
with SqliteQueue.take(slot) as queue:
    for start in range(0, EVENTS, 20):
        queue.put_many([event(number) for number in range(start, start + 20)])
    if not suffix:
        queue._books.checkpoint()
        queue._connection.drop()
        queue.pending()
        queue.put(event(EVENTS))
    path = slot.wal if suffix else slot.database
    with open(control, "r+b") as file:
        file.write(struct.pack("<3q", path.stat().st_ino, first, first + 511))
    out = 0
    queue.put(event(EVENTS))
    while rows := queue.peek(0, 100, 1 << 20):
        if out < 1000:
            queue.put(event(EVENTS))
        queue.ack([row.key for row in rows])
        out += len(rows)
    print(out, queue.pending())
