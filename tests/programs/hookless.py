"""Forks of which Python does not know, and the choice between them and ordinary ones."""

from __future__ import annotations

import ctypes
import os
import time

from prelude import GIVEN


def hookless_fork() -> int:
    """Fork as some servers do: Python's hooks do not run.

    PyDLL holds the GIL, so that the child has it, too. But a child hangs in Python itself if another thread was waiting
    for the GIL: hence the pause, in which they fall asleep.
    """
    time.sleep(0.05)
    return int(ctypes.PyDLL(None).fork())


def fork() -> int:
    """Fork as the test says."""
    return os.fork() if GIVEN["fork"] == "os.fork" else hookless_fork()
