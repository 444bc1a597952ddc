"""See that importing the package starts nothing and opens nothing."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

before = (os.listdir("/proc/self/fd"), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
from durable_tracker import Emitter, Tracker, logger  # noqa: E402, F401 (what its import does is looked at)

after = (os.listdir("/proc/self/fd"), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
assert before == after
assert threading.active_count() == 1
assert len(os.listdir("/proc/self/task")) == 1
assert not logging.getLogger().handlers
assert all(isinstance(one, logging.NullHandler) for one in logger.handlers)
assert logger.level == logging.NOTSET
assert not {"tqdm", "fastjsonschema", "pytest", "durable_tracker.collector"} & set(sys.modules)
