"""Track, remove the database, have it noticed, and go on."""

from __future__ import annotations

import os
from typing import Any

from prelude import emitter_of, make, track, track_some

from durable_tracker.engines.sqlite import slot_file

vars(slot_file)["_LOCK_LOOK_S"] = 0.0
t = make(drain=False)
track(t, "taken out of the log")
os.unlink(str(emitter_of(t).stats().slot))
opened: Any = emitter_of(t)._opened
opened.queue._file.look_after_lock()
track_some(t, "after", 10)
