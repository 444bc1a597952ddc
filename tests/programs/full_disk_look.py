"""Have the reading commands work on a full disk, and write nothing to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prelude import QUEUE_DIR, emitter_of, make, note
from small_disk import REST, fill, fill_the_rest

t = make(drain=False)
stored = fill(t, "held")
fill_the_rest()


def files() -> dict[str, tuple[bytes, int]]:
    paths = [path for path in Path(QUEUE_DIR).rglob("*") if path.is_file() and str(path) != REST]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def look(when: str) -> None:
    """See that each command says what is there, beside the owner and without one."""
    before = files()
    for command in ("status", "peek --limit 1000000", "dead-letters", "export"):
        line = [sys.executable, "-m", "durable_tracker", *command.split(), "--queue-dir", QUEUE_DIR]
        done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (when, command, done.stderr)
        count = len(done.stdout.splitlines())
        expected = {"status": 3, "dead-letters": 0}.get(command, stored)
        assert count == expected, (when, command, count)
    output = QUEUE_DIR + "/backlog.ndjson"
    line = [sys.executable, "-m", "durable_tracker", "export", "--queue-dir", QUEUE_DIR, "--output", output]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "No space left" in done.stderr) == (5, True), (when, done)
    os.unlink(output)
    assert files() == before, when


assert emitter_of(t).stats().ledger.pending == stored
look("beside the owner")
t.close()
look("without an owner")
os.unlink(REST)
note(f"looked at {stored}")
