"""Import a module of the official package, and print how its place is refused. Takes the module as its argument."""

from __future__ import annotations

import importlib
import sys
import warnings

warnings.simplefilter("ignore")
importlib.import_module(sys.argv[1])

import durable_tracker.compat  # noqa: E402 (after the official one)

before = dict(sys.modules)
try:
    durable_tracker.compat.install()
except ValueError as error:
    print(type(error).__name__, error)
assert sys.modules["snowplow_tracker"] is before["snowplow_tracker"]
