"""`peek`, `dead-letters`, `export` and `import` with filters: what was asked for, whole, and back again."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from processes import Child, Program, Site, wait_until
from test_onlooker import STAYING, owner

from durable_tracker import Emitter, PageView, SelfDescribing, SelfDescribingJson, StructuredEvent, Tracker
from durable_tracker.collector import Collector
from durable_tracker.engines.sqlite.engine import SlotPlace
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot
from durable_tracker.runtime import worker

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = "http://127.0.0.1:9"
SCHEMA = "iglu:com.acme/bought/jsonschema/1-0-0"
PEAK = """
import re, sys
from durable_tracker.__main__ import main
code = main(sys.argv[1:])
sys.exit(code or print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""
"""Runs a command, and prints how many KiB of memory it took at most; ru_maxrss may be its parent's."""


def command(*arguments: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "durable_tracker", *map(str, arguments)]
    return subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=60, **settings)


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def queues(tmp_path: Path) -> Path:
    """A queue dir with a backlog of several kinds of events, and dead letters."""
    root = tmp_path / "queues"
    with Emitter(NOBODY, queue_dir=root, name="shop", drain=False) as emitter:
        web = Tracker(emitter, namespace="n", app_id="web")
        web.track(PageView("https://acme.example/basket", "Basket"))
        web.track(SelfDescribing(SelfDescribingJson(SCHEMA, {"what": "a kettle, 1 l"})))
        web.track(StructuredEvent("shop", "search", "kettles"))
        batch = Tracker(emitter, namespace="n", app_id="batch", on_invalid="dead_letter")
        batch.track(PageView("https://acme.example/report"))
        batch.track(StructuredEvent("a", "b", value=float("nan")))
    with SqliteQueue.take(Slot(root / "shop", 0)) as queue:
        queue.put(b'{"e":"pv","eid":"00000000-0000-4000-8000-000000000001","dtm":"1700000000000","p":"srv","tv":"t"}')
        queue.reject([queue.peek(0, 9, 1 << 20)[-1].key], 422, "not that one")
    return root


def test_what_is_asked_for_is_shown_in_words(queues: Path) -> None:
    """By each filter; base64 is decoded unless it is asked for raw."""

    def shown(*filters: str) -> list[str]:
        done = command("peek", "--queue-dir", queues, *filters)
        assert done.returncode == 0, done.stderr
        return [one["event"]["e"] for one in lines(done.stdout)]

    assert shown() == ["pv", "ue", "se", "pv"]
    assert shown("--newest", "--limit", "2") == ["se", "pv"]
    assert shown("--app-id", "batch") == ["pv"]
    assert shown("--event", "se") == ["se"]
    assert shown("--schema", "iglu:com.acme/") == ["ue"]
    assert shown("--grep", "a kettle, 1 l") == ["ue"]
    assert shown("--since", "2024-01-01", "--until", "2024-01-02T00:00+02:00") == []
    assert shown("--since", "2024-01-01") == ["pv", "ue", "se", "pv"]
    done = command("peek", "--queue-dir", queues, "--event", "ue")
    (one,) = lines(done.stdout)
    assert one["event"]["ue_pr"]["data"] == {"schema": SCHEMA, "data": {"what": "a kettle, 1 l"}}
    eid = one["event"]["eid"]
    (raw,) = lines(command("peek", "--queue-dir", queues, "--raw", "--eid", eid).stdout)
    assert "ue_px" in raw["event"]
    left_out = command("peek", "--queue-dir", queues, "--limit", "3")
    assert "more events were left out" in left_out.stderr
    assert command("peek", "--queue-dir", queues, "--since", "yesterday").returncode == 2


def test_dead_letters_are_counted_by_what_they_have_in_common(queues: Path) -> None:
    """And filtered by the reason, the status and the kind."""

    def letters(*filters: str) -> list[Any]:
        return lines(command("dead-letters", "--queue-dir", queues, *filters).stdout)

    assert sorted(one["kind"] for one in letters()) == ["invalid", "refused"]
    assert [one["status"] for one in letters("--status", "422")] == [422]
    assert [one["kind"] for one in letters("--kind", "invalid")] == ["invalid"]
    assert [one["reason"] for one in letters("--reason", "not that")] == ["not that one"]
    assert {(one["kind"], one["count"]) for one in letters("--by", "kind")} == {("invalid", 1), ("refused", 1)}
    assert {one["status"] for one in letters("--by", "status")} == {None, 422}
    done = command("requeue", "--queue-dir", queues, "--status", "422")
    assert "requeued 1" in done.stdout
    assert len(lines(command("peek", "--queue-dir", queues).stdout)) == 5


