"""A queue on a disk that is full. Runs in a namespace: see `namespace.run`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from durable_tracker.errors import QueueFullError

from .namespace import mount_tmpfs, unmount
from .program import number_of, payload
from .subjects import subject


def fill_and_drain(name: str, size: str) -> dict[str, Any]:
    """Put until the disk is full, open anew on the full disk, drain everything, and put again."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        mount_tmpfs(disk, size)
        chosen = subject(name)
        store = chosen.open(disk)
        stored = []
        error = None
        for number in range(1, 100_000):
            try:
                store.put(payload(number))
            except QueueFullError as exc:
                error = str(exc)
                break
            stored.append(number)
        (disk / "rest").write_bytes(b"")
        _fill(disk / "rest")
        store.close()
        store = chosen.open(disk)
        drained = []
        while rows := store.peek(0, 50, 100_000):
            drained += [number_of(row.payload) for row in rows]
            store.ack([row.key for row in rows])
        (disk / "rest").unlink()
        store.put(payload(1))
        ledger = store.ledger()
        store.close()
        unmount(disk)
        return {
            "stored": len(stored),
            "error": error,
            "missing": sorted(set(stored) - set(drained)),
            "invented": sorted(set(drained) - set(stored)),
            "pending": ledger.pending,
            "delivered": ledger.delivered,
        }


def _fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    block = 1 << 16
    with path.open("ab", buffering=0) as file:
        while block:
            try:
                file.write(b"x" * block)
            except OSError:
                block //= 2
