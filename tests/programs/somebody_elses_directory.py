"""Construct emitters in directories of another user."""

from __future__ import annotations

import os

from prelude import ENDPOINT, QUEUE_DIR, note

import durable_tracker.delivery.http_transport  # noqa: F401 (another user may not read where it is)
from durable_tracker import Emitter
from durable_tracker.errors import StorageError

os.setgroups([])
os.setresuid(65534, 65534, 65534)
for name in ("closed", "readable", "writable"):
    try:
        Emitter(ENDPOINT, queue_dir=os.path.join(os.path.dirname(QUEUE_DIR), name), name="test")
    except StorageError as error:
        assert name in str(error), error
    else:
        raise AssertionError(name)
note("refused")
