"""Runs programs under the recorder, crashes the disk wherever it can be, and has every image judged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .disk import PAGE_SIZE, Choice, Disk, Naming, differences
from .judge import History, Observation, history_of, observe, problems
from .log import CHANGES, Kind, Mode, Operation, read
from .subjects import subject
from .tools import ROOT, preload_environment, scratch_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .program import Command
    from .subjects import Subject

MODELS = tuple((naming, size) for naming in Naming for size in (PAGE_SIZE, 512))
"""Both naming models, with both tear sizes."""

SYNCS = (Kind.SYNC_BEGIN,)


@dataclass(frozen=True, slots=True)
class Fault:
    """A call that fails: the `nth` of these kinds on a path with this suffix, and the `times` - 1 that follow."""

    kinds: tuple[Kind, ...]
    nth: int
    error: int = errno.EIO
    times: int = 1
    suffix: str = ""
    mode: Mode = Mode.FAIL

    def request(self) -> dict[str, Any]:
        """Return it as program.py takes it."""
        return {
            "operations": [int(kind) for kind in self.kinds],
            "suffix": self.suffix,
            "nth": self.nth,
            "times": self.times,
            "error": self.error,
            "mode": int(self.mode),
        }


class Server:
    """The process that forks one recorded process for each run. A context manager."""

    def __init__(self) -> None:
        self._environment = preload_environment("recorder")
        self._environment["FAULTS_HARNESS"] = str(os.getpid())

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "error", "-m", "tests.faults.program"]
        self._process = subprocess.Popen(
            command, env=self._environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(self, request: dict[str, Any]) -> int:
        """Run one request in a process of its own and return its exit code, negative if a signal ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the program server is gone")
        return int(json.loads(line)["status"])


@dataclass
class Bench:
    """One store's directory, and the log of everything that was done to it by the processes that had it."""

    server: Server
    name: str
    folder: Path
    statuses: list[int] = field(default_factory=list)
    _next: int = 1

    @property
    def root(self) -> Path:
        """The recorded directory."""
        return self.folder / "root"

    @property
    def log(self) -> Path:
        """The recorder's log."""
        return self.folder / "log"

    @property
    def subject(self) -> Subject:
        """The subject, for this process."""
        return subject(self.name)

    def run(self, commands: Sequence[Command], fault: Fault | None = None, *, once: bool = False) -> int:
        """Run a program in a new process and return its exit code."""
        self.root.mkdir(parents=True, exist_ok=True)
        request = {
            "root": str(self.root),
            "log": str(self.log),
            "subject": self.name,
            "commands": list(commands),
            "first": self._next,
        }
        if fault is not None:
            request["fault"] = fault.request()
        self._next += 100_000
        status = self._run_once(request) if once else self.server.run(request)
        self.statuses.append(status)
        return status

    def _run_once(self, request: dict[str, Any]) -> int:
        command = [sys.executable, "-m", "tests.faults.program", "--once"]
        done = subprocess.run(
            command,
            env=preload_environment("recorder"),
            cwd=ROOT,
            input=json.dumps(request).encode(),
            stderr=Path(f"{self.log}.stderr").open("ab"),
            check=False,
        )
        return done.returncode

    def run_to_the_end(self, commands: Sequence[Command], fault: Fault | None = None) -> None:
        """Run a program that must not be killed, hang or fail."""
        status = self.run(commands, fault)
        if status != 0:
            raise AssertionError(f"the program ended with {status}:\n{self.stderr()}")

    def stderr(self) -> str:
        """Return what the processes have said."""
        path = Path(f"{self.log}.stderr")
        return path.read_text(errors="replace") if path.exists() else ""

    def operations(self) -> list[Operation]:
        """Return everything that was recorded."""
        return read(self.log)

    def observe_in_place(self) -> Observation:
        """Open the directory as it is now, as after a kill."""
        return observe(self.subject, self.root)

    def problems_in_place(self) -> list[str]:
        """Return what is wrong with the directory as it is now: as after a kill, so nothing may be missing."""
        history = history_of(self.operations())
        return problems(history, self.observe_in_place(), 0.0, time.monotonic_ns())


@contextlib.contextmanager
def bench(server: Server, name: str) -> Iterator[Bench]:
    """Give a subject an empty directory, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=scratch_root()))
    try:
        yield Bench(server, name, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Verdict:
    """What a campaign has found.

    Attributes:
        judged: pairs of an image and what was promised by then, all different.
        opened: different images among them, each opened by the real code.
        acknowledged: events whose put() had returned at the end of the programs.
        failures: for each failure the seed and the moment that make it again, and what was wrong.
    """

    judged: int = 0
    opened: int = 0
    programs: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Add another campaign's figures."""
        self.judged += other.judged
        self.opened += other.opened
        self.programs += other.programs
        self.acknowledged += other.acknowledged
        self.seconds += other.seconds
        self.failures += other.failures

    def __str__(self) -> str:
        shown = "".join(f"\n  {failure}" for failure in self.failures[:20])
        return (
            f"{self.programs} programs, {self.acknowledged} acknowledged events, {self.judged} images judged "
            f"({self.opened} opened) in {self.seconds:.1f} s: {len(self.failures)} failures{shown}"
        )


