"""Subinterpreters: the package can be imported, tracks and delivers in one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from durable_tracker.collector import Collector

if TYPE_CHECKING:
    from pathlib import Path

INSIDE = """
import sys
sys.path[:] = {path!r}
from durable_tracker import Emitter, StructuredEvent, Tracker
emitter = Emitter({url!r}, queue_dir={folder!r}, name="n")
tracker = Tracker(emitter)
tracker.track(StructuredEvent("a", "b"))
print(tracker.flush(timeout=10), emitter.stats().ledger.delivered)
tracker.close()
"""

OUTSIDE = """
import sys
code = sys.stdin.read()
if sys.version_info >= (3, 13):
    import _interpreters
    failed = _interpreters.exec(_interpreters.create("isolated"), code)
    assert failed is None, failed
else:
    import _xxsubinterpreters
    options = {} if sys.version_info >= (3, 12) else {"isolated": False}  # else it may have no threads
    _xxsubinterpreters.run_string(_xxsubinterpreters.create(**options), code)
sys.stdout.flush()
import os
os._exit(0)
"""


def test_a_subinterpreter_tracks_and_delivers(tmp_path: Path) -> None:
    """Also one that cannot load ctypes, as those of Python 3.12."""
    with Collector() as collector:
        code = INSIDE.format(path=[path for path in sys.path if path], url=collector.url, folder=str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", OUTSIDE], input=code, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout.strip()) == (0, "True 1"), done.stderr
        assert len(collector.eids()) == 1
