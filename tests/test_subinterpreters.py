"""Subinterpreters: the package can be imported, tracks and delivers in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from processes import PROGRAMS

from durable_tracker.collector import Collector

if TYPE_CHECKING:
    from pathlib import Path


def test_a_subinterpreter_tracks_and_delivers(tmp_path: Path) -> None:
    """Also one that cannot load ctypes, as those of Python 3.12."""
    with Collector() as collector:
        given = {"path": [path for path in sys.path if path], "url": collector.url, "folder": str(tmp_path)}
        environment = {**os.environ, "GIVEN": json.dumps(given)}
        command = [sys.executable, str(PROGRAMS / "run_in_a_subinterpreter.py")]
        command += [str(PROGRAMS / "track_in_a_subinterpreter.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "True 1"), done.stderr
        assert len(collector.eids()) == 1
