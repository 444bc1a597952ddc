"""`python -m tests.soak SECONDS`: a thousand events a second for as long as one likes, with a collector that flaps.

With `--healthy` the collector is always there: then the queue is hardly ever empty, and its file must not grow.

Prints a table while it runs, and at the end a plot and a verdict: whether memory, queue, files, descriptors and threads
stayed flat over the second half, and whether everything that was acknowledged was received. The exit code is 0 only if
both hold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durable_tracker import Emitter, StructuredEvent, Tracker
from durable_tracker.drain import main as drain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RATE: Final = 1000
_TICK_S: Final = 0.02
_CYCLE_S: Final = (6.0, 2.0)  # how long the collector is up, and down
_HEIGHT: Final = 8
_WIDTH: Final = 72


@dataclass(frozen=True)
class Sample:
    """What was measured at one moment."""

    seconds: float
    rss_mib: float
    pending: int
    wal_kib: float
    files_kib: float
    descriptors: int
    threads: int


ALLOWED: Final = {
    "rss_mib": 4.0,
    "pending": 2.5 * RATE * _CYCLE_S[1],
    "wal_kib": 2048.0,
    "files_kib": 4096.0,
    "descriptors": 4.0,
    "threads": 2.0,
}
"""By how much the straight line through the second half may rise, from its begin to its end."""


def measure(started_at: float, emitter: Emitter) -> Sample:
    """Measure this process and the emitter's files."""
    stats = emitter.stats()
    slot = stats.slot
    wal = files = 0
    if slot is not None:
        for path in slot.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):
                size = path.stat().st_size
                files += size
                wal += size if path.name.endswith("-wal") else 0
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if ":" in line
    )
    return Sample(
        seconds=time.monotonic() - started_at,
        rss_mib=int(status["VmRSS"].split()[0]) / 1024,
        pending=stats.ledger.pending,
        wal_kib=wal / 1024,
        files_kib=files / 1024,
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=int(status["Threads"]),
    )


