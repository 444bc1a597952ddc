"""Construct and track on a disk that is mounted read-only."""

from __future__ import annotations

from prelude import QUEUE_DIR, make, track
from small_disk import mount

from durable_tracker.errors import StorageError

mount("-o", "remount,ro", QUEUE_DIR)
try:
    make()
except StorageError as error:
    assert QUEUE_DIR in str(error), error
    assert "ead-only" in str(error), error
else:
    raise AssertionError("constructed")
mount("-o", "remount,rw", QUEUE_DIR)
t = make()
mount("-o", "remount,ro", QUEUE_DIR)
try:
    track(t, "refused")
except StorageError as error:
    assert QUEUE_DIR in str(error), error
else:
    raise AssertionError("tracked")
mount("-o", "remount,rw", QUEUE_DIR)
track(t, "accepted")
t.close()
