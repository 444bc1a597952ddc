"""Put the package in the official one's place, and run a library. Takes a collector's address as its argument."""

from __future__ import annotations

import sys

import durable_tracker.compat

durable_tracker.compat.install()

import their_library  # noqa: E402 (it imports what was installed)

their_library.run(sys.argv[1])
