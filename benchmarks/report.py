"""The figures as Markdown."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.results import RESULTS_DIRECTORY, Results, spread
from benchmarks.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HERE: Final = Path(__file__).parent


def write(found: Mapping[str, Results], machine: Mapping[str, Any], *, with_snapshot: bool) -> None:
    """Write the report beside the figures, print its table of targets, and keep a snapshot if asked to."""
    from benchmarks import plots

    text = "\n".join(_report(found, machine)) + "\n"
    RESULTS_DIRECTORY.mkdir(exist_ok=True)
    (RESULTS_DIRECTORY / "RESULTS.md").write_text(text)
    plots.draw(found, RESULTS_DIRECTORY / "figures")
    if with_snapshot:
        (_HERE / "RESULTS.md").write_text(text)
        plots.draw(found, _HERE / "figures")
    print("\n".join(_targets(found)))


def _report(found: Mapping[str, Results], machine: Mapping[str, Any]) -> Iterable[str]:
    yield "# Results"
    yield ""
    yield "Written by `python -m benchmarks`; what is measured, and how: [README.md](README.md)."
    yield "Medians of rounds, the middle half of the rounds in brackets. Trust the ratios more than the figures."
    yield ""
    yield "| machine | |"
    yield "|---|---|"
    for name, value in machine.items():
        yield f"| {name} | {value} |"
    yield ""
    yield from _targets(found)
    for name, results in found.items():
        yield f"\n## {name}"
        figure = f"figures/{name}.png"
        if (RESULTS_DIRECTORY / figure).exists():
            yield f"\n![{name}]({figure})"
        for setting in results.figures:
            yield f"\n### {name}: {setting}\n"
            yield from _table(results, setting)
            if setting in results.notes:
                yield f"\n{results.notes[setting]}"


def _targets(found: Mapping[str, Results]) -> Iterable[str]:
    yield "| what | required | reached | |"
    yield "|---|---|---|---|"
    for target in TARGETS:
        if not target.values(found):
            continue
        yield f"| {target.what} | {target.required} | {target.reached(found)} | {target.verdict(found)} |"


def _table(results: Results, setting: str) -> Iterable[str]:
    rows = results.figures[setting]
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    yield f"| | {' | '.join(metrics)} |"
    yield f"|---|{'---:|' * len(metrics)}"
    for contender, row in rows.items():
        cells = [_cell(row.get(metric)) for metric in metrics]
        yield f"| {contender} | {' | '.join(cells)} |"


def _cell(rounds: list[float] | None) -> str:
    if not rounds:
        return ""
    median = statistics.median(rounds)
    low, high = spread(rounds)
    text = number(median)
    return text if len(rounds) == 1 else f"{text} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    """Return a figure with three digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
