"""Every name of the official tracker can be imported here, from the module of the same name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
import snowplow_tracker

from durable_tracker import InvalidEventError, contracts
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = {
    "emitters.FlushTimer": "the thread behind set_flush_timer, which works",
    "emitters.Requester": "what a session's methods are wrapped in; session= takes the session",
}
"""Names of the official tracker that are not here, and why."""

OLDER = {
    "emitters": ("AsyncEmitter", "CeleryEmitter", "Emitter", "RedisEmitter", "RedisWorker", "PROTOCOLS", "METHODS"),
    "self_describing_json": ("SelfDescribingJson",),
    "subject": ("Subject", "SUPPORTED_PLATFORMS"),
    "tracker": ("Tracker", "VERSION", "SelfDescribingJson", "Subject"),
    "payload": ("Payload",),
    "_version": ("__version__",),
}
"""Names that 0.9 and 0.10 have in modules of these names, besides what 1.x has there."""


def official_modules() -> list[str]:
    found = pkgutil.walk_packages(snowplow_tracker.__path__, "snowplow_tracker.")
    return ["snowplow_tracker", *(one.name for one in found if ".test" not in one.name)]


def names_of(module: types.ModuleType) -> Iterator[str]:
    """Yield what the official tracker itself put into a module: no modules, and nothing of other packages."""
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None) or "snowplow_tracker"
        is_ours = home.startswith("snowplow_tracker") and not isinstance(value, types.ModuleType)
        if is_ours and (not name.startswith("_") or name == "__version__"):
            yield name


NAMES = [
    f"{module.removeprefix('snowplow_tracker').lstrip('.')}.{name}"
    for module in official_modules()
    for name in names_of(importlib.import_module(module))
] + [f"{module}.{name}" for module, names in OLDER.items() for name in names]


@pytest.mark.parametrize("path", sorted(set(NAMES)))
def test_a_name_of_the_official_tracker_is_in_the_module_of_its_name(path: str) -> None:
    """Or stands in the table of those that are not, with the reason."""
    inner, name = path.rsplit(".", 1)
    module = importlib.import_module(f"durable_tracker.{inner}".rstrip("."))
    assert hasattr(module, name) == (path not in MISSING)
    if path not in MISSING and hasattr(snowplow_tracker, name) and inspect.isclass(getattr(snowplow_tracker, name)):
        assert getattr(module, name) is getattr(importlib.import_module("durable_tracker"), name)


def test_importing_the_package_gives_its_modules_as_attributes() -> None:
    """Those that the official package has then; in a process that has imported nothing else."""
    theirs = {name for name, value in vars(snowplow_tracker).items() if isinstance(value, types.ModuleType)}
    theirs.discard("test")  # is not in ours
    program = f"import durable_tracker as d; print(*(getattr(d, name).__name__ for name in {sorted(theirs)}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.split() == [f"durable_tracker.{name}" for name in sorted(theirs)], done.stderr


def test_the_table_of_missing_names_has_no_others() -> None:
    """One that came since would go unnoticed."""
    assert MISSING.keys() <= set(NAMES)


@pytest.mark.parametrize("module", [name for name in official_modules() if name != "snowplow_tracker"])
def test_a_name_that_nobody_has_is_an_error(module: str) -> None:
    """As in any module; a misspelt import says so."""
    ours = importlib.import_module(module.replace("snowplow_tracker", "durable_tracker"))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ours.no_such_name
    with pytest.raises(AttributeError, match="CeleryWorker"):
        _ = ours.CeleryWorker


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("greater_than", (2, 1), (1, 1)),
        ("non_empty", ([1],), ([],)),
        ("non_empty_string", ("a",), ("",)),
        ("non_empty_string", ("a",), (5,)),
        ("one_of", ("a", {"a"}), ("b", {"a"})),
        ("satisfies", (1, bool), (0, bool)),
        ("form_element", ({"name": "n", "value": None, "nodeName": "INPUT"},), ({"name": "n"},)),
        (
            "form_element",
            ({"name": "n", "value": None, "nodeName": "INPUT"},),
            ({"name": "n", "value": "v", "nodeName": "A"},),
        ),
    ],
)
def test_the_contracts_check_as_the_official_ones_do(name: str, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    """Whatever the switch says; what is raised is a ValueError there and here."""
    contracts.disable_contracts()
    theirs = importlib.import_module("snowplow_tracker.contracts")
    for module in (theirs, contracts):
        assert getattr(module, name)(*good) is None
        with pytest.raises(ValueError, match=r" "):
            getattr(module, name)(*bad)
    with pytest.raises(InvalidEventError):
        getattr(contracts, name)(*bad)


@pytest.mark.parametrize("name", ["CeleryEmitter", "RedisEmitter", "RedisWorker"])
def test_what_0_9_had_beside_says_what_to_use(name: str) -> None:
    """When it is made; to import it is no error."""
    with pytest.raises(ConfigurationError, match=f"{name}: .*Emitter"):
        getattr(importlib.import_module("durable_tracker.emitters"), name)(None)
