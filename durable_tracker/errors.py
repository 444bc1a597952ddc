"""Every error that this package raises on purpose.

    DurableTrackerError
    ├── ConfigurationError (ValueError)     an argument of a constructor or command is not usable
    │   └── NamespaceTakenError (TypeError)  another tracker is registered by that namespace
    ├── InvalidEventError (ValueError)      an event was refused at the door; nothing was queued
    └── QueueError                          the queue did not take, or could not give, an event
        ├── QueueFullError                  the quota or the disk is full; nothing was queued
        │   └── DeadLettersFullError        their bound is reached; the event stays in the queue
        ├── QueueClosedError                the emitter was closed by its owner
        ├── SlotBusyError                   another process, or another emitter, owns the slot
        └── StorageError                    the disk or SQLite failed
            ├── DamagedQueueError           the file is not a sound SQLite database
            └── UnknownFormatError          the file was written by a newer version of this package

Errors of sqlite3 and requests never leave the module that imports those packages: they are mapped where they arise, as
text, since an exception object that somebody keeps would keep the failed connection alive with it.
"""

from __future__ import annotations


class DurableTrackerError(Exception):
    """Root of all errors of this package."""


class ConfigurationError(DurableTrackerError, ValueError):
    """An argument is not usable. The message names it, shows what it was and says what it may be."""


class NamespaceTakenError(ConfigurationError, TypeError):
    """Another tracker is registered by that namespace. The official tracker raises a TypeError, so this is one too."""


class InvalidEventError(DurableTrackerError, ValueError):
    """An event broke a rule of the protocol and was refused before it was queued.

    Attributes:
        field: the protocol's key, or the name of the argument, that broke the rule.
        rule: what the field has to be.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule

    def __reduce__(self) -> tuple[type[InvalidEventError], tuple[str, str]]:
        return type(self), (self.field, self.rule)


class QueueError(DurableTrackerError):
    """The queue did not take, or could not give, an event.

    Attributes:
        stored: of `put_many`: how many of the events, the leading ones, were queued before the error.
    """

    stored: int = 0


class QueueFullError(QueueError):
    """The quota (`max_queue_bytes`) or the disk is full. The event was not queued."""


class DeadLettersFullError(QueueFullError):
    """The dead letters have reached their bound. The refused event stays in the queue: nothing is discarded."""


class QueueClosedError(QueueError):
    """The emitter was closed. The event was not queued."""


class SlotBusyError(QueueError):
    """Another owner holds the slot's lock.

    Attributes:
        pid: the owner's process id as the lock file states it, or None if it states none.
    """

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StorageError(QueueError):
    """The disk or SQLite failed. Whether the event was stored is unknown; it was not acknowledged."""


class DamagedQueueError(StorageError):
    """The file is not a sound SQLite database."""


class UnknownFormatError(StorageError):
    """The file was written by a newer version of this package. It was left untouched."""