def check_recorder(target: Bench, operations: Sequence[Operation]) -> list[str]:
    """Replay a whole log and compare with the real files: what the recorder missed, nobody can judge."""
    disk = Disk(target.root, Naming.DIRECTORY, 512)
    for operation in operations:
        disk.apply(operation)
    return differences(disk.live(), target.root)


def crash_everywhere(
    target: Bench,
    label: str,
    seed: int,
    *,
    per_cut: int = 1,
    cut_share: float = 1.0,
    from_first_fault: bool = False,
    models: Sequence[tuple[Naming, int]] = MODELS,
    failures_max: int = 50,
) -> Verdict:
    """Cut the power after every recorded change, and judge the images.

    Each cut gives the image with nothing that was not synced, the one with everything, and `per_cut` random ones.

    Args:
        target: a bench whose programs have run.
        label: the scenario, for the failures.
        seed: decides the random images.
        per_cut: random images at each cut.
        cut_share: which share of the cuts to take, by chance.
        from_first_fault: leave out the cuts before the first injected fault.
        models: naming models and tear sizes.
        failures_max: stop after so many.
    """
    started = time.monotonic()
    operations = target.operations()
    verdict = Verdict(programs=1)
    broken = check_recorder(target, operations)
    if broken:
        verdict.failures.append(f"{label}: the recorder is not to be trusted: {'; '.join(broken)}")
        return verdict
    chosen = target.subject
    observations: dict[bytes, Observation] = {}
    judged: set[tuple[bytes, int]] = set()
    scratch = target.folder / "image"
    for naming, piece_size in models:
        disk = Disk(target.root, naming, piece_size)
        history = History()
        rng = random.Random(f"{seed} {naming.value} {piece_size}")
        begun = not from_first_fault
        for at, operation in enumerate(operations):
            disk.apply(operation)
            history.apply(operation)
            begun = begun or operation.kind is Kind.INJECTED
            cuttable = operation.kind in CHANGES or operation.kind is Kind.MARK
            if not begun or not cuttable or rng.random() >= cut_share:
                continue
            for choice in (Choice.NONE, Choice.ALL, *[Choice.RANDOM] * per_cut):
                image = disk.image(choice, rng)
                digest = image.digest()
                if (digest, history.version) in judged:
                    continue
                judged.add((digest, history.version))
                if digest not in observations:
                    image.write_to(scratch)
                    twice = len(observations) % 16 == 0
                    observations[digest] = observe(chosen, scratch, twice=twice)
                seen = observations[digest]
                wrong = problems(history, seen, chosen.interval_s, operation.time_ns)
                if wrong:
                    where = f"after operation {at} of {len(operations)} ({operation})"
                    verdict.failures.append(
                        f"{label}, seed {seed}, naming {naming.value}, {piece_size} bytes, {choice.value}, "
                        f"{where}: {'; '.join(wrong)}"
                    )
            if len(verdict.failures) >= failures_max:
                break
        verdict.acknowledged = len(history.stored)
    verdict.judged = len(judged)
    verdict.opened = len(observations)
    verdict.seconds = time.monotonic() - started
    return verdict


def random_program(rng: random.Random, length: int) -> list[Command]:
    """Return a program of puts, deliveries, rejections and reopenings that never ends in a tidy close."""
    commands: list[Command] = [
        rng.choice(
            (
                ["put", rng.randint(1, 6)],
                ["put", rng.randint(1, 6)],
                ["put_many", rng.randint(2, 40)],
                ["deliver", rng.randint(1, 30)],
                ["deliver", rng.randint(1, 8)],
                ["reject", rng.randint(1, 3)],
                ["reopen"],
            )
        )
        for _ in range(length)
    ]
    commands.append(["put", 2])
    return commands


def crash_campaign(
    server: Server, name: str, seeds: Sequence[int], *, length: int = 8, per_cut: int = 1, cut_share: float = 1.0
) -> Verdict:
    """Run a random program for each seed, in two or three processes that are each killed, and crash it everywhere."""
    total = Verdict()
    for seed in seeds:
        rng = random.Random(seed)
        with bench(server, name) as target:
            for _ in range(rng.randint(1, 3)):
                target.run_to_the_end([*random_program(rng, length), ["crash"]])
            label = f"random program on {name}"
            total.add(crash_everywhere(target, label, seed, per_cut=per_cut, cut_share=cut_share))
    return total
