"""Do as the arguments say in an interpreter in which nothing is installed that only an extra brings.

`track ENDPOINT QUEUE_DIR COUNT` tracks and leaves the events on disk; `deliver ENDPOINT QUEUE_DIR COUNT` tracks and
delivers; anything else is a command line of `python -m durable_tracker`.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class NotInstalled(MetaPathFinder):
    """Finds nothing, and has nobody else look for the packages of extras."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in ("fastjsonschema", "shtab"):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def track(endpoint: str, queue_dir: str, count: int, *, delivers: bool) -> int:
    from durable_tracker import Emitter, StructuredEvent, Tracker

    with Tracker(Emitter(endpoint, queue_dir=queue_dir, drain=delivers, shutdown_timeout=20.0)) as tracker:
        for n in range(count):
            tracker.track(StructuredEvent("test", "tracked", f"event-{n}"))
    return 0


def main() -> int:
    sys.meta_path.insert(0, NotInstalled())
    if sys.argv[1] in ("track", "deliver"):
        kind, endpoint, queue_dir, count = sys.argv[1:]
        return track(endpoint, queue_dir, int(count), delivers=kind == "deliver")
    from durable_tracker.__main__ import main as command

    return command(sys.argv[1:])


sys.exit(main())
