"""`python -m tests.faults.two_faults NAME FIRST COUNT`: a kill at each file operation, and then one damage.

For each seed a random program runs under the recorder. After each of its file operations the files are as a `kill -9`
leaves them; in a copy one bit is flipped, a sector or a page is zeroed, or a sector becomes unreadable, at a place that
is chosen by its kind in SQLite's format. The copy is opened by the real code, which must lose no event but those whose
bytes stand on the page that was hit, send nothing altered, take a further event, and keep its books.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import struct
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from durable_tracker.engines.sqlite import books, preflight, sweep
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

from .campaign import Server, bench, random_program
from .disk import Choice, Disk, Naming
from .judge import History
from .log import CHANGES, Kind
from .program import number_of, payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .campaign import Bench
    from .program import Command

PAGE: Final = 4096
SECTOR: Final = 512
FRAME: Final = PAGE + 24
META_PAGES: Final = (5, 6)
DAMAGES: Final = ("bit", "bit", "sector", "page", "unreadable")
FREE_LIST: Final = "list of free pages"
AIMS: Final[set[str]] = set()  # where to hit, for a broken variant that few places find out
AFTERWARDS: Final = 0  # the number of the events that are put after the opening
AFTERWARDS_COUNT: Final = 60  # which fill some pages


@dataclass
class Tally:
    """What was tried, and what was wrong."""

    images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    lost_on_page: int = 0
    repeated: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hit:
    """One damage: where, of which kind, and the page that it hit; 0 if it hit none."""

    suffix: str
    first: int
    size: int
    damage: str
    place: str
    page: int
    bit: int

    def __str__(self) -> str:
        return f"{self.damage} at {self.first} of {self.suffix or 'the database'} ({self.place}, page {self.page})"


def kind_of(database: bytes, number: int) -> str:
    """Return what a page of a database is, by the first byte and the pointer map."""
    if number == 1:
        return "header"
    if (number - 2) % 820 == 0:
        return "pointer map"
    entry = PAGE + 5 * (number - 3)
    names = {1: "root", 2: "free", 3: "overflow, first", 4: "overflow, next", 5: "tree"}
    kind = names.get(database[entry], "unknown") if entry < len(database) else "unknown"
    if number in META_PAGES:
        return "counts"
    if kind in ("root", "tree"):
        return {13: "leaf", 5: "interior", 10: "index"}.get(database[(number - 1) * PAGE], kind)
    return kind


def choose(database: bytes, wal: bytes, rng: random.Random) -> Hit:
    """Choose a place by its kind, so that rare kinds are hit as often as common ones, and a damage."""
    damage = rng.choice(DAMAGES)
    if len(wal) > 32 and not AIMS and rng.random() < 0.5:
        place = rng.choice(("WAL header", "frame header", "frame header", "frame", "frame", "frame"))
        frame = rng.randrange(max((len(wal) - 32) // FRAME, 1))
        start = 32 + frame * FRAME
        if place == "WAL header":
            at = rng.randrange(32)
        elif place == "frame header":
            at = start + rng.randrange(24)
        else:
            at = start + 24 + rng.choice((rng.randrange(16), rng.randrange(PAGE)))
        at = min(at, len(wal) - 1)
        page = int.from_bytes(wal[start : start + 4], "big")
        suffix, content = "-wal", wal
    else:
        pages: dict[str, list[int]] = {}
        for number in range(1, len(database) // PAGE + 1):
            pages.setdefault(kind_of(database, number), []).append(number)
        if not pages:
            return Hit("", 0, 1, "bit", "an empty file", 0, 0)
        trunk, _ = struct.unpack_from(">II", database, 32)
        if 0 < trunk <= len(database) // PAGE:
            pages[FREE_LIST] = [1, trunk, trunk]
        place = FREE_LIST if FREE_LIST in AIMS and FREE_LIST in pages else rng.choice(sorted(pages))
        page = rng.choice(pages[place])
        head = 100 if page == 1 else 16
        at = (page - 1) * PAGE + rng.choice((rng.randrange(head), rng.randrange(PAGE)))
        if place == FREE_LIST:
            # The first entry is the page that is used next.
            at = (page - 1) * PAGE + (32 + rng.randrange(8) if page == 1 else rng.choice((rng.randrange(40), 11)))
            damage = rng.choice((damage, "bit"))
        suffix, content = "", database
    if damage == "bit":
        return Hit(suffix, at, 1, damage, place, page, rng.randrange(8))
    if damage == "page":
        size = PAGE if suffix == "" else FRAME
        first = (page - 1) * PAGE if suffix == "" else 32 + (max(at - 32, 0)) // FRAME * FRAME
    else:
        size, first = SECTOR, at // SECTOR * SECTOR
    return Hit(suffix, first, min(size, len(content) - first), damage, place, page, 0)


def pages_hit(hit: Hit, wal: bytes) -> set[int]:
    """Return the pages on which the damage lies: a sector of a WAL may lie in two frames."""
    if hit.suffix == "":
        return {hit.first // PAGE + 1}
    frames = range(max(hit.first - 32, 0) // FRAME, max(hit.first + hit.size - 1 - 32, 0) // FRAME + 1)
    return {int.from_bytes(wal[32 + n * FRAME : 36 + n * FRAME], "big") for n in frames}


def may_be_lost(numbers: set[int], pages: set[int], database: bytes, wal: bytes) -> set[int]:
    """Return the events that have bytes on any of the pages, in any version of it."""
    images = [database[(page - 1) * PAGE : page * PAGE] for page in pages]
    images += [
        wal[start + 24 : start + FRAME]
        for start in range(32, len(wal) - FRAME + 1, FRAME)
        if int.from_bytes(wal[start : start + 4], "big") in pages
    ]
    return {
        number
        for number in numbers
        if any(_piece(payload(number), at) in image for image in images for at in range(0, len(payload(number)), 60))
    }


def _piece(content: bytes, at: int) -> bytes:
    return content[max(min(at, len(content) - 60), 0) :][:60]


class Unreadable:
    """Says which piece of a file cannot be read; see eio.c."""

    def __init__(self) -> None:
        self._path = os.environ.get("FAULTS_EIO")

    @contextlib.contextmanager
    def piece(self, path: Path, first: int, size: int) -> Iterator[None]:
        assert self._path is not None
        self._write(path.stat().st_ino, first, first + size - 1)
        try:
            yield
        finally:
            self._write(0, 0, 0)

    def _write(self, *values: int) -> None:
        with open(self._path or os.devnull, "r+b") as file:
            file.write(struct.pack("<3q", *values))


def apply(hit: Hit, slot: Slot, unreadable: Unreadable) -> contextlib.AbstractContextManager[None]:
    """Damage a slot's file."""
    path = slot.wal if hit.suffix else slot.database
    if hit.damage == "unreadable":
        return unreadable.piece(path, hit.first, hit.size)
    content = bytearray(path.read_bytes())
    if hit.damage == "bit" and content:
        content[hit.first] ^= 1 << hit.bit
    else:
        content[hit.first : hit.first + hit.size] = bytes(hit.size)
    path.write_bytes(bytes(content))
    return contextlib.nullcontext()


