"""The package's one logger. It is never configured here: that is the application's business.

A record's message says what happened, where, why, what becomes of the data, and what can be done, in that order. The
same stands in attributes of the record: `event`, a stable name, and details such as `queue`, `reason`, `fate`. No
payload is ever logged, and nothing is logged per event.
"""

from __future__ import annotations

import logging
from typing import Any

_WHERE = ("emitter", "queue", "slot", "collector")
_WHY = ("reason", "error")
_LAST = ("fate", "outcome", "remedy")


def _make_record(*args: Any) -> logging.LogRecord:
    """Make the message of the event's name and its details: a formatter shows nothing else."""
    record = logging.Logger.makeRecord(logger, *args)
    extra = args[_EXTRA] if len(args) > _EXTRA else None
    if extra:
        event = record.event = str(record.msg)
        details = {name: _text(value) for name, value in extra.items() if value is not None}
        where = [f"{name} {details.pop(name)}" for name in _WHERE if name in details]
        why = [details.pop(name) for name in _WHY if name in details]
        last = [details.pop(name) for name in _LAST if name in details]
        told = [*why, *(f"{name}={value}" for name, value in details.items()), *last]
        record.msg = event + (f" ({', '.join(where)})" if where else "") + (f": {'; '.join(told)}" if told else "")
    return record


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a value of the user's; a line in the log is not to fail by it
        return f"<{type(value).__name__}>"


_EXTRA = 8  # the place of `extra` among the arguments of Logger.makeRecord
logger = logging.getLogger("durable_tracker")
logger.addHandler(logging.NullHandler())
logger.makeRecord = _make_record  # type: ignore[assignment, method-assign]  # of this logger alone, whoever made it first
