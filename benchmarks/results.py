"""The figures of a run, kept round by round, and merged with those of earlier runs of other benchmarks."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

RESULTS_DIRECTORY: Final = Path(__file__).parent / "results"
_FILE: Final = RESULTS_DIRECTORY / "results.json"


@dataclass(slots=True)
class Results:
    """Figures by setting, contender and metric: one number per round. Settings are rows of tables, in order."""

    benchmark: str
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, setting: str, contender: str, metric: str, value: float) -> None:
        """Add one round's figure. The metric names its unit."""
        self.figures.setdefault(setting, {}).setdefault(contender, {}).setdefault(metric, []).append(value)

    def note(self, setting: str, text: str) -> None:
        """Say what a reader has to know about a setting."""
        self.notes[setting] = text

    def rounds(self, setting: str, contender: str, metric: str) -> list[float]:
        """Return a figure's rounds; empty if it was not measured."""
        return self.figures.get(setting, {}).get(contender, {}).get(metric, [])

    def median(self, setting: str, contender: str, metric: str) -> float | None:
        """Return a figure's median over the rounds, None if it was not measured."""
        rounds = self.rounds(setting, contender, metric)
        return statistics.median(rounds) if rounds else None

    def ratios(self, of: tuple[str, str, str], to: tuple[str, str, str]) -> list[float]:
        """Return a figure over another one, round by round: both met the same disturbances in a round."""
        above, below = self.rounds(*of), self.rounds(*to)
        if len(above) == len(below):
            return [a / b for a, b in zip(above, below, strict=True) if b]
        if not above or not below:
            return []
        return [statistics.median(above) / statistics.median(below)]


def spread(values: list[float]) -> tuple[float, float]:
    """Return the middle half of the values: first and third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def load() -> tuple[dict[str, Results], dict[str, Any]]:
    """Return the figures on file by benchmark, and the description of the machine that goes with them."""
    try:
        document = json.loads(_FILE.read_text())
    except FileNotFoundError:
        return {}, {}
    found = {name: Results(name, part["figures"], part["notes"]) for name, part in document["benchmarks"].items()}
    return found, document["machine"]


def save(found: dict[str, Results], machine: dict[str, Any]) -> None:
    """Put the figures on file."""
    RESULTS_DIRECTORY.mkdir(exist_ok=True)
    parts = {name: {"figures": part.figures, "notes": part.notes} for name, part in found.items()}
    _FILE.write_text(json.dumps({"machine": machine, "benchmarks": parts}, indent=1, ensure_ascii=False) + "\n")
