"""What the reading commands say of a queue dir, and whether they leave it as it is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from durable_tracker.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

ALL = ("--limit", "1000000", "--raw")
READING: tuple[tuple[str, ...], ...] = (
    ("status", "--json"), ("peek", *ALL), ("peek", "--newest", *ALL), ("dead-letters", *ALL),
    ("export", "--dead-letters"),
)  # fmt: skip


def said(queue_dir: Path) -> list[tuple[int, str, str]]:
    """Return what each reading command says, in this process: exit code, stdout, stderr."""
    answers = []
    for line in READING:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*line, "--queue-dir", str(queue_dir)])
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        answers.append((code, texts[0], texts[1]))
    return answers


def said_by_processes(queue_dir: Path) -> list[tuple[int, str, str]]:
    """Return the same, by a process for each."""
    answers = []
    for line in READING:
        command = [sys.executable, "-m", "durable_tracker", *line, "--queue-dir", str(queue_dir)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        answers.append((done.returncode, done.stdout, done.stderr))
    return answers


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes of each file, and when it was changed."""
    paths = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def age(folder: Path) -> None:
    """Let the files be older than a tick of the clock, within which a reader cannot rule out that they change."""
    for path in folder.rglob("*.sqlite3") if folder.exists() else ():
        os.utime(path, (1e9, 1e9))


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]
