"""Fork without Python's hook while another thread is in the midst of a put; the child ends as the test says."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from hookless import hookless_fork
from prelude import GIVEN, emitter_of, make, note, reap, track, track_some

t = make()
track(t, "first")
opened: Any = emitter_of(t)._opened
queue = opened.queue
inside, leave = threading.Event(), threading.Event()


def hold() -> None:
    """Hold the queue's lock and sleep, so that the thread is not waiting for the GIL."""
    with queue._books.lock:
        inside.set()
        leave.wait()
        queue.put(b'{"se_la":"holder"}')


def fork_once() -> None:
    pid = hookless_fork()
    if pid == 0:
        if GIVEN["child"] == "is cut short":
            os._exit(0)
        if GIVEN["child"] == "tracks":
            track_some(t, "child", 5)
        sys.exit(0)
    assert reap(pid) == 0


def fork_again(*, tracks_first: bool) -> None:
    """Have the child fork, with the hook: before it knows that it is one, or after."""
    pid = hookless_fork()
    if pid == 0:
        if tracks_first:
            track(t, "child-before")
        pid = os.fork()
        if pid == 0:
            track(t, f"grandchild-{tracks_first}")
            sys.exit(0)
        track(t, f"child-{tracks_first}")
        os._exit(reap(pid))
    assert reap(pid) == 0


holder = threading.Thread(target=hold, daemon=True)
note("try holder")
holder.start()
inside.wait()
if GIVEN["child"] == "forks":
    fork_again(tracks_first=True)
    fork_again(tracks_first=False)
else:
    fork_once()
leave.set()
holder.join()
note("ack holder")
