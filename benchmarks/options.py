"""What a run was asked for."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run was asked for.

    Attributes:
        rounds: how often each measurement is repeated, all contenders in turn.
        directory: where queues are made; on a real disk.
        backlog_max: the largest backlog that is built, in events.
    """

    rounds: int
    directory: Path
    backlog_max: int

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a new directory, which is removed at the end."""
        path = Path(tempfile.mkdtemp(prefix="durable-tracker-bench-", dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
