"""`python -m durable_tracker demo`: the promise on real input, with every number counted.

1. the collector is down; a process tracks a real log, and is killed with SIGKILL in the middle
2. it is started again, goes on after the last event that was acknowledged, and finishes
3. the collector comes up, but fails some requests and loses some answers
4. `python -m durable_tracker.drain` replays the backlog
5. what was acknowledged, what the queues say and what the collector received are compared
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.output import complain
from durable_tracker.emitters import Emitter
from durable_tracker.errors import ConfigurationError
from durable_tracker.events import SelfDescribing
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.subject import Subject
from durable_tracker.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DESCRIPTION = __doc__
EXIT_CODES = "exit codes: 0 every check holds, 1 one does not, 2 usage"
LINES_MIN: Final = 1000
LINES_MAX: Final = 5000
_SYSTEM_LOGS: Final = ("/var/log/dpkg.log", "/var/log/syslog", "/var/log/messages", "/var/log/system.log")
_LOG_LINE: Final = "iglu:com.durable-tracker.demo/log_line/jsonschema/1-0-0"
_TIMEOUT_S: Final = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--input", type=Path, help="a log to track (default: one that this machine has)")
    parser.add_argument("--seed", type=int, default=1, help="of the collector's faults (default: 1)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # be the tracker


def run(args: argparse.Namespace) -> int:
    """Run the demo. The exit code is 0 only if nothing was lost and the ledger adds up."""
    if args.child:
        return _track_lines(Path(args.child[0]), args.child[1], Path(args.child[2]))
    from durable_tracker.collector.registry import checker  # noqa: PLC0415 (for this command only)

    try:
        checker()
    except ConfigurationError as exc:
        complain(f"demo: the collector of step 3 judges what arrives; {exc}")
        return Exit.USAGE
    with tempfile.TemporaryDirectory(prefix="durable-tracker-demo-") as folder, contextlib.ExitStack() as stack:
        try:
            return _show(Path(folder), args, stack)
        except subprocess.TimeoutExpired as exc:
            print(f"demo: {exc}", file=sys.stderr)
            return Exit.BACKLOG


def _show(folder: Path, args: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    source, lines = _real_input(args.input)
    input_file, acks, received = folder / "lines", folder / "acks", folder / "received"
    input_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    acks.touch()
    port = _free_port()
    environment = {**os.environ, "DURABLE_TRACKER_DIR": str(folder / "queues")}
    tracker = [sys.executable, "-m", "durable_tracker", "demo", "--child"]
    tracker += [str(input_file), f"http://127.0.0.1:{port}", str(acks)]

    print(f"input: {len(lines)} lines of {source}")
    print(f"1. the collector is down; a process tracks them ... and is killed after {len(lines) // 2} or so")
    process = subprocess.Popen(tracker, env=environment)  # noqa: S603 (our own interpreter)
    stack.callback(_end, process)
    deadline = time.monotonic() + _TIMEOUT_S
    while len(_eids(acks)) < len(lines) // 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    code = process.wait(_TIMEOUT_S)
    killed_at = len(_eids(acks))
    print(f"   exit status {code} (SIGKILL is {-signal.SIGKILL}), {killed_at} events acknowledged")

    print("2. it is started again, and finishes; the collector is still down")
    code = subprocess.run(tracker, env=environment, timeout=_TIMEOUT_S, check=False).returncode  # noqa: S603
    acknowledged = _eids(acks)
    print(f"   exit status {code}, {len(acknowledged)} events acknowledged in all")

    print("3. the collector comes up; it answers one request in five with 503 and loses one answer in five")
    faults = ("--fail", "503:0.2", "--lose-answer", "0.2", "--seed", str(args.seed), "--quiet")
    collector = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "durable_tracker.collector", "--port", str(port), "--out", str(received), *faults],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(_end, collector)
    assert collector.stdout is not None  # noqa: S101 (for the type checker)
    collector.stdout.readline()

    print("4. python -m durable_tracker.drain")
    command = [sys.executable, "-m", "durable_tracker.drain", "--batch-size", "100"]
    drained = subprocess.run(command, env=environment, timeout=2 * _TIMEOUT_S, check=False).returncode  # noqa: S603
    collector.send_signal(signal.SIGINT)
    collector.wait(_TIMEOUT_S)
    collector.stdout.close()
    status = subprocess.run(
        [sys.executable, "-m", "durable_tracker", "status", "--json"], env=environment, capture_output=True, check=True
    )
    ledger: Counter[str] = Counter(json.loads(status.stdout)["totals"]["ledger"])
    return _report(acknowledged, _received_eids(received), ledger, killed_at=killed_at, wanted=len(lines), code=drained)


def _report(
    acknowledged: list[str], received: Counter[str], ledger: Counter[str], *, killed_at: int, wanted: int, code: int
) -> int:
    lost = set(acknowledged) - set(received)
    total = received.total()
    sides = sum(ledger[name] for name in ledger if name != "accepted")
    rows: list[tuple[str, object]] = [
        ("tracked: track() returned", len(acknowledged)),
        ("received by the collector", total),
        ("  distinct", len(received)),
        ("  duplicates (lost answers, resent)", total - len(received)),
        ("lost", len(lost)),
        ("ledger: accepted", ledger["accepted"]),
        ("  delivered + pending + dead + ...", sides),
    ]
    extra = len(set(received) - set(acknowledged))
    if extra:
        rows.insert(4, ("  stored, but killed before it could say so", extra))
    print("5. the count")
    for label, value in rows:
        print(f"   {label:<44}{value:>8}")
    checks = {
        "the process was killed in the middle": 0 < killed_at < wanted,
        "every line was tracked": len(acknowledged) == wanted,
        "nothing was lost": not lost,
        "the ledger adds up": ledger["accepted"] == sides and ledger["pending"] == 0,
        "the drain left nothing": code == Exit.EMPTY,
    }
    for text, holds in checks.items():
        print(f"   {'ok    ' if holds else 'FAILED'} {text}")
    return Exit.EMPTY if all(checks.values()) else Exit.BACKLOG


def _track_lines(lines: Path, endpoint: str, acks: Path) -> int:
    """Be the process that tracks: go on after the last line that was acknowledged."""
    done = len(_eids(acks))
    with (
        Tracker(Emitter(endpoint, name="demo"), subject=Subject().set_platform("srv"), app_id="demo") as tracker,
        acks.open("ab", buffering=0) as log,
    ):
        for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines()):
            if number >= done:
                eid = tracker.track(SelfDescribing(SelfDescribingJson(_LOG_LINE, {"number": number, "line": line})))
                log.write(f"{eid}\n".encode())
    return Exit.EMPTY


def _eids(acks: Path) -> list[str]:
    return [line for line in acks.read_text(encoding="ascii").split("\n")[:-1] if line]


def _received_eids(received: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in received.read_bytes().splitlines():
        counts[_eid(json.loads(line))] += 1
    return counts


def _eid(record: dict[str, Any]) -> str:
    return str(record["eid"])


def _real_input(chosen: Path | None) -> tuple[str, list[str]]:
    """Return the first real log of this machine that is long enough, and its name."""
    sources: list[tuple[str, Iterable[str]]] = []
    if chosen is not None:
        sources.append((str(chosen), _lines_of(chosen)))
    else:
        sources += [("this repository's history", _history()), *((log, _lines_of(Path(log))) for log in _SYSTEM_LOGS)]
        sources.append(("the list of installed Python files", _installed_files()))
    for name, lines in sources:
        kept = [line for line, _ in zip(lines, range(LINES_MAX), strict=False)]
        if len(kept) >= LINES_MIN or chosen is not None:
            return name, kept
    raise SystemExit(f"demo: no log with {LINES_MIN} lines was found; name one with --input")


def _history() -> Iterator[str]:
    """Yield each change of each file in the history of the repository around this package."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        history = subprocess.run(
            ["git", "log", "--numstat", "--format=%H %cI %s"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            timeout=30,
            check=True,
        ).stdout.decode("utf-8", "replace")
        commit = ""
        for line in history.splitlines():
            if "\t" in line:
                yield f"{commit} {line}"
            elif line:
                commit = line


def _lines_of(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n").replace("\r", " ").replace("\x0b", " ").replace("\x0c", " ")


def _installed_files() -> Iterator[str]:
    for distribution in distributions():
        for file in distribution.files or ():
            yield f"{distribution.metadata['Name']} {file}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
