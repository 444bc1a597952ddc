"""Runs programs under the recorder, crashes the disk wherever it can be, and has every image judged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import older_release
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

    def run(
        self,
        commands: Sequence[Command],
        fault: Fault | None = None,
        *,
        once: bool = False,
        release: Path | None = None,
        deadline_s: float = 60,
    ) -> int:
        """Run a program in a new process and return its exit code: that of SIGABRT if it hung.

        Args:
            commands: the program.
            fault: what fails.
            once: whether in an interpreter of its own.
            release: the directory of the release of the package that runs it, in an interpreter of its own; None: this.
            deadline_s: when it has hung.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        request = {
            "root": str(self.root),
            "log": str(self.log),
            "subject": self.name,
            "commands": list(commands),
            "first": self._next,
            "deadline_s": deadline_s,
        }
        if fault is not None:
            request["fault"] = fault.request()
        self._next += 100_000
        status = self._run_once(request, release) if once or release else self.server.run(request)
        self.statuses.append(status)
        return status

    def _run_once(self, request: dict[str, Any], release: Path | None) -> int:
        command = [sys.executable, "-m", "tests.faults.program", "--once"]
        with Path(f"{self.log}.stderr").open("ab") as errors:
            done = subprocess.run(
                command,
                env=older_release.environment(release, preload_environment("recorder")),
                cwd=ROOT,
                input=json.dumps(request).encode(),
                stderr=errors,
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
        kinds: dict[str, list[str]] = {}
        for failure in self.failures:
            kinds.setdefault(re.sub(r"[\d, …]+", "#", failure.partition("): ")[2]), []).append(failure)
        shown = "".join(f"\n  {len(alike)} times {alike[0]}" for alike in list(kinds.values())[:20])
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
    cut_from: int = 0,
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
        cut_from: leave out the cuts before this operation.
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
            if not begun or at < cut_from or not cuttable or rng.random() >= cut_share:
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
    """Return a program of puts, deliveries, rejections, purges and reopenings that never ends in a tidy close."""
    commands: list[Command] = [
        rng.choice(
            (
                ["put", rng.randint(1, 6)],
                ["put", rng.randint(1, 6)],
                ["put_many", rng.randint(2, 40)],
                ["deliver", rng.randint(1, 30)],
                ["deliver", rng.randint(1, 8)],
                ["reject", rng.randint(1, 3)],
                ["requeue", rng.randint(1, 3)],
                ["shrink"],
                ["reopen"],
            )
        )
        for _ in range(length)
    ]
    for purge in ("purge", "purge_dead_letters"):
        commands.insert(rng.randint(0, length), [purge, rng.randint(1, 3)])
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


KILLABLE = (
    *(Kind.OPEN, Kind.WRITE, Kind.TRUNCATE, Kind.ALLOCATE, Kind.SYNC_BEGIN),
    *(Kind.UNLINK, Kind.RMDIR, Kind.RENAME, Kind.MKDIR, Kind.LINK),
)
"""Every call that changes the disk, or promises something about it."""

STEADY: list[Command] = [
    ["put", 3],
    ["deliver", 2],
    ["put_many", 12],
    ["put", 2],
    ["reject", 1],
    ["requeue", 1],
    ["purge", 2],
    ["reject", 2],
    ["purge_dead_letters", 1],
    ["put", 1],
]
"""A program that does a little of everything."""


def fault_campaign(
    server: Server,
    name: str,
    fault: Fault,
    *,
    stride: int = 1,
    cut_share: float = 0.2,
    nth_max: int = 10_000,
) -> Verdict:
    """Fail the nth call, for every `stride`th n until the program has no such call, then cut the power.

    The process goes on after the fault, delivers what it has, puts more, and dies; another one takes over. Beside the
    images, this judges that an error is raised in no call but the one that met a fault.
    """
    commands: list[Command] = [["put", 2], *STEADY, ["deliver", 100], ["put", 3], ["deliver", 2], ["put", 2]]
    total = Verdict()
    for nth in range(fault.nth, nth_max, stride):
        with bench(server, name) as target:
            label = (
                f"{fault.mode.name} {errno.errorcode[fault.error]} from call {nth} on, {fault.times} times, on {name}"
            )
            target.run_to_the_end([*commands, ["crash"]], replace(fault, nth=nth))
            target.run_to_the_end([["put", 3], ["deliver", 100], ["put", 9], ["deliver", 2], ["put", 2], ["crash"]])
            history = history_of(target.operations())
            if not history.injected:
                break
            if history.unprovoked and not target.subject.interval_s:
                total.failures.append(f"{label}: an error reached a call that met no fault: {history.unprovoked}")
            model = MODELS[nth % len(MODELS)]
            total.add(
                crash_everywhere(
                    target, label, nth, cut_share=cut_share, from_first_fault=True, models=(model,), failures_max=4
                )
            )
    return total


def kill_campaign(server: Server, name: str, mode: Mode, *, seed: int, stride: int = 1, start: int = 1) -> Verdict:
    """Kill the process at every `stride`th call, kill its successor at some call too, and judge what is there."""
    total = Verdict()
    started = time.monotonic()
    rng = random.Random(seed)
    for nth in range(start, 100_000, stride):
        with bench(server, name) as target:
            killed = target.run(STEADY, Fault(KILLABLE, nth, mode=mode))
            if killed != -signal.SIGKILL:
                if killed != 0:
                    total.failures.append(f"kill at call {nth} on {name}: it ended with {killed}: {target.stderr()}")
                break
            again = rng.randint(1, 40)
            target.run(STEADY, Fault(KILLABLE, again, mode=mode))
            total.judged += 1
            total.programs += 1
            history = history_of(target.operations())
            total.acknowledged += len(history.stored)
            wrong = target.problems_in_place() + history.unprovoked
            if wrong:
                label = f"{mode.name} at call {nth}, then at call {again} (seed {seed}) on {name}"
                total.failures.append(f"{label}: {'; '.join(wrong)}")
    total.seconds = time.monotonic() - started
    return total
