"""Compiles the C libraries and says which faults this machine can play."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ROOT / "tests" / "programs"


@functools.cache
def library(name: str) -> Path:
    """Return the shared library made of `<name>.c`, compiled once for each content; skip if there is no compiler."""
    source = HERE / f"{name}.c"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: the fault libraries cannot be built")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"durable-tracker-faults-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{name}-{digest}.so"
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", str(scratch), str(source), "-lpthread"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        scratch.replace(target)
    return target


def scratch_root() -> Path:
    """Return a folder for crash images: in memory where there is one, since an image needs no durability."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def child_environment() -> dict[str, str]:
    """Return this process's environment, with the package and the modules of the tests importable."""
    environment = dict(os.environ)
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def preload_environment(name: str) -> dict[str, str]:
    """Return the environment of a child with one of the libraries preloaded."""
    environment = child_environment()
    earlier = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{library(name)}:{earlier}" if earlier else str(library(name))
    return environment
