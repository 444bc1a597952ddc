"""Putting rows into a slot's file that were found in a damaged one, or in a damaged log.

Every row is presumed damaged until it is found, so that the ledger adds up wherever a crash or a full disk ends this.
It can be repeated. Where the rows come from is the business of `salvage`.
"""

# ruff: noqa: S608 (what stands in these statements are integers and hexadecimal digits)

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import QueueFullError
from durable_tracker.store import acked, salvage
from durable_tracker.store.records import KEY_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from durable_tracker.store.slot_file import SlotFile

_ROWS: Final = 256  # in one transaction


def take_over(file: SlotFile, aside: Path) -> None:
    """Put the intact rows of a damaged file, which was set aside, into this one."""
    if file.acked:
        with file.lock:
            # The rows that are to come may have keys below the mark of this file.
            while acked.sweep(file):
                pass
            file.transaction(acked.moved(0))
    found = salvage.survey(aside)
    if (file.meta.get("taking_over") or b"").decode() != aside.name:
        _begin(file, found, aside.name)
    taken = 0
    delivered = found.acked
    rows = (row for row in salvage.intact_rows(aside) if row[0] > delivered or row[2])
    try:
        while chunk := list(islice(rows, _ROWS)):
            taken += _take(file, chunk)
    except QueueFullError as exc:
        # What is there stays there: the next opening tries again.
        file.note(logging.ERROR, "queue.salvage_interrupted", error=str(exc), kept_as=str(aside), rows=taken)
        return
    file.recount()
    salvage.mark_done(aside)
    file.transaction("DELETE FROM meta WHERE key = 'taking_over'")
    lost = file.counts["damaged"]
    file.note(logging.WARNING, "queue.file_salvaged", kept_as=str(aside), rows=taken, damaged=lost)


def _begin(file: SlotFile, found: salvage.Found, name: str) -> None:
    """Take over the counts."""
    # This file may have rows and counts already: of another damaged file, or put since a full disk interrupted.
    file.read_counts()
    counts = dict(file.counts)
    for key in counts.keys() - set(acked.NAMES):
        value = found.meta.get(key)
        if isinstance(value, int) and value < KEY_MAX:
            counts[key] = max(counts[key], value)  # they only grow
    counts["high"] = max(file.high, counts["high"], found.high if found.high < KEY_MAX else 0)
    statements = [f"UPDATE meta SET value = {value} WHERE key = '{key}'" for key, value in counts.items()]
    origin = found.meta.get("origin")
    if isinstance(origin, bytes):
        statements.append(f"INSERT OR REPLACE INTO meta (key, value) VALUES ('origin', x'{origin.hex()}')")
    statements.append(f"INSERT OR REPLACE INTO meta (key, value) VALUES ('taking_over', x'{name.encode().hex()}')")
    file.transaction(";".join(statements))
    file.recount()


def _take(file: SlotFile, rows: list[tuple[int, bytes, bool]]) -> int:
    """Store rows, given as key, value and whether it is a dead letter. Return how many were not there yet."""
    statements = []
    for key, value, is_dead in rows:
        table = "dead_letters" if is_dead else "events"
        statements.append(f"INSERT OR IGNORE INTO {table} (key, value) VALUES ({key}, x'{value.hex()}')")
        if not is_dead:
            statements.append("UPDATE meta SET value = value - changes() WHERE key = 'damaged'")
        elif key > 0:
            statements.append(
                "UPDATE meta SET value = value + CASE key WHEN 'dead' THEN changes() ELSE -changes() END"
                " WHERE key IN ('dead', 'damaged')"
            )
    before = file.counts["damaged"]
    file.transaction(";".join(statements), sum(len(value) for _, value, _ in rows))
    return before - file.counts["damaged"]


def insert_beyond(file: SlotFile, rows: list[tuple[int, bytes]], *, is_damage: bool) -> None:
    """Store rows that SQLite's recovery left behind a frame of the WAL that is damaged, or was never whole."""
    if not rows:
        return
    high = rows[-1][0]
    missing = high - file.high - len(rows)
    # What was cut short was never accepted: accepted is the highest key less what counts as requeued.
    count = "damaged" if is_damage else "requeued"
    file.transaction(
        ";".join(f"INSERT INTO events (key, value) VALUES ({key}, x'{value.hex()}')" for key, value in rows)
        + f";UPDATE meta SET value = value + {missing} WHERE key = '{count}'",
        sum(len(value) for _, value in rows),
    )
    file.reread_high()
    event = "queue.wal_damaged" if is_damage else "queue.wal_cut_short"
    file.note(logging.ERROR, event, rows_salvaged=len(rows), rows_missing=missing)
