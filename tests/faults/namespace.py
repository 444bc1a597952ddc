"""Runs a function in a mount namespace of its own: small disks that fill up, disks that lose their power.

`run("tests.faults.ext4:rounds", {...})` imports the function in a new process under `unshare -m`, calls it with the
keyword arguments and returns its result, both as JSON. What it mounts is gone with the process.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from .tools import ROOT


def run(function: str, arguments: dict[str, Any], timeout_s: float = 120) -> Any:
    """Return what `module:function` returned, called in a process with its own mounts.

    Raises:
        AssertionError: it raised; the message holds its traceback.
    """
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "tests.faults.namespace", function]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{function}{arguments} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def mount_tmpfs(path: Path, size: str) -> None:
    """Mount a small disk in memory, such as "2m"; mounted again with another size, it grows or shrinks."""
    if path.is_mount():
        subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)
    else:
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)


def unmount(path: Path) -> None:
    """Take a disk away."""
    subprocess.run(["umount", str(path)], check=True)


def probe_tmpfs() -> bool:
    """Mount one, and say that it worked. Called in a namespace."""
    with tempfile.TemporaryDirectory() as folder:
        mount_tmpfs(Path(folder), "1m")
        unmount(Path(folder))
    return True


@functools.cache
def _why_not(function: str, *tools: str) -> str | None:
    for tool in ("unshare", "mount", "umount", *tools):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    try:
        run(function, {})
    except (AssertionError, subprocess.TimeoutExpired) as exc:
        return f"mounting is not possible here: {str(exc).splitlines()[-1]}"
    return None


def need_tmpfs() -> None:
    """Skip the test where a small disk cannot be mounted."""
    reason = _why_not("tests.faults.namespace:probe_tmpfs")
    if reason is not None:
        pytest.skip(f"no small disks: {reason}")


def need_ext4() -> None:
    """Skip the test where an ext4 cannot be mounted and shut down."""
    reason = _why_not("tests.faults.ext4:probe", "mkfs.ext4", "losetup")
    if reason is not None:
        pytest.skip(f"no power loss on a real file system: {reason}")


def main() -> None:
    """Call the function that the command line names."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.load(sys.stdin))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
