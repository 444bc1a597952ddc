"""The figures as small plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.results import Results


def draw(found: Mapping[str, Results], directory: Path) -> None:
    """Draw what there is."""
    del found
    directory.mkdir(exist_ok=True)
