"""This package under the official tracker's name, for libraries that import `snowplow_tracker` themselves.

    import durable_tracker.compat

    durable_tracker.compat.install()  # before the library is imported
    import library_that_tracks

Code of one's own needs none of it: there the import is changed.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from durable_tracker.errors import ConfigurationError

_NAME: Final = "snowplow_tracker"
_SUBMODULES: Final = (
    "_version",
    "constants",
    "contracts",
    "emitter_configuration",
    "emitters",
    "event_store",
    "events",
    "events.event",
    "events.page_ping",
    "events.page_view",
    "events.screen_view",
    "events.self_describing",
    "events.structured_event",
    "payload",
    "self_describing_json",
    "snowplow",
    "subject",
    "tracker",
    "tracker_configuration",
    "typing",
)
"""The official tracker's modules."""


def install() -> None:
    """Make `import snowplow_tracker`, and its submodules, give this package, in this process.

    To be called before anything imports `snowplow_tracker`, best at the very start of the program; where several
    threads import, before they do. A second call does nothing. Processes that are spawned have to call it themselves.
    Neither the official package nor its metadata are touched, whether it is installed or not. The classes are the very
    same ones by both names.

    Raises:
        ConfigurationError: the official tracker was imported before: what has it would go on with it, unseen, and lose
            events. The message says from where. Nothing was changed.
    """
    found = sys.modules.get(_NAME)
    if isinstance(found, _Alias):
        return
    if found is not None or any(name.startswith(f"{_NAME}.") for name in sys.modules):
        where = getattr(found, "__file__", None) or "an unknown place"
        raise ConfigurationError(
            f"{_NAME}: was imported already, from {where}; call durable_tracker.compat.install() before anything does"
        )
    package = importlib.import_module("durable_tracker")
    alias = _Alias(_NAME, package.__doc__)
    for name in (*package.__all__, "__version__"):
        setattr(alias, name, getattr(package, name))
    modules: dict[str, ModuleType] = {_NAME: alias}
    for name in _SUBMODULES:
        module = modules[f"{_NAME}.{name}"] = importlib.import_module(f"durable_tracker.{name}")
        if "." not in name:
            setattr(alias, name, module)
    sys.modules.update(modules)


class _Alias(ModuleType):
    """The package by its other name. It has no path: a submodule found by one would be a second copy of ours."""

    def __init__(self, name: str, doc: str | None) -> None:
        super().__init__(name, doc)
        self.__path__: list[str] = []
        self.__package__ = name
        self.__spec__ = ModuleSpec(name, None, is_package=True)
