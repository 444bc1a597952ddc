"""`on_invalid="dead_letter"`: what the door refuses is kept with its reason, and never reaches the caller."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fakes import events_in
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PROGRAMS

from durable_tracker import (
    ConfigurationError,
    Emitter,
    EmitterConfiguration,
    InvalidEventError,
    PageView,
    QueueClosedError,
    QueueFullError,
    SelfDescribing,
    SelfDescribingJson,
    Snowplow,
    StructuredEvent,
    Subject,
    Tracker,
    TrackerConfiguration,
)
from durable_tracker.__main__ import main
from durable_tracker.engines.sqlite.dead_letters import INVALID_KEY_MIN
from durable_tracker.events import Event
from durable_tracker.payload import Payload
from durable_tracker.protocol.encoder import finished
from durable_tracker.protocol.rendering import REFUSED, SIZE_MAX, rendering
from durable_tracker.runtime import fan_out
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_tracker.testing import TrackedEvents

NOBODY = "http://127.0.0.1:9"
BAD = StructuredEvent("category", "action", value=float("nan"))
GOOD = StructuredEvent("category", "action", value=1)


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_out, "_said", set())


@pytest.fixture
def emitter(engine: dict[str, Any]) -> Iterator[Emitter]:
    with Emitter(NOBODY, name="shop", drain=False, **engine) as made:
        yield made


def letters(emitter: Emitter) -> list[Any]:
    assert emitter._opened is not None
    assert emitter.stats().ledger.adds_up
    found = emitter._opened.queue.dead_letters(100_000)
    assert all(letter.kind == "invalid" for letter in found)
    return found


def test_an_event_that_breaks_a_rule_is_kept_with_the_reason(
    emitter: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as accepted and dead, its id is returned, and the rule is logged once."""
    tracker = Tracker(emitter, Subject().set_user_id("u"), "ns", "app", on_invalid="dead_letter")
    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        eids = [tracker.track(BAD) for _ in range(3)]
    tracker.track(GOOD)
    found = letters(emitter)
    kept = [json.loads(letter.payload) for letter in found]
    assert [one["eid"] for one in kept] == eids
    assert {"tna": "ns", "aid": "app", "uid": "u", "e": "se", "se_ca": "category", "se_va": "nan"}.items() <= kept[
        0
    ].items()
    assert found[0].reason.startswith("se_va: ")
    assert found[0].reason.endswith("(of type float)")
    ledger = emitter.stats().ledger
    assert (ledger.accepted, ledger.pending, ledger.dead, ledger.invalid) == (4, 1, 3, 3)
    assert events_in(caplog) == ["event.invalid"]


def test_by_default_it_is_raised(emitter: Emitter) -> None:
    """As it always was; and nothing is kept."""
    tracker = Tracker(emitter)
    with pytest.raises(InvalidEventError):
        tracker.track(BAD)
    with pytest.raises(InvalidEventError):
        tracker.track_struct_event("a", "b", value=float("nan"))
    assert emitter.stats().ledger.accepted == 0


BAD_CALLS: dict[str, dict[str, Any]] = {
    # A call of each method that is refused.
    "track_page_view": {"page_url": ""},
    "track_page_ping": {"page_url": "https://a.example", "min_x": "x"},
    "track_link_click": {"target_url": ""},
    "track_add_to_cart": {"sku": "s", "quantity": "many"},
    "track_remove_from_cart": {"sku": "s", "quantity": "many"},
    "track_form_change": {"form_id": "f", "element_id": None, "node_name": "INPUT", "value": "v"},
    "track_form_submit": {"form_id": ""},
    "track_site_search": {"terms": []},
    "track_ecommerce_transaction": {"order_id": "o", "total_value": None},
    "track_ecommerce_transaction_item": {"order_id": "o", "sku": "", "price": 1, "quantity": 1},
    "track_screen_view": {},
    "track_mobile_screen_view": {"name": "n", "id_": "no uuid"},
    "track_struct_event": {"category": "c", "action": "a", "value": float("inf")},
    "track_self_describing_event": {"event_json": {"schema": "iglu:a/b/jsonschema/1-0-0"}},
    "track_unstruct_event": {"event_json": object()},
    "track_many": {"events": [BAD]},
}


