"""The package under the official tracker's name, each time in a process of its own."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest
import snowplow_tracker
from processes import PROGRAMS

from durable_tracker import compat


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", str(PROGRAMS / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_library_that_imports_the_official_name_gets_this_package() -> None:
    """By every way to import, and with the very same classes."""
    given = run("install_the_official_name")
    assert given == "good"


def test_every_official_module_is_there() -> None:
    """What the installed official package has."""
    found = {
        one.name.removeprefix("snowplow_tracker.")
        for one in pkgutil.walk_packages(snowplow_tracker.__path__, "snowplow_tracker.")
        if ".test" not in one.name
    }
    assert found == set(compat._SUBMODULES)


def test_no_module_exists_twice() -> None:
    """One that is ours alone cannot be had by the official name: it would be a copy with a state of its own."""
    given = run("import_modules_twice")
    assert given.split() == [
        "snowplow_tracker.testing", "snowplow_tracker.delivery", "snowplow_tracker.no_such", "snowplow_tracker",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["snowplow_tracker", "snowplow_tracker.subject"])
def test_the_official_one_imported_before_is_an_error(name: str) -> None:
    """It says from where, and changes nothing."""
    given = run("import_the_official_one_before", name)
    assert given.startswith("ConfigurationError snowplow_tracker: was imported already, from ")
    assert snowplow_tracker.__file__ in given


def test_the_official_one_need_not_be_installed() -> None:
    """Nothing of it is looked for."""
    given = run("without_the_official_one")
    assert given == "durable_tracker.tracker"


def test_importing_it_changes_nothing() -> None:
    """Only the call does."""
    assert run("import_compat") == "False"
