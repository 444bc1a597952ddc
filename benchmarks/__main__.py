"""`python -m benchmarks`: run all benchmarks, or those that are named, and write the tables and plots."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks import machine, report
from benchmarks.options import Options
from benchmarks.results import Results, load, save

BENCHMARKS: Final = ("put", "track", "many", "drain", "footprint", "export", "scale")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement (default %(default)s)")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="a real disk (default %(default)s)")  # noqa: S108
    parser.add_argument(
        "--huge", action="store_true", help="scale: up to a backlog of 10 million events, not 1 million"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing: write the report of what is on file")
    parser.add_argument("--snapshot", action="store_true", help="also write RESULTS.md and figures/, which are kept")
    options = parser.parse_args()
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"{name} is none of {', '.join(BENCHMARKS)}")
    return options


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _options()
    options = Options(
        rounds=arguments.rounds,
        directory=arguments.dir,
        backlog_max=10_000_000 if arguments.huge else 1_000_000,
    )
    if machine.is_in_memory(options.directory):
        sys.stderr.write(
            f"{options.directory} is in memory: syncing costs nothing there, so no figure means anything\n"
        )
    logging.getLogger("durable_tracker").setLevel(logging.CRITICAL)  # outages are part of the measurements
    found, described = load()
    if not arguments.report:
        for name in arguments.names or BENCHMARKS:
            start = time.monotonic()
            results = Results(name)
            importlib.import_module(f"benchmarks.{name}").run(results, options)
            found[name] = results
            described = machine.describe(options.directory)  # after it, so that the load is that of the run
            save(found, described)
            sys.stderr.write(f"{name}: {time.monotonic() - start:.0f} s\n")
    report.write(found, described, with_snapshot=arguments.snapshot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