def test_no_method_raises_what_the_door_refuses(emitter: Emitter) -> None:
    """Each method of the tracker, by introspection; a missing argument is raised all the same."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    methods = {name for name in dir(Tracker) if name.startswith("track_")}
    assert methods == set(BAD_CALLS)
    for count, (name, arguments) in enumerate(BAD_CALLS.items(), 1):
        returned = getattr(tracker, name)(**arguments)
        assert returned is tracker or name == "track_many"
        assert len(letters(emitter)) == count, name
        with pytest.raises(InvalidEventError):
            getattr(Tracker(emitter), name)(**arguments)
        with pytest.raises(TypeError):
            getattr(tracker, name)(no_such_argument=1)
        if name != "track_screen_view":
            assert inspect.signature(getattr(Tracker, name)).parameters
    assert emitter.stats().ledger.pending == 0
    with pytest.raises(InvalidEventError):
        tracker.track("no event")  # type: ignore[call-overload]


def test_of_many_only_those_that_break_a_rule_are_kept_apart(emitter: Emitter) -> None:
    """All ids come back, in order."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    eids = tracker.track_many([GOOD, BAD, GOOD, BAD])
    assert len(set(eids)) == 4
    assert [json.loads(letter.payload)["eid"] for letter in letters(emitter)] == [eids[1], eids[3]]
    assert emitter.stats().ledger.pending == 2


def test_a_transaction_is_kept_whole(emitter: Emitter) -> None:
    """One item breaks a rule: none of it is delivered."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    good, bad = {"sku": "s", "price": 1, "quantity": 1}, {"sku": "t", "price": 1, "quantity": "many"}
    tracker.track_ecommerce_transaction("o", 10, items=[good, bad])
    assert emitter.stats().ledger.pending == 0
    assert emitter.stats().ledger.invalid >= 1
    assert all("quantity" in letter.reason or "ti_qu" in letter.reason for letter in letters(emitter))


def test_a_payload_of_0_9_is_kept_as_well(emitter: Emitter) -> None:
    """The tracker is returned, as always."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    payload = Payload({"e": "no such code"})
    assert tracker.track(payload) is tracker
    assert "no such code" in letters(emitter)[0].payload.decode()


def test_content_and_entities_are_kept_as_far_as_they_can_be_rendered(emitter: Emitter) -> None:
    """As JSON text under the protocol's names."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    entity = SelfDescribingJson("iglu:a/c/jsonschema/1-0-0", {"set": {1}})
    tracker.track(SelfDescribing(SelfDescribingJson("iglu:a/b/jsonschema/1-0-0", {"a": object}), context=[entity]))
    kept = json.loads(letters(emitter)[0].payload)
    assert kept["e"] == "ue"
    assert json.loads(kept["ue_pr"])["schema"] == "iglu:a/b/jsonschema/1-0-0"
    assert json.loads(kept["co"]) == [{"schema": "iglu:a/c/jsonschema/1-0-0", "data": {"set": "{1}"}}]


class Hostile:
    """Raises whatever it is asked."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary()
    | st.builds(Hostile) | st.just("x" * 300_000) | st.builds(lambda: 10**6000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec=None), max_size=5), VALUES, max_size=12))
def test_anything_can_be_rendered(fields: dict[str, Any]) -> None:
    """As a JSON object of text, in UTF-8, of at most 64 KiB; whatever the values do."""
    payload = rendering(fields, "why")
    assert len(payload) <= SIZE_MAX
    with pytest.raises(InvalidEventError):
        finished(json.loads(payload))
    kept = json.loads(payload.decode("utf-8"))
    assert all(isinstance(value, str) for value in kept.values())


def test_cycles_and_depth_come_to_an_end() -> None:
    """And a large list is cut."""
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert len(rendering({"a": cycle, "b": deep, "c": list(range(10**6))}, "why")) <= SIZE_MAX


class Broken(Event):
    """Cannot say what it holds."""

    def describe(self) -> SelfDescribingJson:
        raise InvalidEventError("data", "cannot be told")


@pytest.mark.parametrize(
    "event",
    [
        Event({"e": "pv"}, context=5),  # type: ignore[arg-type]
        Event({"e": "pv"}, context="text"),  # type: ignore[arg-type]
        Event({"e": "pv"}, event_subject=object()),  # type: ignore[arg-type]
        Event({"e": "pv"}, true_timestamp=object()),  # type: ignore[arg-type]
        Event({5: object()}),  # type: ignore[dict-item]
        Broken(),
    ],
)
def test_whatever_part_of_it_is_no_use_it_is_kept(emitter: Emitter, event: Event) -> None:
    """Nothing of it makes the keeping fail."""
    Tracker(emitter, on_invalid="dead_letter").track(event)
    assert len(letters(emitter)) == 1