def test_what_the_door_refused_is_found_by_its_schema_and_shown_as_json(tmp_path: Path) -> None:
    """There nothing is around the data yet, as there is in what was sent; and JSON has no NaN."""
    with Emitter(NOBODY, queue_dir=tmp_path, name="shop", drain=False) as emitter:
        tracker = Tracker(emitter, namespace="n", on_invalid="dead_letter")
        tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, {"price": float("nan")})))

    def letters(*options: str) -> list[Any]:
        out = command("dead-letters", "--queue-dir", tmp_path, *options).stdout
        return [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]

    (letter,) = letters("--schema", "iglu:com.acme/")
    assert letter["event"]["ue_pr"]["data"] == {"price": "NaN"}
    assert [one["schema"] for one in letters("--by", "schema")] == [SCHEMA]
    exported = command("export", "--queue-dir", tmp_path, "--dead-letters").stdout
    done = command("import", "--endpoint", NOBODY, "--queue-dir", tmp_path, input=exported)
    assert "line 1: refused: mend the event, and remove this member: data.price: must be a finite" in done.stderr


@pytest.mark.parametrize("suffix", [".ndjson", ".ndjson.gz"])
def test_an_export_comes_back_as_it_was(queues: Path, tmp_path: Path, suffix: str) -> None:
    """On another host; the file is private, and is not replaced unawares."""
    file = tmp_path / f"backlog{suffix}"
    arguments = ("export", "--queue-dir", queues, "--output", file)
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "4 events written\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert command(*arguments).returncode == 2
    assert command(*arguments, "--force", "--dead-letters").stderr == "6 events written\n"
    content = gzip.decompress(file.read_bytes()) if suffix.endswith("gz") else file.read_bytes()
    exported = lines(content.decode())
    assert [one["dead_letter"]["kind"] for one in exported[4:]] == ["refused", "invalid"]
    assert command(*arguments, "--force").returncode == 0
    done = command("import", "--endpoint", NOBODY, "--queue-dir", tmp_path / "other", file)
    assert (done.returncode, done.stderr) == (0, "stored 4, refused 0, known 0\n")
    again = command("import", "--endpoint", NOBODY, "--queue-dir", tmp_path / "other", "--skip-known", file)
    assert again.stderr == "stored 0, refused 0, known 4\n"
    theirs = lines(command("peek", "--queue-dir", tmp_path / "other", "--raw").stdout)
    ours = lines(command("peek", "--queue-dir", queues, "--raw").stdout)
    assert [one["event"] for one in theirs] == [one["event"] for one in ours]


def test_import_takes_the_dumps_of_failed_events_and_names_what_it_refuses(tmp_path: Path) -> None:
    """A list of dicts, as a handler of the official tracker has them; a bad line is named, the good ones are stored."""
    good = {"e": "pv", "p": "srv", "tv": "t", "url": "https://a.example", "stm": "1700000000000"}
    dump = json.dumps([good, {"e": "no such code", "p": "srv", "tv": "t"}, good])
    arguments = ("import", "--endpoint", NOBODY, "--queue-dir", tmp_path / "q")
    done = command(*arguments, input=dump)
    assert done.returncode == 2
    assert "stdin, line 1: e: " in done.stderr
    assert done.stderr.endswith("stored 2, refused 1, known 0\n")
    done = command(*arguments, "--strict", input=f"{json.dumps(good)}\nno json\n")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "stored 0, refused 1, known 0")
    assert "line 2: line: must be a JSON object" in done.stderr
    kept = lines(command("peek", "--queue-dir", tmp_path / "q", "--raw").stdout)
    assert ["stm" in one["event"] for one in kept] == [False, False]
    assert command(*arguments, tmp_path / "missing").returncode == 2


def test_import_takes_a_list_in_each_line_and_one_over_several(tmp_path: Path) -> None:
    """As a handler has them that appends a list for each failure; what is no list is named by its line."""
    good = {"e": "pv", "p": "srv", "tv": "t", "url": "https://a.example"}
    arguments = ("import", "--endpoint", NOBODY, "--queue-dir", tmp_path)
    each = f"{json.dumps([good, good])}\n\n{json.dumps([good])}\n[]\n{json.dumps(good)}\n"
    assert command(*arguments, input=each).stderr == "stored 4, refused 0, known 0\n"
    assert command(*arguments, input=json.dumps([good, good], indent=1)).stderr == "stored 2, refused 0, known 0\n"
    done = command(*arguments, input=f"{json.dumps([good])}\n[1,\n")
    assert (done.returncode, "stdin, line 2: line: must be" in done.stderr) == (2, True)
    assert done.stderr.endswith("stored 1, refused 1, known 0\n")


