"""The settings of a backlog as they stand on record in a queue: never a header, nor another secret.

    {"byte_limit": 150000, "max_retry_delay_seconds": 60, "custom_retry_codes": {"404": true}, "max_age": null,
     "sender": "shop.wire.KafkaTransport"}

They are the last emitter's that opened the queue. `sender` is there if the events are sent in a way of the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger
from durable_tracker.settings.table import BACKLOG

SENDER: Final = "sender"
_CODES: Final = "custom_retry_codes"
_STATUS_DIGITS: Final = 3


def to_record(settings: object, sender: str | None) -> dict[str, Any]:
    """Return what goes on record.

    Args:
        settings: has the arguments that belong to a backlog as attributes.
        sender: the qualified name of what sends in a way of the user's own, None for plain HTTP.
    """
    record = {one.name: getattr(settings, one.name) for one in BACKLOG}
    record[_CODES] = {str(int(status)): retry for status, retry in record[_CODES].items()}
    return record if sender is None else {**record, SENDER: sender}


def on_record(record: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """Return the arguments that a queue has on record. What is not usable is left out, which is logged.

    Args:
        record: what the queue has.
        queue: its name, for the log.
    """
    found = {}
    for one in BACKLOG:
        if one.name not in record:
            continue
        value = record[one.name]
        if one.name == _CODES and isinstance(value, Mapping):
            value = {_status(key): retry for key, retry in value.items()}
        try:
            found[one.name] = one.value(value)
        except ConfigurationError as exc:
            logger.warning("queue.setting_ignored", extra={"queue": queue, "error": str(exc)})
    return found


def _status(key: str) -> int | str:
    return int(key) if len(key) == _STATUS_DIGITS and key.isascii() and key.isdigit() else key


def sender_of(record: Mapping[str, Any]) -> str | None:
    """Return by what of the user's own a queue's events were sent, None if by plain HTTP, or if that is not known."""
    sender = record.get(SENDER)
    return sender if isinstance(sender, str) and sender else None
