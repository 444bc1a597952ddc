"""Track, deliver and drain in an interpreter that lacks what macOS lacks and has what it has.

Arguments: an endpoint, a queue dir. Its last line is JSON: which kinds of descriptors were synced in full, the pragmas
that a connection has, and what was logged.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import json
import logging
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import requests  # before the platform changes: the standard library looks there for proxies of macOS

F_FULLFSYNC = 51
synced: list[str] = []
real_fcntl, real_open, real_listdir = fcntl.fcntl, builtins.open, os.listdir


def with_full_sync(descriptor: int, command: int, *rest: Any) -> Any:
    if command != F_FULLFSYNC:
        return real_fcntl(descriptor, command, *rest)
    synced.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
    os.fsync(descriptor)
    return 0


def refuse_proc(path: object) -> None:
    if str(path).startswith("/proc"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def without_proc(function: Any) -> Any:
    def guarded(path: Any = ".", *args: Any, **options: Any) -> Any:
        refuse_proc(path)
        return function(path, *args, **options)

    return guarded


def become_macos() -> None:
    sys.platform = "darwin"
    for module, names in (
        (os, ("fdatasync", "posix_fallocate")),
        (errno, ("EUCLEAN", "EREMOTEIO")),
        (time, ("CLOCK_BOOTTIME",)),
    ):
        for name in names:
            delattr(module, name)
    fcntl.F_FULLFSYNC = F_FULLFSYNC  # type: ignore[attr-defined]
    fcntl.fcntl = with_full_sync  # type: ignore[assignment]
    builtins.open = without_proc(builtins.open)
    Path.open = without_proc(Path.open)  # type: ignore[method-assign]
    os.listdir = without_proc(os.listdir)
    os.stat = without_proc(os.stat)


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(vars(record)["event"])


def main() -> None:
    endpoint, queue_dir = sys.argv[1:]
    requests.get(endpoint, timeout=10)
    become_macos()
    from durable_tracker import Emitter, StructuredEvent, Tracker, logger
    from durable_tracker.drain import main as drain
    from durable_tracker.engines.sqlite.connection import Connection

    log = Lines()
    logger.addHandler(log)
    first = Emitter(endpoint, queue_dir=queue_dir, name="first", durability="always", drain=False)
    second = Emitter(endpoint, queue_dir=queue_dir, name="second", durability="interval", drain=False)
    for emitter in (first, second):
        with Tracker(emitter) as tracker:
            tracker.track(StructuredEvent("test", "tracked", f"{emitter.name}-left"))
    code = drain(["--queue-dir", queue_dir, "--quiet"])
    with Tracker(Emitter(endpoint, queue_dir=queue_dir, name="first")) as tracker:
        tracker.track(StructuredEvent("test", "tracked", "sent"))
        tracker.flush(timeout=10)
    connection = Connection(Path(queue_dir) / "first" / "probe", sync_every_commit=True, size_max=1 << 20)
    pragmas = {name: connection.pragma(name) for name in ("fullfsync", "checkpoint_fullfsync")}
    connection.close_for_good()
    print(json.dumps({"code": code, "synced": sorted(set(synced)), "pragmas": pragmas, "log": log.lines}))


main()
