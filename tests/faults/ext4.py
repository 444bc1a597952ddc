"""Power loss on a real file system: ext4 on a loop device, shut down in the middle of a program.

The shutdown drops everything that is not on the device yet, its journal's buffers included, and fails every later call.
Runs in a namespace: see `namespace.run`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .campaign import Bench, Server
from .judge import history_of, problems
from .namespace import unmount

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXT4_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG = 2


class _Ext4Bench(Bench):
    """A bench whose recorded directory lies on the disk that loses its power; the log lies elsewhere."""

    disk: Path

    @property
    def root(self) -> Path:
        return self.disk / "root"


@contextlib.contextmanager
def _image() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, mount = folder / "image", folder / "mount"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        try:
            yield image, mount
        finally:
            if mount.is_mount():
                unmount(mount)


def _mount(image: Path, mount: Path) -> None:
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)


def _cut_the_power(mount: Path) -> None:
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
    finally:
        os.close(fd)


def _wait_for(log: Path, size: int, running: threading.Thread) -> None:
    """Wait until so much has happened: a delay would depend on the machine's load."""
    while running.is_alive() and not (log.exists() and log.stat().st_size >= size):
        running.join(0.0005)


def probe() -> bool:
    """Lose the power once, and see that what was not synced is gone."""
    with _image() as (image, mount):
        _mount(image, mount)
        (mount / "unsynced").write_bytes(b"x")
        _cut_the_power(mount)
        unmount(mount)
        _mount(image, mount)
        if (mount / "unsynced").exists():
            raise RuntimeError("the shutdown does not lose what was not synced")
    return True


def rounds(subject: str, count: int, seed: int) -> dict[str, Any]:
    """Cut the power `count` times at random moments of a program; return what came of it."""
    rng = random.Random(seed)
    failures: list[str] = []
    acknowledged = 0
    with _image() as (image, mount), Server() as server, tempfile.TemporaryDirectory() as name:
        _mount(image, mount)
        for number in range(count):
            target = _Ext4Bench(server, subject, Path(name) / str(number))
            target.folder.mkdir()
            target.disk = mount
            running = threading.Thread(
                target=target.run, args=([["put", 30], ["put_many", 20], ["deliver", 15], ["put", 4000], ["crash"]],)
            )
            running.start()
            size = rng.randint(1, 400_000)
            _wait_for(target.log, size, running)
            moment = time.monotonic_ns()  # what returns after it may have returned from a machine that is dead
            _cut_the_power(mount)
            running.join()
            unmount(mount)
            _mount(image, mount)
            history = history_of(target.operations())
            wrong = problems(history, target.observe_in_place(), target.subject.interval_s, moment)
            acknowledged += len(history.stored)
            if wrong and history.stored:
                failures.append(f"{subject}, seed {seed}, round {number}, {size} bytes of log: {'; '.join(wrong)}")
            shutil.rmtree(target.root, ignore_errors=True)
            os.sync()
    return {"rounds": count, "acknowledged": acknowledged, "failures": failures}
