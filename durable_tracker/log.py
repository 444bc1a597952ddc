"""The package's one logger. It is never configured here: that is the application's business.

A record's message says what happened, where, why, what becomes of the data, and what can be done, in that order. The
same stands in attributes of the record: `event`, a stable name, and details such as `queue`, `reason`, `fate`. No
payload is ever logged, and nothing is logged per event.
"""

from __future__ import annotations

import logging

_WHERE = ("emitter", "queue", "slot", "collector")
_WHY = ("reason", "error")
_LAST = ("fate", "outcome", "remedy")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event", "taskName"}


def _compose(record: logging.LogRecord) -> bool:
    """Make the message of the event's name and its details: a formatter shows nothing else."""
    if not hasattr(record, "event"):
        event = record.event = str(record.msg)
        details = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        where = [f"{name} {details.pop(name)}" for name in _WHERE if name in details]
        why = [str(details.pop(name)) for name in _WHY if name in details]
        last = [str(details.pop(name)) for name in _LAST if name in details]
        told = [*why, *(f"{name}={value}" for name, value in details.items()), *last]
        record.msg = event + (f" ({', '.join(where)})" if where else "") + (f": {'; '.join(told)}" if told else "")
    return True


logger = logging.getLogger("durable_tracker")
logger.addHandler(logging.NullHandler())
logger.addFilter(_compose)