@contextlib.contextmanager
def collector(out: Path, seed: int, *, is_healthy: bool) -> Iterator[str]:
    """Run a collector in another process, which may lose answers, fail, and be away for seconds. Yield its address."""
    up, down = _CYCLE_S
    command = [sys.executable, "-m", "durable_tracker.collector", "--port", "0", "--out", str(out), "--quiet"]
    command += ["--no-validate", "--keep", "1", "--seed", str(seed)]
    if not is_healthy:
        command += ["--flap", f"{up}:{down}", "--fail", "503:0.02", "--lose-answer", "0.02", "--reset", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process:
        try:
            assert process.stdout is not None
            word, _, url = process.stdout.readline().strip().partition(" ")
            assert word == "listening"
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            process.kill()


def track_steadily(tracker: Tracker, acknowledged: Path, stop: threading.Event, rate: int) -> int:
    """Track `rate` events a second until it is to stop; note each in a file. Return how many."""
    count = 0
    started_at = time.monotonic()
    with acknowledged.open("w", encoding="ascii") as log:
        while not stop.wait(_TICK_S):
            due = int((time.monotonic() - started_at) * rate)
            while count < due:
                eid = tracker.track(StructuredEvent("soak", "tracked", str(count), value=count))
                log.write(f"{eid}\n")
                count += 1
    return count


def rise(samples: Sequence[Sample], name: str) -> float:
    """Return by how much the straight line through the second half rises."""
    half = [sample for sample in samples if sample.seconds >= samples[-1].seconds / 2]
    times = [sample.seconds for sample in half]
    values = [float(getattr(sample, name)) for sample in half]
    middle, level = sum(times) / len(times), sum(values) / len(values)
    spread = sum((moment - middle) ** 2 for moment in times)
    if not spread:
        return 0.0
    slope = sum((moment - middle) * (value - level) for moment, value in zip(times, values, strict=True)) / spread
    return slope * (times[-1] - times[0])


def plot(samples: Sequence[Sample], name: str) -> str:
    """Draw one of the measures over time, as text."""
    columns: list[list[float]] = [[] for _ in range(_WIDTH)]
    for sample in samples:
        place = int(sample.seconds / (samples[-1].seconds or 1.0) * (_WIDTH - 1))
        columns[place].append(float(getattr(sample, name)))
    tops: list[float] = []
    for column in columns:
        tops.append(max(column) if column else tops[-1] if tops else 0.0)
    high = max(tops) or 1.0
    lines = []
    for row in range(_HEIGHT, 0, -1):
        marks = "".join("#" if top > high * (row - 1) / _HEIGHT else " " for top in tops)
        label = f"{high:,.0f}" if row == _HEIGHT else "0" if row == 1 else ""
        lines.append(f"{label:>12} |{marks.rstrip()}")
    return "\n".join([f"{name}:", *lines, " " * 13 + "+" + "-" * _WIDTH])


def eids(path: Path) -> Counter[str]:
    """Count the ids in the collector's file."""
    found: Counter[str] = Counter()
    mark = '"eid": "'
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            begin = line.index(mark) + len(mark)
            found[line[begin : line.index('"', begin)]] += 1
    return found


def soak(
    seconds: float, *, interval_s: float, rate: int, durability: str, seed: int, is_healthy: bool, folder: Path
) -> bool:
    """Run it. Return whether all stayed flat and nothing was lost."""
    out, acknowledged = folder / "received", folder / "acknowledged"
    names = [field.name for field in fields(Sample)]
    samples: list[Sample] = []
    counts: list[int] = []
    stop = threading.Event()
    with collector(out, seed, is_healthy=is_healthy) as url:
        emitter = Emitter(
            url,
            queue_dir=folder / "queues",
            durability="always" if durability == "always" else "interval",
            max_retry_delay_seconds=1,
        )
        with Tracker(emitter, namespace="soak", app_id="soak") as tracker:
            producer = threading.Thread(
                target=lambda: counts.append(track_steadily(tracker, acknowledged, stop, rate)), daemon=True
            )
            producer.start()
            started_at = time.monotonic()
            print("".join(f"{name:>12}" for name in names))
            while time.monotonic() - started_at < seconds and producer.is_alive():
                stop.wait(min(interval_s, max(seconds - (time.monotonic() - started_at), 0.01)))
                samples.append(measure(started_at, emitter))
                values = [getattr(samples[-1], name) for name in names]
                print("".join(f"{value:>12,.1f}" if isinstance(value, float) else f"{value:>12,}" for value in values))
            stop.set()
            producer.join(60)
        drain(["--queue-dir", str(folder / "queues"), "--quiet", "--timeout", "120"])
    received = eids(out)
    tracked = set(acknowledged.read_text(encoding="ascii").split())
    lost = len(tracked - set(received))
    print()
    for name in names[1:]:
        print(plot(samples, name))
    is_flat = True
    for name, allowed in ALLOWED.items():
        risen = rise(samples, name)
        is_flat &= risen <= allowed
        remark = "" if risen <= allowed else ": NOT FLAT"
        print(f"{name:<12} rises by {risen:>10.1f} over the second half, {allowed:g} allowed{remark}")
    rate_seen = len(tracked) / max(samples[-1].seconds, 0.001)
    print(f"tracked {len(tracked)} ({rate_seen:.0f} a second), received {len(received)}, lost {lost}, ", end="")
    print(f"received again {received.total() - len(received)}")
    is_whole = bool(counts) and counts[0] == len(tracked) == len(received) and not lost
    print(f"verdict: {'flat' if is_flat else 'NOT FLAT'}, {'nothing lost' if is_whole else 'EVENTS LOST OR UNKNOWN'}")
    return is_flat and is_whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=600.0, help="how long (default: 600)")
    parser.add_argument("--interval", type=float, metavar="S", help="between lines (default: a fortieth of the time)")
    parser.add_argument("--rate", type=int, default=RATE, help=f"events a second (default: {RATE})")
    parser.add_argument("--durability", choices=("always", "interval"), default="always")
    parser.add_argument("--healthy", action="store_true", help="a collector that is always there")
    parser.add_argument("--seed", type=int, help="of the collector's faults (default: a new one, which is printed)")
    args = parser.parse_args(argv)
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    print(f"seed {seed}, {args.seconds:g} seconds, {args.rate} events a second, durability {args.durability}")
    interval_s = args.interval or max(args.seconds / 40, 0.25)
    with tempfile.TemporaryDirectory(prefix="durable-tracker-soak-") as folder:
        is_good = soak(
            args.seconds,
            interval_s=interval_s,
            rate=args.rate,
            durability=args.durability,
            seed=seed,
            is_healthy=args.healthy,
            folder=Path(folder),
        )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
