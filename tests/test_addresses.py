"""A backlog goes to the address on record, and to no other: whoever shares its directory, or its name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from damage import Lines
from processes import wait_until

from durable_tracker import Emitter
from durable_tracker.collector import Collector
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.delivery.transport import Reply
from durable_tracker.drain import main as drain
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, existing_slots, make_private_directory
from durable_tracker.errors import ConfigurationError, QueueFullError
from durable_tracker.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def event(number: int) -> bytes:
    eid = f"00000000-0000-4000-8000-{number:012d}"
    return json.dumps({"e": "pv", "p": "srv", "tv": "t", "eid": eid, "url": "http://x.example/"}).encode()


@pytest.fixture
def pair() -> Iterator[tuple[Collector, Collector]]:
    """Two collectors, the first of which is down."""
    with Collector(up=False) as old, Collector() as new:
        yield old, new


def numbers(collector: Collector) -> set[int]:
    return {int(eid[-12:]) for eid in collector.eids()}


def leave(directory: Path, index: int, url: str, first: int, count: int, **origin: Any) -> None:
    """Leave a slot with events for an address."""
    make_private_directory(directory)
    with SqliteQueue.take(Slot(directory, index)) as queue:
        queue.set_origin({**Endpoint.parse(url).record(), **origin})
        queue.put_many([event(number) for number in range(first, first + count)])


def test_emitters_of_one_name_and_two_addresses_keep_their_backlogs_apart(
    tmp_path: Path, pair: tuple[Collector, Collector]
) -> None:
    """The one whose collector is down leaves events; the other one neither opens nor adopts their slot."""
    old, new = pair
    with Emitter(old.url, name="shop", queue_dir=tmp_path, drain=False) as first:
        first.put_many([event(number) for number in range(5)])
    with Lines() as lines, Emitter(new.url, name="shop", queue_dir=tmp_path, linger=0) as second:
        second.put_many([event(number) for number in range(10, 15)])
        assert second.flush(10)
        slot = second.stats().slot
        assert slot is not None
        assert slot.name == "1.sqlite3"
        assert dict(second.stats().elsewhere) == {old.url: 5}
    assert numbers(new) == {10, 11, 12, 13, 14}
    assert lines.lines == ["emitter.events_elsewhere", "emitter.events_elsewhere"]  # found, and at the end
    old.up()
    with Emitter(old.url, name="shop", queue_dir=tmp_path, linger=0) as first:
        assert first.flush(10)
        assert dict(first.stats().elsewhere) == {}
    assert numbers(old) == {0, 1, 2, 3, 4}
    assert numbers(new) == {10, 11, 12, 13, 14}


def test_an_orphan_of_another_address_is_not_adopted(tmp_path: Path, pair: tuple[Collector, Collector]) -> None:
    """It lies behind the emitter's own slot, where only the worker comes by."""
    old, new = pair
    leave(tmp_path / "shop", 1, old.url, 0, 3)
    leave(tmp_path / "shop", 2, new.url, 10, 3)
    with Emitter(new.url, name="shop", queue_dir=tmp_path, linger=0) as emitter:
        emitter.put(event(20))
        assert new.wait(distinct=4)
        assert emitter.flush(10)
        assert dict(emitter.stats().elsewhere) == {old.url: 3}
    assert numbers(new) == {10, 11, 12, 20}


def test_an_empty_slot_is_anybodys_and_gets_the_new_address_before_the_first_event(tmp_path: Path) -> None:
    """A crash in between leaves no event under an earlier owner's address."""
    leave(tmp_path / "shop", 0, "http://127.0.0.1:9", 0, 0)
    emitter = Emitter("http://127.0.0.1:8", name="shop", queue_dir=tmp_path, drain=False)
    pair = emitter._open()
    assert pair.queue.origin["url"] == "http://127.0.0.1:8/com.snowplowanalytics.snowplow/tp2"
    emitter.close()


def test_an_event_is_not_put_under_an_address_that_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: the slot that was another one's keeps its record, so it takes nothing."""
    leave(tmp_path / "shop", 0, "http://127.0.0.1:9", 0, 0)

    def full(*_args: object) -> None:
        raise QueueFullError("the disk is full")

    monkeypatch.setattr(SqliteQueue, "set_origin", full)
    emitter = Emitter("http://127.0.0.1:8", name="shop", queue_dir=tmp_path, drain=False)
    with emitter, pytest.raises(QueueFullError):
        emitter.put(event(1))
    with SqliteQueue.take(Slot(tmp_path / "shop", 0)) as queue:
        assert queue.pending() == 0


