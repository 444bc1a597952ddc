"""`requeue` and `purge`: what is asked for goes back or goes away, once and counted, and nothing else does."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from processes import TIMEOUT_S

from durable_tracker.__main__ import main
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.memory import MemoryPlace
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.engine import SlotPlace
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.protocol.rendering import REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from durable_tracker.engines.engine import Place

    Run = Callable[..., tuple[int, str, str]]

PENDING = range(1, 8)
REFUSED_ONES = range(11, 14)
INVALID_ONES = range(21, 23)
ALL = Ledger(accepted=12, pending=7, dead=5, invalid=2)


def eid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def event(number: int, **fields: str) -> bytes:
    known = {"e": "se", "p": "srv", "tv": "t", "se_ca": "c", "se_ac": "a", "dtm": "1700000000000", "eid": eid(number)}
    return json.dumps({**known, "aid": "even" if number % 2 == 0 else "odd", **fields}).encode()


class Shop:
    """A queue with pending events and dead letters, in a file or in memory."""

    def __init__(self, place: Place, options: list[str]) -> None:
        self.place = place
        self.options = options
        with place.take() as queue:
            queue.put_many([event(number) for number in REFUSED_ONES])
            queue.reject([row.key for row in queue.peek(0, 3, 1 << 20)], 422, "not that one")
            for number in INVALID_ONES:
                queue.put_invalid(event(number, se_va="much", **{REFUSED: "se_va: no number"}), "se_va: no number")
            queue.put_many([event(number) for number in PENDING])

    @property
    def ledger(self) -> Ledger:
        with self.place.take() as queue:
            assert queue.ledger().adds_up
            return queue.ledger()

    @property
    def pending(self) -> list[dict[str, str]]:
        with self.place.look() as onlooker:
            return [json.loads(row.payload) for row in onlooker.rows()]

    @property
    def letters(self) -> dict[str, int]:
        """The keys of the dead letters, by the ids."""
        with self.place.look() as onlooker:
            return {json.loads(letter.payload)["eid"]: letter.key for letter in onlooker.letters()}

    def key(self, number: int) -> str:
        return str(self.letters[eid(number)])


@pytest.fixture
def shop(tmp_path: Path, engine: dict[str, Any]) -> Shop:
    if "queue" in engine:
        return Shop(MemoryPlace(engine["queue"], "shop", ""), [str(engine["queue"])])
    make_private_directory(tmp_path / "queues" / "shop")
    return Shop(SlotPlace(Slot(tmp_path / "queues" / "shop", 0)), ["--queue-dir", str(tmp_path / "queues")])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the shop in this process: exit code, what it printed, what it complained."""

    def run_(command: str, *arguments: object, stdin: str = "", typed: str | None = None) -> tuple[int, str, str]:
        piped = io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogateescape")))
        monkeypatch.setattr(sys, "stdin", piped if typed is None else Terminal(typed))
        try:
            code = main([command, *shop.options, *map(str, arguments)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out.replace(shop.place.name, "shop"), captured.err.replace(shop.place.name, "shop")

    return run_


# ── requeue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_letters_are_put_back_by_id_or_key_also_from_lines(run: Run, shop: Shop) -> None:
    """Those of which there is none are named, and the exit code says so."""
    assert run("requeue", "--eid", eid(12), "--dry-run") == (0, "shop: would requeue 1\n", "")
    assert shop.ledger == ALL
    lines = f"{eid(12)}\n\n{shop.key(13)}\n{eid(99)}\n777777\n"
    code, out, err = run("requeue", "--stdin", stdin=lines)
    assert (code, out) == (Exit.BACKLOG, "shop: requeued 2\n")
    assert err == f"--key 777777: no dead letter has it\n--eid {eid(99)}: no dead letter has it\n"
    assert [one["eid"] for one in shop.pending] == [*map(eid, PENDING), eid(12), eid(13)]
    assert shop.ledger == replace(ALL, pending=9, dead=3)
    assert run("requeue", "--stdin", stdin="") == (0, "shop: requeued 0\n", "")
    assert run("requeue", "--eid", eid(11), "--status", 400)[:2] == (Exit.BACKLOG, "shop: requeued 0\n")
    assert run("requeue", "--eid", eid(11), "--key", shop.key(11)) == (0, "shop: requeued 1\n", "")


def test_many_names_that_are_nowhere_are_one_line(run: Run) -> None:
    """A list of the wrong day is not printed back."""
    assert run("requeue", "--stdin", stdin="\udcff\n")[2] == "--eid \\xff: no dead letter has it\n"
    code, _, err = run("requeue", "--stdin", stdin="\n".join(map(eid, range(1000, 1100))))
    assert (code, len(err.splitlines())) == (Exit.BACKLOG, 1)
    assert err.endswith("and 90 more: no dead letter has it\n")


def test_what_came_back_often_stays(run: Run, shop: Shop) -> None:
    """It would be refused once more; whoever has mended the collector says so."""

    def refuse() -> None:
        with shop.place.take() as queue:
            rows = [row for row in queue.peek(0, 99, 1 << 20) if eid(11).encode() in row.payload]
            queue.reject([row.key for row in rows], 422, "again")

    for _ in range(5):
        assert run("requeue", "--eid", eid(11)) == (0, "shop: requeued 1\n", "")
        refuse()
    stays = "shop: 1 dead letters stay, which were put back 5 times or more; see --max-replays\n"
    assert run("requeue", "--status", "422", "--dry-run") == (0, "shop: would requeue 2\n", stays)
    assert run("requeue", "--status", "422") == (0, "shop: requeued 2\n", stays)
    assert run("requeue", "--eid", eid(11), "--max-replays", "6") == (0, "shop: requeued 1\n", "")
    refuse()
    assert run("requeue", "--eid", eid(11), "--max-replays", "6")[1] == "shop: requeued 0\n"
    assert run("requeue", "--eid", eid(11), "--max-replays", "none") == (0, "shop: requeued 1\n", "")
    assert run("requeue", "--max-replays", "0")[0] == Exit.USAGE


def program(text: str) -> str:
    """A command line that edits an event, which is `d`, and prints it."""
    code = f"import json, sys; d = json.load(sys.stdin); {text}; print(json.dumps(d))"
    return shlex.join([sys.executable, "-c", code])


def test_an_edited_letter_goes_back_as_the_program_left_it(run: Run, shop: Shop) -> None:
    """With its id and its time, unless the program changes them; what the tracker refused is mended likewise."""
    mend = program("d.pop('refused', None); d['se_va'] = 5; d['se_la'] = 'é'; del d['dtm']; d.pop('eid')")
    assert run("requeue", "--edit", mend, "--dry-run") == (0, "shop: would requeue 5\n", "")
    assert shop.ledger == ALL
    assert run("requeue", "--edit", mend) == (0, "shop: requeued 5\n", "")
    back = shop.pending[len(PENDING) :]
    assert [one["eid"] for one in back] == [eid(number) for number in (*REFUSED_ONES, *INVALID_ONES)]
    assert {(one["se_va"], one["se_la"], one["dtm"], one["se_ca"]) for one in back} == {
        ("5", "é", "1700000000000", "c")
    }
    assert shop.ledger == Ledger(accepted=12, pending=12)


def test_the_id_is_the_programs_to_change(run: Run, shop: Shop) -> None:
    other = "99999999-0000-4000-8000-000000000000"
    assert run("requeue", "--edit", program(f"d['eid'] = '{other}'"), "--eid", eid(11))[0] == 0
    assert shop.pending[-1]["eid"] == other


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("d['se_va'] = 'much'", "se_va: "),
        ("d['no such field'] = '1'", "no such field"),
        ("d = [d]", "must be a JSON object"),
        ("d['refused'] = 'x'", "x: export it"),
        ("d['eid'] = 'none'", "eid: "),
        ("sys.exit(7 if d['aid'] == 'odd' else 0)", "exit code 7"),
    ],
)
def test_a_letter_that_could_not_be_edited_stays_and_is_named(run: Run, shop: Shop, text: str, reason: str) -> None:
    """The others go back."""
    only_11 = program(f"exec({text!r}) if d['eid'] == '{eid(11)}' else None")
    if text.startswith("d = "):
        only_11 = program(f"d = [d] if d['eid'] == '{eid(11)}' else d")
    code, out, err = run("requeue", "--kind", "refused", "--edit", only_11)
    assert (code, out) == (Exit.BACKLOG, "shop: requeued 2\n")
    assert err.startswith(f"shop: dead letter {shop.key(11)} stays: ")
    assert reason in err
    assert len(err.splitlines()) == 1
    assert shop.ledger == replace(ALL, pending=9, dead=3)


