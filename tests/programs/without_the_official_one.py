"""Put the package in the place of an official one that nobody may look for, and print whose tracker it is."""

# mypy looks at the official package, which marks no name as exported:
# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class Nothing(MetaPathFinder):
    """Fails when the official package is looked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".", maxsplit=1)[0] == "snowplow_tracker":
            raise AssertionError(fullname)
        return None


sys.meta_path.insert(0, Nothing())

import durable_tracker.compat  # noqa: E402 (after the finder)

durable_tracker.compat.install()

import snowplow_tracker  # noqa: E402 (what was installed)
from snowplow_tracker.events import PageView  # noqa: E402, F401 (as above)

print(snowplow_tracker.Tracker.__module__)
