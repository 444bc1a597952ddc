"""See that a jump of the wall clock shows at once, and neither in a sleep nor in the monotonic clock."""

from __future__ import annotations

import datetime as dt
import time

from wall_clock import jump

start, steady = time.time(), time.monotonic()
jump(-9000)
assert -9001 < (time.time() - start) / 86400 < -8999
jump(9000)
assert 8999 < (time.time() - start) / 86400 < 9001
assert abs(dt.datetime.now().timestamp() - time.time()) < 1  # noqa: DTZ005 (the local time)
time.sleep(0.01)
assert 0.01 <= time.monotonic() - steady < 5
