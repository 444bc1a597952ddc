"""`track_many` and `put_many`: many events in few commits."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

from benchmarks import payloads
from benchmarks.put import LEVELS
from benchmarks.stores import make_emitter, raw_connection
from durable_tracker import Subject, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.options import Options
    from benchmarks.results import Results

TRACK_MANY: Final = "track_many"
PUT_MANY: Final = "Emitter.put_many"
RAW: Final = "raw sqlite3, executemany of 1,000 a transaction (limit)"
_COUNT: Final = 20_000
_CHUNK: Final = 1000


def run(results: Results, options: Options) -> None:
    """Measure at both levels."""
    event = payloads.payload()
    events = [payloads.structured() for _ in range(_COUNT)]
    for level in LEVELS:
        with options.scratch() as directory:
            emitter = make_emitter(directory, level)
            tracker = Tracker("bench", emitter, payloads.subject_of(Subject), app_id="shop")
            raw = raw_connection(directory / "raw.sqlite3", level)
            chunk = [event] * _CHUNK
            keys = iter(range(1 << 60))

            def put_raw() -> None:
                for _ in range(_COUNT // _CHUNK):
                    raw.execute("BEGIN")  # noqa: B023 - called within the loop's round
                    raw.executemany(  # noqa: B023
                        "INSERT INTO events (key, value) VALUES (?, ?)",
                        zip(keys, chunk, strict=False),  # noqa: B023
                    )
                    raw.execute("COMMIT")  # noqa: B023

            calls: dict[str, Callable[[], object]] = {
                TRACK_MANY: lambda: tracker.track_many(events),  # noqa: B023
                PUT_MANY: lambda: emitter.put_many([event] * _COUNT),  # noqa: B023
                RAW: put_raw,
            }
            for round_ in range(options.rounds + 1):
                for name, call in calls.items():
                    start = perf_counter()
                    call()
                    if round_:  # the first one lets the files grow
                        results.add(level, name, "events/s", _COUNT / (perf_counter() - start))
            emitter.close()
            raw.close()