def test_an_id_that_was_imported_a_moment_ago_is_known(queues: Path, tmp_path: Path) -> None:
    """Of the same file, or of another one of the same command."""
    file = tmp_path / "backlog.ndjson"
    command("export", "--queue-dir", queues, "--output", file)
    arguments = ("import", "--endpoint", NOBODY, "--queue-dir", tmp_path / "other", "--skip-known")
    assert command(*arguments, file, file).stderr == "stored 4, refused 0, known 4\n"
    refused = tmp_path / "refused.ndjson"
    refused.write_bytes(file.read_bytes() + b"no json\n")
    once_more = ("import", "--endpoint", NOBODY, "--queue-dir", tmp_path / "third", "--skip-known", "--strict")
    assert command(*once_more, refused, file).stderr.endswith("stored 4, refused 1, known 0\n")


def test_a_queue_whose_ids_cannot_be_known_is_named(queues: Path, tmp_path: Path) -> None:
    """What is imported is stored all the same: it may be there to replace what cannot be read."""
    file = tmp_path / "backlog.ndjson"
    command("export", "--queue-dir", queues, "--output", file)
    database = queues / "shop" / "0.sqlite3"
    database.write_bytes(b"no database" * 1000)
    done = command("import", "--endpoint", NOBODY, "--queue-dir", queues, "--name", "new", "--skip-known", file)
    assert (done.returncode, str(database) in done.stderr) == (4, True)
    assert done.stderr.endswith("stored 4, refused 0, known 0\n")


@pytest.mark.parametrize("fault", ["cut", "altered", "no gzip"])
def test_a_damaged_gz_is_named(tmp_path: Path, fault: str) -> None:
    packed = gzip.compress(os.urandom(5000).hex().encode())
    file = tmp_path / "backlog.ndjson.gz"
    file.write_bytes({"cut": packed[:200], "altered": packed[:10] + b"\xff" * 9 + packed[19:], "no gzip": b"[]"}[fault])
    done = command("import", "--endpoint", NOBODY, "--queue-dir", tmp_path, file)
    first, last = done.stderr.splitlines()
    assert (done.returncode, first.startswith(f"import: {file}: "), last) == (2, True, "stored 0, refused 0, known 0")


def test_an_export_beside_a_busy_owner_has_every_event_that_stays(tmp_path: Path) -> None:
    """Once each, while it puts, acks, checkpoints and vacuums."""
    with owner(tmp_path / "slot"):
        done = command("export", tmp_path / "slot" / "0.sqlite3")
    assert done.returncode == 0, done.stderr
    numbers = [one["event"]["n"] for one in lines(done.stdout)]
    staying = [number for number in numbers if 0 < number <= 3 * STAYING and (number + 4 * STAYING) % 3 == 0]
    assert len(staying) == len(set(staying)) == STAYING
    assert f"{len(numbers)} events written" in done.stderr


def test_an_exported_line_names_the_slot_the_key_and_the_event(queues: Path) -> None:
    """Each, also where a queue has several slots, and in whatever way the slots were chosen."""
    with Emitter(NOBODY, queue_dir=queues, name="shop", drain=False) as one:
        one.put(b'{"e":"pv","eid":"00000000-0000-4000-8000-000000000002"}')
        with Emitter(NOBODY, queue_dir=queues, name="shop", drain=False) as two:
            two.put(b"no JSON")
    expected = []
    for index in (0, 1):
        with SqliteQueue.take(Slot(queues / "shop", index)) as queue:
            for row in queue.peek(0, 100, 1 << 20):
                fields = json.loads(row.payload) if row.payload != b"no JSON" else None
                expected.append((str(queue.slot.database), row.key, fields and fields["eid"], fields))
    assert {queue for queue, *_ in expected} == {str(queues / "shop" / f"{index}.sqlite3") for index in (0, 1)}
    for chosen in (("--queue-dir", queues), ("--name", "shop", "--queue-dir", queues), (queues / "shop",)):
        found = lines(command("export", *chosen).stdout)
        assert [(one["queue"], one["key"], one["eid"], one.get("event")) for one in found] == expected