@pytest.mark.parametrize("directory", ["derived", "former", "named"])
def test_a_collector_is_replaced_by_the_operators_word(
    directory: str, tmp_path: Path, pair: tuple[Collector, Collector]
) -> None:
    """Wherever an emitter of the old address left its events."""
    old, new = pair
    address = Endpoint.parse(old.url)
    place = {"derived": address.name, "former": address.former_name, "named": "shop"}[directory]
    leave(tmp_path / place, 0, old.url, 0, 4)
    name = "shop" if directory == "named" else None
    with Emitter(
        new.url, name=name, queue_dir=tmp_path, linger=0, replaces=["https://other.example", old.url]
    ) as emitter:
        emitter.put(event(9))
        assert new.wait(distinct=5)
    assert numbers(new) == {0, 1, 2, 3, 9}


def test_a_replacement_that_matches_nothing_says_so(tmp_path: Path, pair: tuple[Collector, Collector]) -> None:
    """Once: a typo would otherwise leave a backlog behind in silence."""
    _, new = pair
    with Lines() as lines, Emitter(new.url, queue_dir=tmp_path, linger=0, replaces="http://old.example") as emitter:
        emitter.put(event(1))
        assert emitter.flush(10)
        wait_until(lambda: "emitter.nothing_to_replace" in lines.lines)
    assert [line for line in lines.lines if "replace" in line] == ["emitter.nothing_to_replace"]


@pytest.mark.parametrize("replaces", [7, "ftp://old.example", ["ok.example", ""], {"a": 1}])
def test_a_replacement_that_is_no_address_is_refused_by_name(replaces: Any, tmp_path: Path) -> None:
    """The message says which argument is wrong."""
    with pytest.raises(ConfigurationError, match="replaces"):
        Emitter("c.example", queue_dir=tmp_path, replaces=replaces)


class Recording:
    """A transport that accepts everything, and remembers it."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def send(self, events: Sequence[bytes]) -> Reply:
        self.numbers |= {int(json.loads(event)["eid"][-12:]) for event in events}
        return Reply(status=200)

    def close(self) -> None:
        pass


def test_a_directory_that_an_earlier_release_named_is_adopted_by_its_own_address_alone(tmp_path: Path) -> None:
    """Two addresses could share it: `h/tenant/a` and `h/tenant_a`. Earlier releases recorded no user."""
    directory = tmp_path / Endpoint.parse("h/tenant/a").former_name
    assert directory.name == Endpoint.parse("h/tenant_a").former_name
    leave(directory, 0, "h/tenant/a", 0, 2)
    with SqliteQueue.take(Slot(directory, 0)) as queue:
        queue.set_origin({"url": queue.origin["url"], "method": "post"})
    sent = Recording()
    with Emitter("h/tenant_a", queue_dir=tmp_path, linger=0, transport=sent) as other:
        other.put(event(7))
        wait_until(lambda: bool(other.stats().elsewhere))
        assert other.flush(10)
        assert dict(other.stats().elsewhere) == {"https://h/tenant/a": 2}
    assert sent.numbers == {7}
    sent = Recording()
    with Emitter("alice:secret@h/tenant/a", queue_dir=tmp_path, linger=0, transport=sent) as own:
        own.put(event(8))
        wait_until(lambda: {0, 1, 8} <= sent.numbers)
    assert sent.numbers == {0, 1, 8}


def test_the_drain_sends_each_backlog_to_its_own_address_unless_it_is_told(
    tmp_path: Path, pair: tuple[Collector, Collector], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--to` is the operator's word, too."""
    old, new = pair
    leave(tmp_path / "shop", 0, new.url, 10, 2)
    leave(tmp_path / "shop", 1, old.url, 0, 2)
    assert drain([str(tmp_path), "--timeout", "1", "--quiet"]) == Exit.BACKLOG
    assert numbers(new) == {10, 11}
    assert drain([str(tmp_path), "--to", new.url, "--quiet"]) == Exit.EMPTY
    assert numbers(new) == {0, 1, 10, 11}
    assert len(list(existing_slots(tmp_path / "shop"))) == 2
    assert "delivered 2" in capsys.readouterr().out
