"""How events and dead letters stand in their tables, as bytes.

events:        CRC (4 bytes) | flags (1 byte) | [size of note (2 bytes) | note, as JSON |] payload
dead_letters:  CRC (4 bytes) | size of note (4 bytes) | note, as JSON | payload

A CRC covers all that follows it, and the row's key. Rows of format 1 have no flags: there the `{` of the payload stands
in their place, which is why no flags ever have that value, and why both may stand in one table.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from durable_tracker.engines.queue import DeadLetter, Row

if TYPE_CHECKING:
    from collections.abc import Iterable

OVERHEAD: Final = 5
KEY_MAX: Final = 1 << 62
"""Beyond it, a key is a flipped bit."""

NOTED: Final = 0x01
"""A note follows the flags."""

PLAIN: Final = b"\0"
"""No flags."""
_NOTED: Final = bytes([NOTED])
_FORMAT_1: Final = b"{"
_DEAD_LETTER_SEED: Final = 0xDEAD  # a dead letter must never pass for an event, nor an event for a dead letter

_new_row = functools.partial(tuple.__new__, Row)  # as Row._make, which is a call into Python


class Event(NamedTuple):
    """What stands in an event's row.

    Attributes:
        payload: the event's JSON.
        replays: how often it has come back from the dead letters.
    """

    payload: bytes
    replays: int = 0


def record(key: int, payload: bytes, replays: int = 0) -> bytes:
    """Return an event's row. A flipped bit in it, or in its key, makes `event_of` refuse it."""
    if not replays:
        body = PLAIN + payload
    else:
        note = json.dumps({"replays": replays}).encode()
        body = _NOTED + len(note).to_bytes(2, "big") + note + payload
    return crc32(body, key).to_bytes(4, "big") + body


def moved(key: int, value: bytes) -> bytes:
    """Return an intact row as it is under a new key, whatever its flags say."""
    return crc32(value[4:], key).to_bytes(4, "big") + value[4:]


def is_intact(key: int, value: object) -> bool:
    """Return whether an event's row was not altered: a flipped bit may also alter its type."""
    return isinstance(value, bytes) and crc32(value[4:], key).to_bytes(4, "big") == value[:4]


def event_of(key: int, value: object) -> Event | None:
    """Return what stands in an event's row; None if it was altered, or has flags that this release does not know."""
    return _in_body(value[4:]) if isinstance(value, bytes) and is_intact(key, value) else None


def _in_body(body: bytes) -> Event | None:
    head = body[:1]
    if head == PLAIN:
        return Event(body[1:])
    if head == _FORMAT_1:
        return Event(body)
    if head == _NOTED:
        start = 3 + int.from_bytes(body[1:3], "big")
        note = json_object(body[3:start])
        return None if note is None else Event(body[start:], note.get("replays", 0))
    return None


def json_object(value: object) -> dict[str, Any] | None:
    """Return what JSON text holds; None if it is no text, or not that of an object."""
    try:
        found = json.loads(value)  # type: ignore[arg-type]  # whatever a damaged row holds
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def intact(found: Iterable[tuple[int, Any]]) -> list[Row]:
    """Return those of the events' rows that can be read: `event_of` for many, without a call for each."""
    found = list(found)
    pairs = [
        (key, body[1:])
        for key, value in found
        if isinstance(value, bytes)
        and crc32(body := value[4:], key).to_bytes(4, "big") == value[:4]
        and body[:1] == PLAIN
    ]
    if len(pairs) < len(found):
        pairs = [(key, event.payload) for key, value in found if (event := event_of(key, value)) is not None]
    return list(map(_new_row, pairs))


def dead_letter_record(letter: DeadLetter) -> bytes:
    """Return a dead letter's row."""
    fields = {"status": letter.status, "reason": letter.reason, "time_ms": letter.time_ms, "kind": letter.kind}
    note = json.dumps(fields | ({"replays": letter.replays} if letter.replays else {})).encode()
    body = len(note).to_bytes(4, "big") + note + letter.payload
    return crc32(body, letter.key ^ _DEAD_LETTER_SEED).to_bytes(4, "big") + body


def dead_letter_of(key: int, value: object) -> DeadLetter | None:
    """Return the dead letter in a row, None if the row was altered."""
    if not isinstance(value, bytes):
        return None
    body = value[4:]
    if crc32(body, key ^ _DEAD_LETTER_SEED).to_bytes(4, "big") != value[:4]:
        return None
    start = 4 + int.from_bytes(body[:4], "big")
    note = json.loads(body[4:start])
    return DeadLetter(
        key=key,
        status=note["status"],
        reason=note["reason"],
        time_ms=note["time_ms"],
        payload=body[start:],
        kind=note.get("kind", "refused" if key > 0 else "damaged"),  # of format 1
        replays=note.get("replays", 0),
    )


def letter_flags(value: bytes) -> int:
    """Return the flags of the row that an intact dead letter came from. This release knows none that it has to keep."""
    return int(json.loads(value[8 : 8 + int.from_bytes(value[4:8], "big")]).get("flags", 0))
