"""Import the module that can put the package in the official one's place, and print whether it did."""

from __future__ import annotations

import sys

import durable_tracker.compat  # noqa: F401 (what its import does is looked at)

print("snowplow_tracker" in sys.modules)