def test_an_import_beside_a_live_owner_is_delivered_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes into a slot of its own, which the owner adopts once the import has ended, and goes on tracking."""
    monkeypatch.setattr(worker, "ADOPTION_INTERVAL_S", 0.2)  # a minute
    events = [{"e": "pv", "p": "srv", "tv": "t", "eid": f"00000000-0000-4000-8000-{n:012d}"} for n in range(700)]
    with Collector() as collector, Emitter(collector.url, name="shop", queue_dir=tmp_path) as owner:
        tracker = Tracker(owner, namespace="n")
        tracker.track(PageView("https://acme.example/"))
        arguments = ("import", "--endpoint", collector.url, "--name", "shop", "--queue-dir", tmp_path)
        done = command(*arguments, input="".join(json.dumps(one) + "\n" for one in events))
        assert (done.returncode, done.stderr) == (0, "stored 700, refused 0, known 0\n")
        assert (tmp_path / "shop" / "1.sqlite3").exists()
        tracker.track(PageView("https://acme.example/"))
        wait_until(lambda: collector.eids().total() >= 702)
        assert {one["eid"] for one in events} <= set(collector.eids())
        assert len(collector.eids()) == collector.eids().total() == 702
        with SlotPlace(Slot(tmp_path / "shop", 0)).look() as onlooker:
            wait_until(lambda: onlooker.books().ledger.delivered == 2)


def test_an_import_beside_an_owner_that_hangs_is_drained(tmp_path: Path) -> None:
    """Nobody waits for the owner; its own slot stays as it is."""
    event = {"e": "pv", "p": "srv", "tv": "t", "eid": "00000000-0000-4000-8000-000000000001"}
    with Collector() as collector:
        site = Site(tmp_path, collector.url)
        with Child(site, Program("track_until_told", drains=False, pause_s=0.01)) as owner:
            wait_until(lambda: len(site.noted("ack")) > 3)
            owner.process.send_signal(signal.SIGSTOP)
            place = ("--name", "test", "--queue-dir", site.queue_dir)
            for _ in range(2):  # the second one finds a slot that is free
                done = command("import", "--endpoint", collector.url, *place, input=json.dumps(event))
                assert (done.returncode, done.stderr) == (0, "stored 1, refused 0, known 0\n")
            assert not (site.slots / "2.sqlite3").exists()
            done = command("drain", *place)
            assert (done.returncode, f"in use by process {owner.process.pid}" in done.stderr) == (3, True)
            assert dict(collector.eids()) == {event["eid"]: 2}
            owner.kill()
        assert command("drain", *place).returncode == 0
        assert collector.eids().total() - 2 in (len(site.noted("ack")), len(site.noted("try")))


def test_what_was_left_out_is_exit_code_4(queues: Path) -> None:
    """Of an altered event, and of an altered dead letter; the others are there."""
    database = queues / "shop" / "0.sqlite3"
    content = database.read_bytes()
    eid = lines(command("peek", "--queue-dir", queues, "--raw").stdout)[0]["event"]["eid"].encode()
    for mark, passed_by in (
        (eid, {"peek", "export"}),
        (b"not that one", {"dead-letters", "dead-letters --by kind", "export --dead-letters"}),
    ):
        database.write_bytes(content.replace(mark, mark[::-1]))
        for line in ("peek", "export", "dead-letters", "dead-letters --by kind", "export --dead-letters"):
            done = command(*line.split(), "--queue-dir", queues)
            is_whole = line not in passed_by and not (mark == eid and "export" in line)
            assert (done.returncode, "rows left out: 1" in done.stderr) == ((0, False) if is_whole else (4, True)), line
            assert done.stdout


def test_an_output_that_is_no_file_keeps_its_mode(queues: Path, tmp_path: Path) -> None:
    """As /dev/null does, when root exports into it, and a named pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        done = command("export", "--queue-dir", queues, "--output", pipe, "--force")
        shown = reader.communicate(timeout=60)[0]
    assert (done.returncode, len(lines(shown)), pipe.stat().st_mode & 0o777) == (0, 4, 0o644)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    """Of export, and of import: 200,000 events take a few megabytes more than 2,000."""
    peaks = []
    for count in (2000, 200_000):
        queue_dir, file = tmp_path / str(count), tmp_path / f"{count}.gz"
        with Emitter(NOBODY, name="big", queue_dir=queue_dir, drain=False, durability="interval") as emitter:
            tracker = Tracker(emitter, namespace="n", app_id="a")
            tracker.track_many(PageView(f"https://acme.example/{number}") for number in range(count))
        for arguments in (
            ("export", "--queue-dir", queue_dir, "--output", file),
            ("import", "--queue-dir", tmp_path / f"{count}-copy", "--endpoint", NOBODY, file),
        ):
            done = subprocess.run([sys.executable, "-c", PEAK, *map(str, arguments)], capture_output=True, check=True)
            peaks.append(int(done.stdout))
    assert peaks[2] - peaks[0] < 16_000, peaks
    assert peaks[3] - peaks[1] < 32_000, peaks
