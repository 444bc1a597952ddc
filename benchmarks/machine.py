"""The machine that was measured, without which no figure means anything."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

_PACKAGES: Final = (
    "requests",
    "sqlitedict",
    "snowplow-tracker",
    "persist-queue",
    "litequeue",
    "diskcache",
    "huey",
)
_MEMORY_ONLY: Final = {"tmpfs", "ramfs"}


def file_system(directory: Path) -> str:
    """Return the type of the file system that a directory is on."""
    found = subprocess.run(["stat", "-f", "-c", "%T", str(directory)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def is_in_memory(directory: Path) -> bool:
    """Return whether syncing a file in this directory means nothing."""
    return file_system(directory) in _MEMORY_ONLY


def fdatasync_us(directory: Path, calls: int = 300) -> float:
    """Return the median microseconds of a write of one page and its fdatasync, within a file's existing size."""
    path = directory / "fdatasync"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        page = os.urandom(4096)
        os.pwrite(descriptor, page * 256, 0)
        os.fsync(descriptor)
        took = []
        for call in range(calls):
            start = perf_counter_ns()
            os.pwrite(descriptor, page, call % 256 * 4096)
            os.fdatasync(descriptor)
            took.append(perf_counter_ns() - start)
        return statistics.median(took) / 1000
    finally:
        os.close(descriptor)
        path.unlink()


def describe(directory: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load average at the end": round(os.getloadavg()[0], 1),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "sqlite": sqlite3.sqlite_version,
        "file system": file_system(directory),
        "write + fdatasync of a page, µs": round(fdatasync_us(directory), 1),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
