"""`python -m durable_tracker selftest`: what the file system and SQLite promise in a queue dir, and whether it holds.

Looks at the file system, times its syncs, reads SQLite's settings back from a live queue, tries the lock between two
processes, and then kills processes that track, at random moments, and counts. It works in a directory of its own
inside the queue dir, which it removes.

A kill shows that no event depends on the process; a power failure it cannot play. That is the disk's promise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.options import add_queue_dir_option, count
from durable_tracker.emitters import Emitter
from durable_tracker.engines.engine import MAX_QUEUE_BYTES
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.ballast import Headroom
from durable_tracker.engines.sqlite.books import headroom_size
from durable_tracker.engines.sqlite.connection import Connection
from durable_tracker.engines.sqlite.filesystem import file_system_of
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, existing_slots, make_private_directory, queue_root
from durable_tracker.engines.sqlite.syncing import sync_data, sync_file, untested
from durable_tracker.errors import ConfigurationError, QueueError
from durable_tracker.events import StructuredEvent
from durable_tracker.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = __doc__
EXIT_CODES = "exit codes: 0 every check holds, 1 one does not, 2 usage"
KILLS: Final = 10
_SYNCS: Final = 200
_IMPLAUSIBLE_S: Final = 20e-6  # faster than any drive that waits for its medium
_NAME: Final = "selftest"
_TIMEOUT_S: Final = 60.0
_SETTINGS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,
    "locking_mode": "exclusive",
    "auto_vacuum": 2,
    "wal_autocheckpoint": 0,
    "trusted_schema": 0,
}
_LOCK_CHILD: Final = """
import sys
from pathlib import Path
from durable_tracker.engines.sqlite.slots import Slot
print(Slot(Path(sys.argv[1]), 0).acquire())
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: "ok", "warning" or "FAILED".
        text: what was found.
    """

    name: str
    state: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_queue_dir_option(parser)
    parser.add_argument("--kills", type=count, default=KILLS, metavar="N", help=f"processes to kill (default: {KILLS})")
    parser.add_argument("--seed", type=int, help="of the moments of the kills (default: a new one, which is printed)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # be the tracker


def run(args: argparse.Namespace) -> int:
    """Run the checks. The exit code is 0 unless one failed; warnings do not count."""
    if args.child:
        return _track(args.child[0], args.child[1], Path(args.child[2]))
    try:
        root = queue_root(args.queue_dir)
        is_new = not root.exists()
        make_private_directory(root)
        folder = Path(tempfile.mkdtemp(prefix=".selftest-", dir=root))
    except (ConfigurationError, QueueError, OSError) as exc:
        print(f"selftest: {exc}", file=sys.stderr)
        return Exit.USAGE
    checks: list[Check] = []
    try:
        for check in _checks(folder, args):
            checks.append(check)
            if not args.json:
                print(f"{check.state:<8} {check.name + ':':<22} {check.text}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                root.rmdir()
    failed = [check.name for check in checks if check.state == "FAILED"]
    warned = [check.name for check in checks if check.state == "warning"]
    verdict = f"{root}: " + (
        f"FAILED: {', '.join(failed)}"
        if failed
        else f"the promise is kept, but mind: {', '.join(warned)}"
        if warned
        else "the promise is kept"
    )
    if args.json:
        report = {"queue_dir": str(root), "checks": [asdict(check) for check in checks], "verdict": verdict}
        print(json.dumps({**report, "failed": failed, "warnings": warned}, indent=2))
    else:
        print(verdict)
    return Exit.BACKLOG if failed else Exit.EMPTY


def _checks(folder: Path, args: argparse.Namespace) -> Iterator[Check]:
    for name, check in (
        ("platform", _platform),
        ("file system", _file_system),
        ("sync latency", _syncs),
        ("SQLite", _sqlite),
        ("lock", _lock),
        ("room", _room),
    ):
        try:
            yield check(folder)
        except (QueueError, OSError) as exc:
            yield Check(name, "FAILED", str(exc))
    try:
        yield from _kills(folder, args)
    except (QueueError, OSError, subprocess.SubprocessError) as exc:
        yield Check("kills", "FAILED", str(exc))


# ── what is promised ─────────────────────────────────────────────────────────────────────────────────────────────────


def _platform(_folder: Path) -> Check:
    reasons = untested()
    return Check("platform", "warning" if reasons else "ok", "; ".join(reasons) or f"tested on {sys.platform}")


def _file_system(folder: Path) -> Check:
    found = file_system_of(folder)
    if found is None:
        return Check("file system", "warning", "unknown: it can be told on Linux only")
    text = f"{found.kind} at {found.mount_point}"
    if found.weakness is not None:
        return Check("file system", "warning", f"{text}: {found.weakness}")
    return Check("file system", "ok", text)


def _syncs(folder: Path) -> Check:
    times = []
    descriptor = os.open(folder / "syncs", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, bytes(1 << 20), 0)
        sync_file(descriptor)
        for number in range(_SYNCS):
            started_at = time.perf_counter()
            os.pwrite(descriptor, b"x" * 4096, 4096 * (number % 256))
            sync_data(descriptor)
            times.append(time.perf_counter() - started_at)
    finally:
        os.close(descriptor)
    times.sort()
    middle = median(times)
    slow = times[len(times) * 99 // 100]
    text = (
        f"pwrite and fdatasync take {middle * 1e3:.3f} ms (median), {slow * 1e3:.3f} ms (p99): "
        f"about {1 / middle:,.0f} events a second from one thread"
    )
    if middle < _IMPLAUSIBLE_S:
        return Check("sync latency", "warning", f"{text}; no disk is that fast: a sync does not reach one")
    return Check("sync latency", "ok", text)


def _sqlite(folder: Path) -> Check:
    connection = Connection(folder / "settings.sqlite3", sync_every_commit=True, size_max=MAX_QUEUE_BYTES)
    try:
        found = {name: _plain(connection.pragma(name)) for name in _SETTINGS}
        version = _plain((connection.select_one("SELECT sqlite_version()") or ("unknown",))[0])
        is_sound = connection.is_sound()
    finally:
        connection.close_for_good()
    text = f"{version}, " + ", ".join(f"{name}={value}" for name, value in found.items())
    return Check("SQLite", "ok" if found == _SETTINGS and is_sound else "FAILED", text)


def _lock(folder: Path) -> Check:
    directory = folder / "lock"
    directory.mkdir(mode=0o700)
    slot = Slot(directory, 0)
    if not slot.acquire():
        return Check("lock", "FAILED", "a lock that nobody holds cannot be taken")
    while_held = _can_lock(directory)
    slot.release()
    when_free = _can_lock(directory)
    is_right = (while_held, when_free) == (False, True)
    text = "one process at a time" if is_right else "it does not keep another process out, or is not given back"
    return Check("lock", "ok" if is_right else "FAILED", text)


def _can_lock(directory: Path) -> bool:
    command = [sys.executable, "-c", _LOCK_CHILD, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)  # noqa: S603
    return done.stdout.strip() == "True"


def _room(folder: Path) -> Check:
    size = headroom_size()
    headroom = Headroom(folder / "ballast", size)
    headroom.restore()
    headroom.give_up()
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    text = f"{free >> 20} MiB free; a queue reserves {size / (1 << 20):.1f} MiB, and may take {MAX_QUEUE_BYTES >> 20}"
    if free < MAX_QUEUE_BYTES:
        return Check("room", "warning", f"{text}: give a smaller max_queue_bytes")
    return Check("room", "ok", text)


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


# ── what holds ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _kills(folder: Path, args: argparse.Namespace) -> Iterator[Check]:
    from durable_tracker.collector.faults import Faults  # noqa: PLC0415 (a server, for this command only)
    from durable_tracker.collector.server import Collector  # noqa: PLC0415

    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    dice = random.Random(seed)  # noqa: S311 (moments, not secrets)
    queues, acks = folder / "queues", folder / "acks"
    acks.touch()
    faults = Faults(fail=((503, 0.1),), lose_answer=0.1, seed=seed)
    with Collector(faults=faults, validate=False) as collector:
        command = [sys.executable, "-m", "durable_tracker", "selftest", "--child"]
        command += [collector.url, str(queues), str(acks)]
        killed = 0
        for _ in range(args.kills):
            killed += _kill_one(command, acks, dice.uniform(0.0, 0.3))
        drain = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(queues), "--quiet"]
        drained = subprocess.run(  # noqa: S603
            drain, stdout=subprocess.DEVNULL, timeout=2 * _TIMEOUT_S, check=False
        ).returncode
        received = collector.eids()
    acknowledged = _eids(acks)
    lost = acknowledged - set(received)
    name = "kills"
    text = f"{killed} processes killed while they tracked (seed {seed})"
    yield Check(name, "ok" if killed == args.kills else "FAILED", text)
    twice = received.total() - len(received)
    text = f"{len(acknowledged)} acknowledged, {len(received)} received, {twice} of them again, {len(lost)} lost"
    yield Check("events", "ok" if acknowledged and not lost and drained == Exit.EMPTY else "FAILED", text)
    ledger = _ledger(queues)
    ways = {name: value for name, value in asdict(ledger).items() if name != "accepted"}
    is_exact = ledger.accepted == sum(ways.values()) and ledger.pending == 0 and ledger.delivered >= len(acknowledged)
    text = f"accepted {ledger.accepted} = " + " + ".join(f"{name} {value}" for name, value in ways.items() if value)
    yield Check("ledger", "ok" if is_exact else "FAILED", text)


def _kill_one(command: list[str], acks: Path, delay_s: float) -> bool:
    """Let a process track, kill it a while after its first event, and return whether that is how it ended."""
    before = acks.stat().st_size
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 (our own interpreter)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while acks.stat().st_size == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
    finally:
        process.kill()
        code = process.wait(_TIMEOUT_S)
    return code == -signal.SIGKILL


def _track(endpoint: str, queue_dir: str, acks: Path) -> int:
    """Be the process that is killed: track, and note each event whose `track` returned, until then."""
    log = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    emitter = Emitter(endpoint, name=_NAME, queue_dir=queue_dir, max_retry_delay_seconds=0.2)
    with Tracker(emitter, namespace=_NAME) as tracker:
        for number in range(1_000_000):
            eid = tracker.track(StructuredEvent(_NAME, "tracked", str(number)))
            os.write(log, f"{eid}\n".encode())
    return Exit.EMPTY


def _eids(acks: Path) -> set[str]:
    return set(acks.read_text(encoding="ascii").split("\n")[:-1])


def _ledger(queues: Path) -> Ledger:
    total: Counter[str] = Counter()
    for slot in existing_slots(queues / _NAME):
        with SqliteQueue.take(slot) as queue:
            total.update(asdict(queue.ledger()))
    return Ledger(**total)
