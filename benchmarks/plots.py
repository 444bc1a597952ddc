"""The figures as small plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks import drain, track
from benchmarks.results import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.results import Results

_OURS: Final = "#1f5fa8"
_OTHERS: Final = "#b5b5b5"
_LIMIT: Final = "#e0b050"


def draw(found: Mapping[str, Results], directory: Path) -> None:
    """Draw one plot for each benchmark that was run and has one."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    directory.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, tuple[int, Callable[[Results, Any], None]]] = {
        "put": (4, _put),
        "track": (2, _track),
        "drain": (2, _drain),
        "many": (2, _many),
    }
    for name, (count, drawing) in drawings.items():
        if name in found:
            columns = 2
            rows = count // columns
            figure, axes = plt.subplots(rows, columns, figsize=(9, 2.4 * rows), layout="constrained")
            drawing(found[name], axes.flatten())
            figure.savefig(directory / f"{name}.png", dpi=90, metadata={"Software": None})
            plt.close(figure)


def _bars(axes: Any, results: Results, setting: str, metric: str, title: str) -> None:
    """Draw medians as bars, with the middle half of the rounds as a line on each."""
    rows = [(name, row[metric]) for name, row in results.figures.get(setting, {}).items() if row.get(metric)]
    rows.reverse()  # the first one on top
    for position, (name, rounds) in enumerate(rows):
        median = results.median(setting, name, metric) or 0.0
        low, high = spread(rounds)
        axes.barh(position, median, color=_colour(name))
        axes.plot([low, high], [position, position], color="black", linewidth=1)
        axes.annotate(
            f" {median:,.0f}" if median >= 100 else f" {median:.3g}", (max(median, high), position), va="center"
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.margins(x=0.15)
    axes.set_title(title, loc="left")


def _lines(axes: Any, results: Results, setting: str, title: str) -> None:
    """Draw throughput over the number of threads or processes."""
    for name, row in results.figures.get(setting, {}).items():
        points = [(int(metric.partition(":")[0]), metric) for metric in row if metric.endswith(": events/s")]
        x = [number for number, _ in points]
        y = [results.median(setting, name, metric) for _, metric in points]
        width = 2 if _colour(name) == _OURS else 1
        axes.plot(x, y, marker="o", markersize=3, linewidth=width, label=name)
        axes.set_xticks(x)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=6)
    axes.set_title(title, loc="left")


def _colour(name: str) -> str:
    if "limit" in name or "floor" in name:
        return _LIMIT
    return _OURS if name.startswith(("ours", "SqliteQueue", "Emitter", "track_many", "senders")) else _OTHERS


def _put(results: Results, axes: Any) -> None:
    _bars(axes[0], results, "interval, one thread", "p50 µs", "put, interval: p50, µs")
    _bars(axes[1], results, "always, one thread", "p50 µs", "put, always: p50, µs")
    _lines(axes[2], results, "always, threads", "put, always: events/s by threads")
    _lines(axes[3], results, "always, processes", "put, always: events/s by processes")


def _track(results: Results, axes: Any) -> None:
    for axis, kind in zip(axes, track.KINDS, strict=True):
        _bars(axis, results, kind, "p50 µs", f"track(), {kind}: p50, µs")


def _drain(results: Results, axes: Any) -> None:
    _bars(axes[0], results, drain.LOOPBACK, "events/s", f"{drain.LOOPBACK}: events/s")
    _bars(axes[1], results, drain.FAR, "events/s", f"{drain.FAR}: events/s")


def _many(results: Results, axes: Any) -> None:
    for axis, level in zip(axes, ("interval", "always"), strict=True):
        _bars(axis, results, level, "events/s", f"{level}: events/s")
