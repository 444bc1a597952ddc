"""Print what is missing under the official name, and see that no module of the package is there twice."""

from __future__ import annotations

import importlib.util
import sys

import durable_tracker.compat

durable_tracker.compat.install()
for name in ("testing", "delivery.policy", "no_such"):
    try:
        __import__(f"snowplow_tracker.{name}")
    except ModuleNotFoundError as error:
        print(error.name)
assert importlib.util.find_spec("snowplow_tracker") is not None
modules = {id(one): one for one in sys.modules.values()}.values()
files = [one.__file__ for one in modules if "durable_tracker" in str(getattr(one, "__file__", ""))]
assert len(files) == len(set(files)), files
try:
    from snowplow_tracker import NoSuchName  # type: ignore[attr-defined]  # noqa: F401 (its import fails)
except ImportError as error:
    print(error.name)
