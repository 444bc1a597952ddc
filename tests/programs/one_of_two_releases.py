"""Track numbered events into one directory until killed, and say which were accepted.

Arguments: the collector's URL, the queue dir, the number of the first event, how many (0: without end), and the format
that the release which is meant writes.
"""

from __future__ import annotations

import itertools
import sys

from durable_tracker import Emitter
from durable_tracker.engines.sqlite.connection import FORMAT

url, queue_dir, first, count, expected = sys.argv[1:]
assert int(expected) == FORMAT, FORMAT

emitter = Emitter(url, queue_dir=queue_dir, name="shop", linger=0.0)
numbers = itertools.count(int(first))
for number in itertools.islice(numbers, int(count)) if int(count) else numbers:
    emitter.put(b'{"e":"pv","p":"srv","tv":"test","eid":"00000000-0000-4000-8000-%012d"}' % number)
    print(number, flush=True)
