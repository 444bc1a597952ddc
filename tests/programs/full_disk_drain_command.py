"""Have the commands work on a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from prelude import QUEUE_DIR, make, track_some
from small_disk import REST, fill, fill_the_rest

t = make(drain=False)
fill(t, "killed")
fill_the_rest()
t.close()


def command(*arguments: Any) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "durable_tracker", *arguments, "--queue-dir", QUEUE_DIR], timeout=30, check=False
    )


assert command("status").returncode == 0
assert command("drain").returncode == 0
assert command("status").returncode == 0
os.unlink(REST)
t = make()
track_some(t, "after", 20)
assert t.close()
