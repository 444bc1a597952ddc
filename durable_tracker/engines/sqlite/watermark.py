"""The mark: up to this key all events are delivered, though their rows may still stand in the table.

It stands in `meta` twice, as it is and as its negative: a flipped bit in either must not hide rows. So it is valid only
with its negative, wherever it is read from; else there is none, and what was delivered and not swept is sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: Final = ("acked", "acked_check")


def of(meta: Mapping[str, object]) -> int | None:
    """Return the mark that is on record; 0 if there is none, None if it was altered."""
    mark, negative = (meta.get(name, 0) for name in NAMES)
    return mark if isinstance(mark, int) and isinstance(negative, int) and 0 <= mark == -negative else None


def moved(key: int) -> str:
    """Return the SQL that moves the mark."""
    return f"UPDATE meta SET value = CASE key WHEN 'acked' THEN {key} ELSE -{key} END WHERE key IN {NAMES}"
