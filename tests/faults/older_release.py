"""The release that wrote format 1, as it was, for processes that run beside those of this one."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING, Any

from .tools import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ARCHIVE = ROOT / "tests" / "data" / "release_of_format_1.tar.xz"


def unpack(folder: Path) -> Path:
    """Unpack it below a folder, and return the directory that `durable_tracker` stands in."""
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before 3.11.4
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, **options)  # noqa: S202 (it is this repository's own)
    return folder


def environment(release: Path | None, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that imports the release in that directory; None: this one."""
    path = os.pathsep.join([*([] if release is None else [str(release)]), str(ROOT)])
    return {**base, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
