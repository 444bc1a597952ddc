"""Own a slot, and put, ack, reject, requeue, checkpoint, restart the WAL and vacuum as fast as it goes, until killed.

Arguments: the slot's directory, how many events stay pending from the beginning to the end, a seed. It says "ready"
once those are there, and then, after each of its steps, how many it has taken.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

directory, staying, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)


def payload(number: int) -> bytes:
    return b'{"n":%d,"x":"%s"}' % (number, b"x" * (number % 37 * 40 if number % 50 else 6000))


make_private_directory(directory)
queue = SqliteQueue.take(Slot(directory, 0))
numbers = itertools.count(1)
# Pending for ever: every third of the first ones, so that others are removed between them. What stands before them in
# the file is removed soon, so that a vacuum moves their pages there.
queue.put_many([b'{"n":0}'.ljust(900)] * 4 * staying)
queue.put_many([payload(next(numbers)) for _ in range(3 * staying)])
others = [row.key for row in queue.peek(0, 1 << 30, 1 << 40) if row.key <= 4 * staying or row.key % 3]
last = 7 * staying
print("ready", flush=True)
for step in itertools.count(1):
    action = rng.randrange(8)
    if action < 3:
        queue.put_many([payload(next(numbers)) for _ in range(rng.choice((1, 1, 5, 60)))])
    elif action < 5:
        taken = others[: rng.randrange(1, 100)]
        others = others[len(taken) :] or [row.key for row in queue.peek(last, 3000, 1 << 40)]
        queue.ack(taken)
    elif action == 5:
        queue.reject(others[-1:], 400, "no")
        others = others[:-1]
        queue.requeue([letter.key for letter in queue.dead_letters(3)])
    elif action == 6:
        queue._books.checkpoint(rng.choice(("PASSIVE", "TRUNCATE")))
    else:
        queue.shrink(512)
    print(step, flush=True)
