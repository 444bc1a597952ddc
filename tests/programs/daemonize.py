"""Have every descriptor closed in the middle of tracking, as a daemonizer does, and use the numbers."""

from __future__ import annotations

import os
import signal

import prelude
from prelude import GIVEN, JOURNAL, emitter_of, make, track_some

t = make(drain=GIVEN["drain"], durability=GIVEN["durability"])
track_some(t, "before", 5)
os.closerange(3, 1024)
prelude.journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND)
# The application's own files get the numbers.
files = [open(os.path.join(os.environ["OWN_FILES"], str(n)), "w+b", buffering=0) for n in range(40)]
for file in files:
    file.write(b"mine")
track_some(t, "after", 20)
assert emitter_of(t).stats().ledger.accepted == 20
for file in files:
    assert os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)), file
    file.seek(0)
    assert file.read() == b"mine", file
if GIVEN["is_killed"]:
    os.kill(os.getpid(), signal.SIGKILL)
t.close()
for file in files:
    assert os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)), file
    file.seek(0)
    assert file.read() == b"mine", file
