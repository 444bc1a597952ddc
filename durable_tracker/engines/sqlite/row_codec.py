"""How events and dead letters stand in their tables, as bytes.

events:        CRC (4 bytes) | payload                    the CRC covers the payload and the row's key
dead_letters:  CRC (4 bytes) | size of note (4 bytes) | note, as JSON | payload
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from durable_tracker.engines.queue import DeadLetter, Row

if TYPE_CHECKING:
    from collections.abc import Iterable

OVERHEAD: Final = 4
KEY_MAX: Final = 1 << 62
"""Beyond it, a key is a flipped bit."""

_DEAD_LETTER_SEED: Final = 0xDEAD  # a dead letter must never pass for an event, nor an event for a dead letter

_new_row = functools.partial(tuple.__new__, Row)  # as Row._make, which is a call into Python


def record(key: int, payload: bytes) -> bytes:
    """Return an event's row. A flipped bit in it, or in its key, makes `payload_of` refuse it."""
    return crc32(payload, key).to_bytes(OVERHEAD, "big") + payload


def payload_of(key: int, value: object) -> bytes | None:
    """Return the payload of an event's row, None if the row was altered: a flipped bit may also alter its type."""
    if not isinstance(value, bytes):
        return None
    payload = value[OVERHEAD:]
    return payload if crc32(payload, key).to_bytes(OVERHEAD, "big") == value[:OVERHEAD] else None


def intact(found: Iterable[tuple[int, Any]]) -> list[Row]:
    """Return those of the events' rows that were not altered: `payload_of` for many, without a call for each."""
    pairs = [
        (key, payload)
        for key, value in found
        if isinstance(value, bytes)
        and crc32(payload := value[OVERHEAD:], key).to_bytes(OVERHEAD, "big") == value[:OVERHEAD]
    ]
    return list(map(_new_row, pairs))


def dead_letter_record(letter: DeadLetter) -> bytes:
    """Return a dead letter's row."""
    note = json.dumps({"status": letter.status, "reason": letter.reason, "time_ms": letter.time_ms}).encode()
    body = len(note).to_bytes(4, "big") + note + letter.payload
    return crc32(body, letter.key ^ _DEAD_LETTER_SEED).to_bytes(OVERHEAD, "big") + body


def dead_letter_of(key: int, value: object) -> DeadLetter | None:
    """Return the dead letter in a row, None if the row was altered."""
    if not isinstance(value, bytes):
        return None
    body = value[OVERHEAD:]
    if crc32(body, key ^ _DEAD_LETTER_SEED).to_bytes(OVERHEAD, "big") != value[:OVERHEAD]:
        return None
    size = int.from_bytes(body[:4], "big")
    note = json.loads(body[4 : 4 + size])
    return DeadLetter(key, note["status"], note["reason"], note["time_ms"], body[4 + size :])