@pytest.mark.parametrize("command", ["", "'", "no-such-program --now"])
def test_a_program_that_there_is_not_is_a_wrong_command_line(run: Run, shop: Shop, command: str) -> None:
    """Before anything is done."""
    assert run("requeue", "--edit", command)[0] == Exit.USAGE
    assert shop.ledger == ALL


# ── purge ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--all", "--yes"), "--pending"),
        (("--pending", "--dead-letters", "--all", "--yes"), "not allowed with"),
        (("--pending", "--yes"), "say which"),
        (("--dead-letters", "--yes"), "say which"),
        (("--pending", "--all", "--app-id", "odd", "--yes"), "not both"),
        (("--pending", "--key", "1", "--yes"), "--eid"),
        (("--pending", "--kind", "refused", "--yes"), "--eid"),
        (("--pending", "--all"), "--yes"),
        (("--dead-letters", "--stdin"), "--yes"),
    ],
)
def test_a_purge_is_to_be_told_what_and_which(run: Run, shop: Shop, arguments: tuple[str, ...], reason: str) -> None:
    """Nothing goes by a slip of the hand, and nobody is asked who is not there."""
    code, out, err = run("purge", *arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert reason in err
    assert shop.ledger == ALL


def test_pending_events_are_purged_by_id_and_by_what_they_are(run: Run, shop: Shop) -> None:
    """What is not there is named, and the number is said first."""
    assert run("purge", "--pending", "--app-id", "odd", "--dry-run") == (0, "shop: would purge 4\n", "")
    assert shop.ledger == ALL
    code, out, err = run("purge", "--pending", "--eid", eid(1), "--eid", eid(11), "--yes")
    assert (code, out) == (Exit.BACKLOG, "shop: purged 1\n")
    assert err.splitlines()[1:] == [f"--eid {eid(11)}: no pending event has it"]
    assert err.startswith("purging 1 pending events of ")
    assert run("purge", "--pending", "--app-id", "odd", "--until", "2024-01-01", "--yes")[:2] == (0, "shop: purged 3\n")
    assert [one["eid"] for one in shop.pending] == [eid(2), eid(4), eid(6)]
    assert run("purge", "--pending", "--stdin", "--yes", stdin=f"{eid(2)}\n{eid(6)}\n")[:2] == (0, "shop: purged 2\n")
    assert run("purge", "--pending", "--all", "--yes")[:2] == (0, "shop: purged 1\n")
    assert run("purge", "--pending", "--all", "--yes") == (0, "shop: purged 0\n", "")
    assert shop.ledger == replace(ALL, pending=0, purged=7)


def test_dead_letters_are_purged_by_key_and_by_what_they_are(run: Run, shop: Shop) -> None:
    """The pending events stay, those of the same id also."""
    assert run("purge", "--dead-letters", "--key", shop.key(12), "--yes")[:2] == (0, "shop: purged 1\n")
    assert run("purge", "--dead-letters", "--key", "777777", "--yes") == (
        Exit.BACKLOG,
        "shop: purged 0\n",
        "--key 777777: no dead letter has it\n",
    )
    assert run("purge", "--dead-letters", "--reason", "no number", "--eid", eid(22), "--yes")[1] == "shop: purged 1\n"
    assert run("purge", "--dead-letters", "--status", "422", "--dry-run")[1] == "shop: would purge 2\n"
    assert shop.ledger == replace(ALL, dead=3, invalid=1, purged=2)
    assert run("purge", "--dead-letters", "--all", "--yes")[1] == "shop: purged 3\n"
    assert shop.ledger == replace(ALL, dead=0, invalid=0, purged=5)
    assert len(shop.pending) == len(PENDING)


@pytest.mark.parametrize(
    ("typed", "is_done"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_somebody_at_a_terminal_is_asked(run: Run, shop: Shop, tmp_path: Path, typed: str, is_done: bool) -> None:
    """With the number, and anything but yes is no: then no file is left, either."""
    file = tmp_path / "purged.ndjson"
    code, out, err = run("purge", "--pending", "--app-id", "odd", "--export", file, typed=typed)
    assert err == f"purge 4 pending events of {shop.place.label}? [y/N] ".replace(shop.place.name, "shop")
    assert (code, out) == ((0, "shop: purged 4\n") if is_done else (Exit.BACKLOG, "shop: purged 0\n"))
    assert shop.ledger == (replace(ALL, pending=3, purged=4) if is_done else ALL)
    assert file.exists() == is_done


def exported(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("what", ["--pending", "--dead-letters"])
def test_what_is_purged_is_written_first_as_an_export_has_it(
    run: Run, shop: Shop, tmp_path: Path, what: str, suffix: str
) -> None:
    """For its owner's eyes, and it can be imported."""
    file, all_of_it = tmp_path / f"purged.ndjson{suffix}", tmp_path / "all.ndjson"
    assert run("export", "--dead-letters", "--output", all_of_it)[0] == 0
    code, out, _ = run("purge", what, "--app-id", "odd", "--export", file, "--yes")
    expected = [
        {**one, "key": None}
        for one in exported(all_of_it)
        if ("dead_letter" in one) == (what == "--dead-letters") and one["event"]["aid"] == "odd"
    ]
    assert (code, out) == (0, f"shop: purged {len(expected)}\n")
    assert [{**one, "key": None} for one in exported(file)] == expected
    assert file.stat().st_mode & 0o777 == 0o600


def test_nothing_is_purged_that_could_not_be_written(
    run: Run, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there is left as it is; a failing sync, and a directory that is not there, are exit code 5."""
    arguments = ("purge", "--pending", "--all", "--yes", "--export")
    there = tmp_path / "there"
    there.write_text("mine")
    assert run(*arguments, there) == (Exit.USAGE, "", f"--export {there}: is there already\n")
    assert there.read_text() == "mine"
    assert run(*arguments, tmp_path / "no" / "where")[0] == Exit.OUTPUT
    assert run("purge", "--pending", "--all", "--dry-run", "--export", tmp_path / "dry")[1] == "shop: would purge 7\n"
    assert not (tmp_path / "dry").exists()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    file = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr("durable_tracker.commands.purge.os.fsync", fail)
        code, out, err = run(*arguments, file)
    assert (code, out) == (Exit.OUTPUT, "")
    assert "Input/output error" in err
    assert shop.ledger == ALL


def test_what_goes_to_the_collector_meanwhile_is_left(run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside an emitter that has it in a request; the number says so."""
    with shop.place.take() as queue:
        kind: Any = type(queue)
    real = kind.purge

    def purge(queue: Any, keys: Any) -> int:
        queue.hold(keys[:2])
        gone: int = real(queue, keys)
        return gone

    monkeypatch.setattr(kind, "purge", purge)
    code, out, _ = run("purge", "--pending", "--all", "--yes")
    assert (code, out) == (0, "shop: purged 5; 2 are on their way to the collector, or gone\n")


# ── in files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def backlog(root: Path, count: int) -> Slot:
    make_private_directory(root / "shop")
    with SqliteQueue.take(Slot(root / "shop", 0)) as queue:
        queue.put_many([event(number) for number in range(count)])
    return Slot(root / "shop", 0)


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "durable_tracker", *map(str, arguments)]


@pytest.mark.parametrize("arguments", [("requeue",), ("purge", "--pending", "--all", "--yes")])
def test_a_queue_of_a_live_owner_is_left_to_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 3, with the process; another queue is dealt with."""
    slot = backlog(tmp_path, 3)
    with SqliteQueue.take(slot) as queue:
        done = subprocess.run(
            command(*arguments, "--queue-dir", tmp_path), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert (done.returncode, done.stdout) == (Exit.BUSY, "")
        assert str(os.getpid()) in done.stderr
        assert queue.ledger() == Ledger(accepted=3, pending=3)


def test_a_damaged_letter_can_be_purged_and_is_never_put_back(tmp_path: Path) -> None:
    """By its key, or by its kind."""
    slot = backlog(tmp_path, 20)
    content = slot.database.read_bytes()
    for number in (3, 7):
        content = content.replace(eid(number).encode(), eid(number + 50).encode())
    slot.database.write_bytes(content)
    with SqliteQueue.take(slot) as queue:
        queue.peek(0, 99, 1 << 20)
        assert queue.ledger() == Ledger(accepted=20, pending=18, damaged=2)
    arguments = ("--queue-dir", str(tmp_path))
    assert main(["requeue", *arguments]) == 0
    assert main(["purge", *arguments, "--dead-letters", "--key", "-4", "--yes"]) == 0
    assert main(["purge", *arguments, "--dead-letters", "--kind", "damaged", "--yes"]) == 0
    with SqliteQueue.take(slot) as queue:
        assert queue.ledger() == Ledger(accepted=20, pending=18, purged=2)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo terminal: the side of the person, and that of the command."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_the_question_is_asked_on_a_real_terminal(tmp_path: Path, terminal: tuple[int, int]) -> None:
    """And without one, exit code 2 comes at once."""
    slot = backlog(tmp_path, 12)
    arguments = command("purge", "--queue-dir", tmp_path, "--pending", "--all")
    done = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == Exit.USAGE
    ours, theirs = terminal
    os.write(ours, b"y\n")
    done = subprocess.run(arguments, stdin=theirs, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "purge 12 pending events of shop/0? [y/N] ")
    with SqliteQueue.take(slot) as queue:
        assert queue.ledger() == Ledger(accepted=12, purged=12)


def test_a_purge_that_is_killed_has_done_whole_transactions(tmp_path: Path) -> None:
    """Whenever it is killed, the ledger adds up, and who asks again purges the rest."""
    count = 20_000
    slot = backlog(tmp_path, count)
    arguments = command("purge", "--queue-dir", tmp_path, "--pending", "--all", "--yes")
    purged, turns = 0, 0
    while purged < count:
        turns += 1
        assert turns < 100
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            process.stderr.readline()  # it begins
            time.sleep(0.004 * turns)
            process.kill()
        with SqliteQueue.take(slot) as queue:
            ledger = queue.ledger()
            assert ledger == Ledger(accepted=count, pending=len(queue.events), purged=count - len(queue.events))
        assert ledger.purged % 500 == 0
        assert ledger.purged >= purged
        purged = ledger.purged
    assert turns > 1


@pytest.mark.parametrize("line", ["requeue", "purge --dead-letters --yes"])
def test_a_key_names_an_event_of_one_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """Another queue has the same key, for an event that nobody meant."""
    slots = [Slot(tmp_path / name, 0) for name in ("one", "other")]
    for slot in slots:
        make_private_directory(slot.directory)
        with SqliteQueue.take(slot) as queue:
            queue.put(event(1))
            queue.reject([1], 422, "no")
    whole = [*line.split(), "--queue-dir", str(tmp_path)]
    assert main([*whole, "--key", "1"]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("--key: a key is its own queue's, and 2 queues are meant here: name one")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1\n")))
    assert main([*whole, "--stdin"]) == Exit.USAGE
    assert main([*line.split(), "--key", "1", str(slots[0].database)]) == Exit.EMPTY
    for slot, left in zip(slots, (0, 1), strict=True):
        with SqliteQueue.take(slot) as queue:
            assert len(queue.dead_letters(9, 0)) == left