def all_rows(queue: SqliteQueue) -> list[bytes]:
    found: list[bytes] = []
    after = 0
    while rows := queue.peek(after, 500, 1 << 24):
        found += [row.payload for row in rows]
        after = rows[-1].key
    queue.settle()
    return found


def set_aside(slot: Slot) -> set[str]:
    """Return which files of a slot were set aside, whether what was in them has been taken over or not."""
    names = (re.search(r"[.](?:damaged|salvaged)-([0-9T-]+)", path.name) for path in slot.directory.iterdir())
    return {found[1] for found in names if found}


def read_quietly(queue: SqliteQueue) -> tuple[list[bytes], list[bytes]]:
    """Return the events and the dead letters, of a pass in which nothing was mended: rows get new keys by that."""
    while True:
        before = set_aside(queue.slot)
        rows = all_rows(queue)
        dead = [letter.payload for letter in queue.dead_letters(1 << 20)]
        if set_aside(queue.slot) == before:
            return rows, dead


def judge(slot: Slot, history: History, losable: set[int], hit: Hit, tally: Tally) -> list[str]:
    """Open what is left, and return what is wrong."""
    wrong: list[str] = []
    with SqliteQueue.take(slot, byte_limit=10_000) as queue:
        queue.put_many([payload(AFTERWARDS)] * AFTERWARDS_COUNT)
        rows, dead = read_quietly(queue)
        ledger = queue.ledger()
        before = set_aside(slot)
        queue.ack([row.key for row in queue.peek(0, 1, 1 << 20)])
    with SqliteQueue.take(Slot(slot.directory, slot.index), byte_limit=10_000) as queue:
        again, _ = read_quietly(queue)
    if len(rows) - 1 != len(again) and set_aside(slot) == before:
        wrong.append(f"{len(rows)} events, one delivered, and then {len(again)}")
    numbers: Counter[int] = Counter()
    for content in rows + dead:
        try:
            numbers[number_of(content)] += 1
        except ValueError as exc:
            wrong.append(f"altered: {exc}")
    required = set(history.stored) - set(history.sent) - history.purging
    lost = required - set(numbers)
    tally.lost_on_page += len(lost & losable)
    afterwards = numbers.pop(AFTERWARDS, 0)
    tally.repeated += sum(count - 1 for count in numbers.values())
    if lost - losable:
        wrong.append(f"lost {len(lost - losable)} of {len(required)}: {sorted(lost - losable)[:8]}")
    if afterwards < AFTERWARDS_COUNT:
        wrong.append(f"of {AFTERWARDS_COUNT} events that were put afterwards {afterwards} are there")
    if set(numbers) - history.tried:
        wrong.append("never put")
    if not ledger.adds_up:
        wrong.append(f"the books do not add up: {ledger}")
    if ledger.pending != len(rows) and not pages_of_counts(hit):
        wrong.append(f"{len(rows)} events are there, and {ledger.pending} are counted")
    if any(".damaged-" in path.name for path in slot.directory.iterdir()):
        wrong.append("a file waits to be read")
    return wrong


