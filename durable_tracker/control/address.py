"""Where a process is asked: a socket in each queue dir that it has queues in.

The name has the process's number and the time it was started at, so that a number that was given out again is not taken
for the process that left the socket behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = re.compile(r"control-(\d+)-(\d+)\.sock")
_PATH_SIZE_MAX: Final = 103
"""Bytes that such an address may have on every system: Linux takes 107, macOS 103."""
_STARTED_FIELD: Final = 19  # of /proc/PID/stat, counted from behind the command; see proc_pid_stat(5)


def queue_id(database: Path) -> str:
    """Return what a queue is called in requests: the same, from wherever its queue dir is seen."""
    return f"{database.parent.name}/{database.name}"


def directory_of(database: Path) -> Path:
    """Return the directory in which whoever has a queue open has its socket."""
    return database.parent.parent


def own_socket(directory: Path) -> Path:
    """Return where this process has its socket for a directory."""
    pid = os.getpid()
    return directory / f"control-{pid}-{_started_at(pid) or 0}.sock"


def sockets(directory: Path) -> list[Path]:
    """Return the sockets in a directory, also those whose processes are gone."""
    with contextlib.suppress(OSError):
        return sorted(directory / name for name in os.listdir(directory) if _NAME.fullmatch(name))  # noqa: PTH208
    return []


def pid_of(path: Path) -> int:
    """Return the process that a socket is named after."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def remove_if_stale(path: Path) -> None:
    """Remove a socket at which nobody listens, and whose process is not to be seen.

    Both have to hold: one process may not see the other, as in containers, and one may be about to listen.
    """
    match = _NAME.fullmatch(path.name)
    if match is None or _is_seen(int(match[1]), int(match[2])):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one, short(path) as name:
        one.settimeout(0.1)
        try:
            one.connect(name)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """Yield a name of a socket that fits into an address, as long as the context lasts.

    Raises:
        OSError: the path is too long, and this system has no other name for it.
    """
    if len(os.fsencode(path)) <= _PATH_SIZE_MAX:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _is_seen(pid: int, started_at: int) -> bool:
    if started_at:
        return _started_at(pid) == started_at
    try:
        os.kill(pid, 0)  # where there is no /proc
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _started_at(pid: int) -> int | None:
    """Return when a process was started, in ticks since the boot; None if there is no such process, or no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[_STARTED_FIELD])
