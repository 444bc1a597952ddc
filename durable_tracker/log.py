"""The package's one logger. It is never configured here: that is the application's business.

Messages are stable event names; what happened to the data, and where, is in `extra`. No payload is ever logged, and
nothing is logged per event.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("durable_tracker")
logger.addHandler(logging.NullHandler())
