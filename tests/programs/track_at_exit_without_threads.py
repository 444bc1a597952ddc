"""Track a first event in a late exit handler, in an interpreter that starts no more threads."""

from __future__ import annotations

import _thread
import atexit
import threading

from prelude import GIVEN, make, track_some

t = make(durability=GIVEN["durability"])


def refuse(*_: object) -> None:
    raise RuntimeError("can't create new thread at interpreter shutdown")


def late() -> None:
    vars(threading)["_start_new_thread"] = vars(_thread)["start_new_thread"] = refuse
    track_some(t, "late", 5)
    assert not t.flush(timeout=1.0)


atexit.register(late)