def pages_of_counts(hit: Hit) -> bool:
    """Return whether the damage may be in the counts, which have no checksum: they agree once the queue was empty."""
    return hit.page in META_PAGES or hit.place in ("counts", "index", "frame header", "WAL header", "unknown")


def damage_everywhere(target: Bench, seed: int, share: float, tally: Tally) -> None:
    """Damage the files as they were after each operation, and judge them."""
    rng = random.Random(f"two faults {seed}")
    disk = Disk(target.root, Naming.DIRECTORY, SECTOR)
    history = History()
    scratch, unreadable = target.folder / "image", Unreadable()
    for at, operation in enumerate(target.operations()):
        disk.apply(operation)
        history.apply(operation)
        if (operation.kind not in CHANGES and operation.kind is not Kind.MARK) or rng.random() >= share:
            continue
        disk.image(Choice.ALL, rng).write_to(scratch)
        slot = Slot(scratch / "queue" / "emitter", 0)
        if not slot.database.exists() or slot.database.stat().st_size < 6 * PAGE:
            continue
        database = slot.database.read_bytes()
        wal = slot.wal.read_bytes() if slot.wal.exists() else b""
        hit = choose(database, wal, rng)
        losable = may_be_lost(set(history.stored), pages_hit(hit, wal), database, wal)
        tally.images += 1
        tally.kinds[f"{hit.place}: {hit.damage}"] += 1
        try:
            with apply(hit, slot, unreadable):
                wrong = judge(slot, history, losable, hit, tally)
        except Exception as exc:  # whatever it is: the slot was not usable
            traceback.print_exc()
            slot.release()
            wrong = [f"{type(exc).__name__}: {exc}"]
        if wrong:
            tally.failures.append(
                f"seed {seed}, after operation {at} ({operation.kind.name}): {hit}: {'; '.join(wrong)}"
            )


LARGE: Final[list[Command]] = [
    ["put_many", 300],
    ["put_many", 300],
    ["deliver", 150],
    ["put", 5],
    ["reject", 2],
    ["deliver", 60],
    ["put", 9],
    ["crash"],
]
"""Its file has interior pages, and free ones."""


def campaign(name: str, first: int, count: int) -> Tally:
    """Run the campaign for some seeds."""
    tally = Tally()
    with Server() as server:
        for seed in range(first, first + count):
            rng = random.Random(seed)
            with bench(server, name) as target:
                for _ in range(rng.randint(1, 3)):
                    target.run_to_the_end([*random_program(rng, 8), ["crash"]])
                if seed % 4 == 0:
                    target.run_to_the_end(LARGE)
                damage_everywhere(target, seed, 0.5, tally)
    return tally


def main(argv: list[str]) -> int:
    """Print the tally as JSON."""
    logging.getLogger("durable_tracker").addHandler(logging.NullHandler())
    name, first, count = argv[0], int(argv[1]), int(argv[2])
    if name == "queue:small_wal":
        books.WAL_SIZE_MAX = 48 << 10  # type: ignore[misc]
        sweep.MARK_MIN, sweep.SOME = 1, 3  # type: ignore[misc]
    for breakage in argv[3:]:
        BREAKAGES[breakage]()
    tally = campaign(name, first, count)
    print(json.dumps({**vars(tally), "kinds": dict(tally.kinds.most_common())}))
    return 0


def trust_the_wal() -> None:
    """Let SQLite open a WAL with committed frames behind a damaged one, and look at nothing before."""
    preflight.inspect = lambda *_: []


def salvage_without_the_wal() -> None:
    """Read a damaged database as if it had no WAL."""
    from durable_tracker.engines.sqlite import salvage
    from durable_tracker.engines.sqlite.wal import Wal

    salvage.read_wal = lambda *_: Wal([], 0, has_holes=False)  # type: ignore[attr-defined]


def salvage_what_was_not_committed() -> None:
    """Believe all frames of a WAL, whether a commit follows or not."""
    from durable_tracker.engines.sqlite import salvage
    from durable_tracker.engines.sqlite.wal import Wal, read_wal

    def all_committed(path: Path) -> Wal:
        wal = read_wal(path)
        frames = [frame._replace(is_whole=True) for frame in wal.frames]
        if frames:
            frames[-1] = frames[-1]._replace(commits=True)
        return wal._replace(frames=frames)

    salvage.read_wal = all_committed  # type: ignore[attr-defined]


def trust_the_free_list() -> None:
    """Write new rows over whatever the list of free pages names."""
    from durable_tracker.engines.sqlite.pages import Pages

    Pages.freelist_problem = lambda *_: None  # type: ignore[method-assign]
    AIMS.add(FREE_LIST)


BREAKAGES: Final = {
    function.__name__: function
    for function in (trust_the_wal, salvage_without_the_wal, salvage_what_was_not_committed, trust_the_free_list)
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
