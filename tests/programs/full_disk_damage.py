"""Take a damaged file over where there is little room."""

from __future__ import annotations

import os
import subprocess
import sys

from prelude import GIVEN, QUEUE_DIR, make, track, track_some
from small_disk import REST, fill_the_rest

t = make(drain=False)
for n in range(2000):
    track(t, f"before-{n}", 300)
t.close()
path = QUEUE_DIR + "/test/0.sqlite3"
with open(path, "r+b") as file:
    file.write(bytes(100))
fill_the_rest()
os.truncate(REST, os.path.getsize(REST) - GIVEN["room"])
ballast = QUEUE_DIR + "/test/0.ballast"
assert os.path.exists(ballast)
t = make(drain=False)
track(t, "meanwhile", 300)
assert os.path.exists(ballast)
t.close()
command = [sys.executable, "-m", "durable_tracker", "drain", "--queue-dir", QUEUE_DIR, "--batch-size", "100"]
for _ in range(5):
    code = subprocess.run(command, timeout=60, check=False).returncode
    if code == 0:
        break
assert code == 0, code
os.unlink(REST)
t = make()
track_some(t, "after", 20)
assert t.close()