def test_values_that_raise_are_kept_without_a_text(emitter: Emitter) -> None:
    """Their type is named."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    tracker.track(Event({"e": "pv", "page": Hostile()}))
    assert json.loads(letters(emitter)[0].payload)["page"] == "<Hostile>"


def test_where_it_cannot_be_kept_the_error_says_so(emitter: Emitter, engine: dict[str, Any]) -> None:
    """A closed emitter, and a full queue."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    emitter.close()
    with pytest.raises(QueueClosedError):
        tracker.track(BAD)
    with Emitter(NOBODY, name="small", drain=False, max_queue_bytes=128 << 10, **engine) as small:
        with contextlib.suppress(QueueFullError):
            while True:
                small.put(b'{"e":"pv","x":"%s"}' % (b"x" * 900))
        large = PageView("https://a.example", "x" * 8000, context=[object()])  # type: ignore[list-item]
        with pytest.raises(QueueFullError):
            Tracker(small, on_invalid="dead_letter").track_many([large] * 20)


def test_after_a_fork_the_child_keeps_it_in_its_own_queue(tmp_path: Path) -> None:
    """As it does with events."""
    command = [sys.executable, str(PROGRAMS / "refuse_after_a_fork.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "child 1\nparent 2\n"), done.stderr


def test_emitters_without_dead_letters_are_passed_by(caplog: pytest.LogCaptureFixture) -> None:
    """The line in the log says that the event is gone."""

    class Theirs:
        def input(self, payload: dict[str, Any]) -> None:
            raise AssertionError(payload)

    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        Tracker(Theirs(), on_invalid="dead_letter").track(BAD)
    assert "dropped" in caplog.text


def test_the_log_has_one_line_a_rule_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the values, the sizes and the places in the data are."""
    recording = RecordingEmitter()
    tracker = Tracker(recording, on_invalid="dead_letter")
    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        for number in range(5):
            tracker.track(Event({"e": "pv", "se_va": f"secret{number}"}))
            content = {f"secret{number}": {"a": [0] * number + [object()]}}
            tracker.track(SelfDescribing(SelfDescribingJson("iglu:a/b/jsonschema/1-0-0", content)))
            tracker.track(PageView("https://a.example", "x" * (1_100_000 + number)))
    assert len(recording.invalid) == 15
    assert [event for event in events_in(caplog) if event == "event.invalid"] == ["event.invalid"] * 3
    assert "secret" not in repr([vars(record) for record in caplog.records])


def test_in_a_test_of_the_users_nothing_reaches_a_disk(tracked_events: TrackedEvents, tmp_path: Path) -> None:
    """The fixture takes what is refused as well."""
    with Emitter(NOBODY, queue_dir=tmp_path / "q", name="shop", drain=False) as emitter:
        Tracker(emitter, on_invalid="dead_letter").track(BAD)
        assert emitter.stats().slot is None
    assert len(tracked_events) == 0


def test_an_id_of_its_own_is_kept(emitter: Emitter) -> None:
    """If it can be one."""
    tracker = Tracker(emitter, on_invalid="dead_letter")
    eid = "11111111-2222-4333-8444-555555555555"
    tracker.track(Payload({"e": "no such code", "eid": eid}))
    tracker.track(Payload({"e": "no such code", "eid": "none"}))
    kept = [json.loads(letter.payload)["eid"] for letter in letters(emitter)]
    assert kept[0] == eid
    assert len(kept[1]) == 36


def test_a_letter_that_was_refused_passes_the_door_once_more_before_it_is_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What still breaks a rule stays, and is named; what passes goes back into the queue."""
    with Emitter(NOBODY, queue_dir=tmp_path, name="shop", drain=False) as emitter:
        tracker = Tracker(emitter, on_invalid="dead_letter")
        tracker.track(BAD)
        mended = json.loads(letters(emitter)[0].payload) | {"se_va": "5"}
        del mended[REFUSED]
        emitter.put_invalid(json.dumps(mended).encode(), "was mended")
    first = INVALID_KEY_MIN
    assert main(["requeue", "--queue-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "requeued 1" in said.out
    assert f"dead letter {first} stays: se_va" in said.err
    with Emitter(NOBODY, queue_dir=tmp_path, name="shop", drain=False) as emitter:
        emitter.flush(0)
        assert [letter.key for letter in letters(emitter)] == [first]
        assert emitter.stats().ledger.pending == 1


def test_it_is_a_setting_that_is_checked(emitter: Emitter, tmp_path: Path) -> None:
    """In the tracker, its configuration and its signature."""
    with pytest.raises(ConfigurationError, match="on_invalid"):
        Tracker(emitter, on_invalid="ignore")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="on_invalid"):
        TrackerConfiguration(on_invalid="ignore")  # type: ignore[arg-type]
    assert inspect.signature(Tracker).parameters["on_invalid"].default == "raise"
    tracker = Snowplow.create_tracker(
        "on-invalid",
        endpoint=NOBODY,
        tracker_config=TrackerConfiguration(on_invalid="dead_letter"),
        emitter_config=EmitterConfiguration(queue_dir=str(tmp_path), drain=False),
    )
    assert tracker.on_invalid == "dead_letter"
    Snowplow.remove_tracker(tracker)
    tracker.close()
