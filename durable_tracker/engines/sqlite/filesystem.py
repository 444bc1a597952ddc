"""Which file system a queue is on, and what is known against it: one in memory forgets, one on a network may lie."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from durable_tracker.engines.sqlite.syncing import warn_if_untested
from durable_tracker.log import logger

_MOUNTS: Final = Path("/proc/self/mountinfo")
_IN_MEMORY: Final = {"tmpfs", "ramfs"}
_NETWORK: Final = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre"}
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system.

    Attributes:
        kind: its type, such as "ext4" or "fuse.sshfs".
        mount_point: where it is mounted.
    """

    kind: str
    mount_point: str

    @property
    def weakness(self) -> str | None:
        """Why what is on it may be lost though it was synced; None if nothing is known against it."""
        if self.kind in _IN_MEMORY:
            return "it is in memory: events are lost when the machine restarts"
        if self.kind in _NETWORK or self.kind.startswith("fuse."):
            return "it is a network file system: neither its locks nor its syncs can be relied on"
        return None


def file_system_of(path: Path) -> FileSystem | None:
    """Return what `path` is on. None if that cannot be told: it is told on Linux only, from one read of a file."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    found: FileSystem | None = None
    for line in lines:
        # proc(5): id parent major:minor root mount-point options [tags...] - type source options
        fields, _, rest = line.partition(" - ")
        columns, kind = fields.split(" "), rest.partition(" ")[0]
        if len(columns) < 5 or not kind:  # noqa: PLR2004 (see above)
            continue
        mount_point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), columns[4])
        is_above = real == mount_point or real.startswith(mount_point.rstrip("/") + "/")
        # Of several mounted on one point, the last one is seen.
        if is_above and (found is None or len(mount_point) >= len(found.mount_point)):
            found = FileSystem(kind, mount_point)
    return found


_warned: set[str] = set()


def warn_if_weak(directory: Path) -> None:
    """Log one warning for each directory of this process that cannot keep events, and for an untested platform."""
    warn_if_untested()
    file_system = file_system_of(directory)
    if file_system is None or file_system.weakness is None or str(directory) in _warned:
        return
    _warned.add(str(directory))
    logger.warning(
        "emitter.volatile_directory",
        extra={
            "directory": str(directory),
            "file_system": file_system.kind,
            "mount_point": file_system.mount_point,
            "reason": file_system.weakness,
            "advice": "set queue_dir= or DURABLE_TRACKER_DIR to a directory on a local disk",
        },
    )
