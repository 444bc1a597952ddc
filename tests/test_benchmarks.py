"""The kept results of the benchmarks say what they are measured in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.targets import Target

RESULTS = Path(__file__).parent.parent / "benchmarks" / "RESULTS.md"
REACHED = re.compile(r"[\d.,]+ (×|ms|MiB|KiB|%|events/s|a second)")  # noqa: RUF001 (the sign of multiplication)
HEADING = re.compile(r"(.* )?(µs|ms|s|MiB|KiB|%|events/s|wake-ups a second|× .*)")  # noqa: RUF001


def tables() -> list[list[list[str]]]:
    """Return the tables of the report, as rows of cells."""
    found: list[list[list[str]]] = [[]]
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_every_figure_of_the_report_has_a_unit() -> None:
    """Those beside a target in their own cell, the others in the heading of their column."""
    machine, targets, *results = tables()
    assert (machine[0][0], targets[0][2]) == ("machine", "reached")
    assert [row for row in targets[2:] if not REACHED.fullmatch(row[2])] == []
    assert [heading for table in results for heading in table[0][1:] if not HEADING.fullmatch(heading)] == []
    assert len(results) > 15


def test_a_figure_without_a_unit_cannot_be_declared() -> None:
    """A ratio has one already."""
    of = ("scale", "by backlog", "0 pending", "open ms")
    with pytest.raises(ValueError, match="open: a figure without a unit"):
        Target(what="open", required="≤ 100 ms", of=of, at_most=100)
    Target(what="open", required="≤ 2 × another", of=of, to=(of,), at_most=2)  # noqa: RUF001
