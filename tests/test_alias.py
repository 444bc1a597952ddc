"""The package under the official tracker's name, each time in a process of its own."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import textwrap

import pytest
import snowplow_tracker

from durable_tracker import compat


def run(program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LIBRARY = """
        import snowplow_tracker
        import snowplow_tracker.events.page_view as page_view
        from snowplow_tracker import Emitter, SelfDescribingJson, Subject, Tracker, logger
        from snowplow_tracker.emitters import AsyncEmitter
        from snowplow_tracker.typing import PayloadDict
        from snowplow_tracker.tracker import Tracker as Same
"""


def test_a_library_that_imports_the_official_name_gets_this_package() -> None:
    """By every way to import, and with the very same classes."""
    given = run(f"""
        import durable_tracker, durable_tracker.compat
        durable_tracker.compat.install()
        durable_tracker.compat.install()
{LIBRARY}
        import durable_tracker.events.page_view
        assert Same is Tracker is durable_tracker.Tracker
        assert issubclass(AsyncEmitter, Emitter)
        assert page_view.PageView is durable_tracker.PageView
        assert snowplow_tracker.__version__ == durable_tracker.__version__
        assert snowplow_tracker.emitters.Emitter is Emitter
        class Mine(Emitter):
            def http_post(self, data):
                return 200
        print("good")
    """)
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
    given = run("""
        import importlib.util, sys
        import durable_tracker.compat
        durable_tracker.compat.install()
        for name in ("testing", "delivery.policy", "no_such"):
            try:
                __import__(f"snowplow_tracker.{name}")
            except ModuleNotFoundError as error:
                print(error.name)
        assert importlib.util.find_spec("snowplow_tracker") is not None
        files = [one.__file__ for one in {id(one): one for one in sys.modules.values()}.values()
                 if "durable_tracker" in str(getattr(one, "__file__", ""))]
        assert len(files) == len(set(files)), files
        try:
            from snowplow_tracker import NoSuchName
        except ImportError as error:
            print(error.name)
    """)
    assert given.split() == [
        "snowplow_tracker.testing", "snowplow_tracker.delivery", "snowplow_tracker.no_such", "snowplow_tracker",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["snowplow_tracker", "snowplow_tracker.subject"])
def test_the_official_one_imported_before_is_an_error(name: str) -> None:
    """It says from where, and changes nothing."""
    given = run(f"""
        import warnings
        warnings.simplefilter("ignore")
        import {name}
        import sys
        import durable_tracker.compat
        before = dict(sys.modules)
        try:
            durable_tracker.compat.install()
        except ValueError as error:
            print(type(error).__name__, error)
        assert sys.modules["snowplow_tracker"] is before["snowplow_tracker"]
    """)
    assert given.startswith("ConfigurationError snowplow_tracker: was imported already, from ")
    assert snowplow_tracker.__file__ in given


def test_the_official_one_need_not_be_installed() -> None:
    """Nothing of it is looked for."""
    given = run("""
        import sys
        class Nothing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "snowplow_tracker":
                    raise AssertionError(name)
        sys.meta_path.insert(0, Nothing())
        import durable_tracker.compat
        durable_tracker.compat.install()
        import snowplow_tracker
        from snowplow_tracker.events import PageView
        print(snowplow_tracker.Tracker.__module__)
    """)
    assert given == "durable_tracker.tracker"


def test_importing_it_changes_nothing() -> None:
    """Only the call does."""
    assert (
        run("""
        import sys
        import durable_tracker.compat
        print("snowplow_tracker" in sys.modules)
    """)
        == "False"
    )
