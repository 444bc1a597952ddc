"""Track, fork a child that ends in some way, go on in the parent, and be killed."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

from hookless import fork
from prelude import GIVEN, emitter_of, make, reap, track_some

from durable_tracker.engines.sqlite import immortal

if GIVEN["child"] == "finalises the connection":
    # A ctypes that takes no reference leaves the inherited connection to the child's finalisers.
    functions = SimpleNamespace(Py_IncRef=lambda _: None, Py_DecRef=lambda _: None)
    vars(immortal)["ctypes"] = SimpleNamespace(py_object=ctypes.py_object, pythonapi=functions)
t = make(drain=GIVEN["drain"])
track_some(t, "before", 10)
pid = fork()
if pid == 0:
    match GIVEN["child"]:
        case "returns":
            sys.exit(0)
        case "is cut short":
            os._exit(0)
        case "tracks":
            track_some(t, "child", 5)
            sys.exit(0)
        case "closes":
            t.close()
            sys.exit(0)
        case "closes the connection":
            opened: Any = emitter_of(t)._opened
            opened.queue._connection._raw.close()
            os._exit(0)
        case "finalises the connection":
            emitter_of(t)._opened = None
            gc.collect()
            del t
            sys.exit(0)
    os._exit(98)
assert reap(pid) == 0
track_some(t, "after", 10)
os.kill(os.getpid(), signal.SIGKILL)  # what is there now is what was really written
