"""The tracker: its constructor in both orders, its ids and times, its emitters, its flush and close."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import tracemalloc
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from uuid import UUID

import pytest
from processes import PROGRAMS

from durable_tracker import _version
from durable_tracker.emitters import AsyncEmitter, Emitter
from durable_tracker.errors import ConfigurationError, InvalidEventError, QueueFullError
from durable_tracker.events import Event, PagePing, PageView, ScreenView, SelfDescribing, StructuredEvent
from durable_tracker.payload import Payload
from durable_tracker.protocol import fields
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.subject import Subject
from durable_tracker.testing import RecordingEmitter
from durable_tracker.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

AnyTracker: Any = Tracker  # for calls that are wrong on purpose
SCHEMA = "iglu:com.acme/save_game/jsonschema/1-0-0"


class FailingEmitter(RecordingEmitter):
    """Fails at everything."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def put(self, payload: bytes) -> None:
        raise QueueFullError(f"{self.name} is full")

    def put_many(self, payloads: Sequence[bytes]) -> None:
        raise QueueFullError(f"{self.name} is full")

    def close(self, timeout: float | None = None) -> bool:
        raise QueueFullError(f"{self.name} is full")


class OfficialStyleEmitter:
    """Has what the official documentation asks of a custom emitter, and spoils what it is given."""

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.flushes: list[str] = []

    def input(self, payload: dict[str, Any]) -> None:
        self.inputs.append(dict(payload))
        payload.clear()

    def flush(self) -> None:
        self.flushes.append("flush")

    def sync_flush(self) -> None:
        self.flushes.append("sync_flush")


def test_both_orders_of_the_constructors_arguments_mean_the_same() -> None:
    """That of 1.x begins with a namespace, that of 0.9 with the emitters."""
    emitter, subject = RecordingEmitter(), Subject().set_user_id("u")

    def encoder(value: object) -> object:
        return value

    made = [
        Tracker("cf", emitter, subject, "aid", False, encoder),
        Tracker(emitter, subject, "cf", "aid", False, encoder),
        Tracker(
            namespace="cf", emitters=emitter, subject=subject, app_id="aid", encode_base64=False, json_encoder=encoder
        ),
        Tracker("cf", emitters=[emitter], subject=subject, app_id="aid", encode_base64=False, json_encoder=encoder),
        Tracker([emitter], namespace="cf", subject=subject, app_id="aid", encode_base64=False, json_encoder=encoder),
        Tracker((emitter,), subject, "cf", app_id="aid", encode_base64=False, json_encoder=encoder),
    ]
    for tracker in made:
        assert (
            tracker.emitters,
            tracker.subject,
            tracker.encode_base64,
            tracker.json_encoder,
        ) == ([emitter], subject, False, encoder)
        assert tracker.standard_nv_pairs == {"tv": fields.TRACKER_VERSION, "tna": "cf", "aid": "aid"}
        assert tracker.get_namespace() == "cf"


def test_a_tracker_needs_no_more_than_an_emitter() -> None:
    """Then its events have neither a namespace nor an application."""
    emitter = RecordingEmitter()
    Tracker(emitter).track(PageView("u"))
    assert set(emitter.events[0].wire) == {"e", "url", "p", "tv", "eid", "dtm"}
    assert Tracker(emitter).get_namespace() == ""


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: AnyTracker([]), ConfigurationError, "emitters must hold at least one"),
        (lambda _: AnyTracker("ns", []), ConfigurationError, "emitters must hold at least one"),
        (lambda _: AnyTracker("ns", "collector.acme.com"), ConfigurationError, "emitters must be an emitter"),
        (lambda _: AnyTracker(None), ConfigurationError, "emitters must be an emitter"),
        (lambda e: AnyTracker(type(e)), ConfigurationError, "emitters must be an emitter"),
        (lambda e: AnyTracker([e, 5]), ConfigurationError, "but has 5"),
        (lambda _: AnyTracker("ns"), TypeError, "needs emitters"),
        (lambda _: AnyTracker(), TypeError, "needs emitters"),
        (lambda e: AnyTracker("ns", e, namespace="x"), TypeError, "two values for the argument 'namespace'"),
        (lambda e: AnyTracker(e, colour="red"), TypeError, "unexpected argument 'colour'"),
        (lambda e: AnyTracker(e, None, "n", "a", True, None, 7), TypeError, "at most 6"),
        (lambda e: AnyTracker(e, encode_base64="yes"), ConfigurationError, "encode_base64: .yes. is not True or False"),
        (lambda e: AnyTracker(e, json_encoder=5), ConfigurationError, "json_encoder: 5 is not a function"),
        (lambda e: AnyTracker(e).add_emitter(None), ConfigurationError, "emitters must be an emitter"),
    ],
)
def test_a_constructor_that_is_misused_says_what_is_wrong(
    make: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    """At once, and by the argument's name."""
    with pytest.raises(error, match=message):
        make(RecordingEmitter())


def test_the_version_is_that_of_the_project() -> None:
    """It is written down once, and read from there when the package is built."""
    with open(Path(__file__).parent.parent / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["tool"]["setuptools"]["dynamic"]["version"] == {
            "attr": "durable_tracker._version.__version__"
        }
    assert version("durable-tracker") == _version.__version__
    assert f"durable-py-{_version.__version__}" == fields.TRACKER_VERSION


def test_every_event_has_an_id_of_its_own_which_track_returns() -> None:
    """A random UUID in canonical form."""
    emitter = RecordingEmitter()
    tracker = Tracker("ns", emitter)
    event = PageView("u")
    eids = [tracker.track(event) for _ in range(1000)]
    assert [recorded.eid for recorded in emitter.events] == eids
    assert len(set(eids)) == 1000
    assert {UUID(eid).version for eid in [*eids, Tracker.get_uuid()]} == {4}
    assert all(str(UUID(eid)) == eid for eid in eids)


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    """Whether or not anything was told of the fork."""
    command = [sys.executable, str(PROGRAMS / "fork_and_make_ids.py")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    parents, childs = run.stdout.split()
    assert parents != childs


def test_an_events_time_is_the_present_and_its_true_time_the_callers() -> None:
    """In whole milliseconds; the one never replaces the other."""
    emitter = RecordingEmitter()
    before = time.time_ns() // 1_000_000
    Tracker("ns", emitter).track(PageView("u", true_timestamp=1_600_000_000_000.9))
    wire = emitter.events[0].wire
    assert before <= int(wire["dtm"]) <= time.time_ns() // 1_000_000
    assert wire["ttm"] == "1600000000000"
    assert Tracker.get_timestamp(5.9) == 5
    assert before <= Tracker.get_timestamp() <= time.time_ns() // 1_000_000
    with pytest.raises(InvalidEventError, match="tstamp"):
        Tracker.get_timestamp("5")  # type: ignore[arg-type]


def test_a_payload_is_one_json_object_of_text() -> None:
    """Ready to be sent, but for the time of sending, which is spliced in before the closing brace."""
    emitter = RecordingEmitter()
    Tracker("ns", emitter).track(StructuredEvent("c", "a", value=5))
    (payload,) = emitter.payloads
    assert payload.startswith(b"{")
    assert payload.endswith(b'"}')
    spliced = json.loads(payload[:-1] + b',"stm":"1"}')
    assert spliced.pop("stm") == "1"
    assert {type(value) for value in spliced.values()} == {str}


def test_an_event_is_encoded_once_for_all_emitters() -> None:
    """They get the same bytes object; those of the official kind get a dict each."""
    first, second = RecordingEmitter(), RecordingEmitter()
    third, fourth = OfficialStyleEmitter(), OfficialStyleEmitter()
    calls: list[object] = []

    def encoder(value: object) -> object:
        calls.append(value)
        return "x"

    tracker = Tracker("ns", [first, third, second, fourth], json_encoder=encoder)
    tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, {"a": {1}})))
    assert first.payloads[0] is second.payloads[0]
    assert [first.events[0].wire] == third.inputs == fourth.inputs
    assert len(calls) == 1


def test_an_emitter_that_fails_keeps_the_event_from_no_other() -> None:
    """The first error is raised when all had their turn, with a note on the others."""
    durable, custom = RecordingEmitter(), OfficialStyleEmitter()
    tracker = Tracker("ns", [FailingEmitter("one"), durable, FailingEmitter("two"), custom])
    for act in (lambda: tracker.track(PageView("u")), lambda: tracker.track_many([PageView("u"), PageView("v")])):
        with pytest.raises(QueueFullError, match="one is full") as caught:
            act()
        assert caught.value.__notes__[0] == "another emitter failed too: QueueFullError: two is full"
    assert (len(durable.payloads), len(custom.inputs)) == (3, 3)


def test_the_callers_list_of_emitters_is_left_alone() -> None:
    """Adding one to the tracker does not add it to the list that the tracker was made with."""
    emitters = [RecordingEmitter()]
    tracker = Tracker("ns", emitters)
    more = RecordingEmitter()
    assert tracker.add_emitter(more) is tracker
    assert tracker.emitters == [emitters[0], more]
    assert len(emitters) == 1


def test_an_emitter_that_derives_from_a_durable_one_and_overrides_input_sees_the_dicts() -> None:
    """It is there to see them; and what it passes on is its business."""

    class Filter(RecordingEmitter):
        def __init__(self) -> None:
            super().__init__()
            self.inputs: list[dict[str, str]] = []

        def input(self, payload: dict[str, str]) -> None:
            self.inputs.append(payload)

    emitter = Filter()
    eid = Tracker("ns", emitter).track(PageView("u"))
    assert [wire["eid"] for wire in emitter.inputs] == [eid]
    assert emitter.payloads == []


def test_a_mock_is_treated_as_an_official_emitter() -> None:
    """Tests of existing projects use them."""
    emitter = mock.Mock()
    Tracker("ns", emitter).track(PageView("u"))
    assert emitter.input.call_args.args[0]["url"] == "u"


def test_track_many_gives_the_events_in_order_and_in_chunks() -> None:
    """At most 1,000 events or about 1 MiB at a time, from any iterable."""

    class Chunks(RecordingEmitter):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []

        def put_many(self, payloads: Sequence[bytes]) -> None:
            self.sizes.append(len(payloads))
            super().put_many(payloads)

    emitter = Chunks()
    tracker = Tracker("ns", emitter)
    eids = tracker.track_many(PageView(f"u{i}") for i in range(2500))
    assert emitter.sizes == [1000, 1000, 500]
    assert [(eid, f"u{i}") for i, eid in enumerate(eids)] == [(e.eid, e.wire["url"]) for e in emitter.events]
    emitter.sizes.clear()
    tracker.track_many([StructuredEvent("c", "a", "l" * 200_000)] * 12)
    assert emitter.sizes == [6, 6]
    assert tracker.track_many([]) == []


def test_track_many_stores_what_comes_before_an_event_that_is_refused() -> None:
    """And nothing of what comes after; a note says how many."""
    emitter = RecordingEmitter()
    tracker = Tracker("ns", emitter)
    with pytest.raises(InvalidEventError, match="cv: is not a field") as caught:
        tracker.track_many([PageView("a"), PageView("b"), Event({"e": "pv", "cv": "1"}), PageView("c")])
    assert caught.value.__notes__ == ["track_many: the 2 events before this one were stored"]
    assert [event.wire["url"] for event in emitter.events] == ["a", "b"]

    def source() -> Iterator[Event]:
        yield PageView("d")
        raise OSError("the file ended")

    with pytest.raises(OSError, match="the file ended"):
        tracker.track_many(source())
    assert emitter.events[-1].wire["url"] == "d"


def test_track_many_says_how_much_was_stored_when_an_emitter_fails() -> None:
    """Chunks before the one that failed."""

    class SoonFull(RecordingEmitter):
        def put_many(self, payloads: Sequence[bytes]) -> None:
            if self.payloads:
                raise QueueFullError("full")
            super().put_many(payloads)

    emitter = SoonFull()
    with pytest.raises(QueueFullError) as caught:
        Tracker("ns", emitter).track_many([PageView("u")] * 1500)
    assert caught.value.__notes__ == ["track_many: the first 1000 events were stored by all emitters"]
    assert len(emitter.payloads) == 1000


def test_track_many_holds_no_more_than_a_chunk_of_a_long_iterable() -> None:
    """Memory grows by the ids alone."""

    class Nowhere(RecordingEmitter):
        def put_many(self, payloads: Sequence[bytes]) -> None:
            pass

    events = itertools.repeat(PageView("https://acme.com/" + "x" * 500), 20_000)
    tracker = Tracker("ns", Nowhere())
    gc.collect()
    tracemalloc.start()
    eids = tracker.track_many(events)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(eids) == 20_000
    assert peak < 20_000 * 110 + 3_000_000  # the payloads together have 15 MB


def test_flush_in_the_official_form_returns_the_tracker() -> None:
    """Waiting or not, on emitters of either kind."""
    custom = OfficialStyleEmitter()

    class Durable(RecordingEmitter):
        def __init__(self) -> None:
            super().__init__()
            self.timeouts: list[float | None] = []

        def flush(self, timeout: float | None = None) -> bool:
            self.timeouts.append(timeout)
            return False

    emitter = Durable()
    tracker = Tracker("ns", [emitter, custom])
    assert tracker.flush() is tracker
    assert tracker.flush(is_async=True) is tracker
    assert tracker.flush(True) is tracker
    assert emitter.timeouts == [None, 0.0, 0.0]
    assert custom.flushes == ["sync_flush", "flush", "flush"]


def test_seconds_in_the_place_of_is_async_are_refused() -> None:
    """`flush(5)` would not wait at all, though it reads as if it did for five seconds."""
    with pytest.raises(ConfigurationError, match="timeout="):
        Tracker("ns", RecordingEmitter()).flush(5)  # type: ignore[call-overload]


def test_flush_with_a_timeout_says_whether_the_queues_are_empty() -> None:
    """All of them, within one deadline."""

    class Slow(RecordingEmitter):
        def __init__(self, answer: bool) -> None:
            super().__init__()
            self.answer = answer
            self.timeouts: list[float | None] = []

        def flush(self, timeout: float | None = None) -> bool:
            self.timeouts.append(timeout)
            return self.answer

    done, undone = Slow(True), Slow(False)
    assert Tracker("ns", [done, OfficialStyleEmitter()]).flush(timeout=5) is True
    assert Tracker("ns", [undone, done]).flush(timeout=None) is False
    assert done.timeouts[0] is not None
    assert 4 < done.timeouts[0] <= 5
    assert [None] == undone.timeouts == done.timeouts[1:]


def test_close_closes_every_emitter_even_if_one_fails() -> None:
    """Those that cannot be closed are flushed; the error is raised at the end."""

    class Closable(OfficialStyleEmitter):
        closed = False

        def close(self) -> None:
            self.closed = True

    durable, flushed, closable = RecordingEmitter(), OfficialStyleEmitter(), Closable()
    assert Tracker("ns", [durable, flushed, closable]).close(timeout=1) is True
    assert (durable.is_closed, flushed.flushes, closable.closed) == (True, ["sync_flush"], True)
    durable = RecordingEmitter()
    with pytest.raises(QueueFullError, match="one is full"):
        Tracker("ns", [FailingEmitter("one"), durable]).close()
    assert durable.is_closed


def test_a_tracker_is_closed_at_the_end_of_a_with_block() -> None:
    """The block's own exception is not hidden."""
    emitter = RecordingEmitter()
    with pytest.raises(KeyError), Tracker("ns", emitter):
        raise KeyError
    assert emitter.is_closed


def test_a_complete_payload_is_an_events_finished_fields() -> None:
    """It is given to no emitter."""
    emitter = RecordingEmitter()
    payload = Tracker("ns", emitter).complete_payload(PageView("u"))
    assert set(payload.get()) == {"e", "url", "p", "tv", "tna", "eid", "dtm"}
    assert emitter.payloads == []


def test_payloads_can_be_tracked_as_in_the_older_generation() -> None:
    """Completed and tracked in one call, or given as they are; both return the tracker."""
    emitter = RecordingEmitter()
    tracker = Tracker(emitter, namespace="ns")
    payload = Payload({"e": "pv", "url": "u"})
    context = [SelfDescribingJson(SCHEMA, {"a": 1})]
    assert tracker.complete_payload(payload, context, 5, Subject().set_user_id("bob")) is tracker
    completed = emitter.events[0]
    assert (completed.wire["uid"], completed.wire["ttm"], completed.contexts) == ("bob", "5", context)
    assert tracker.track(Payload(completed.wire)) is tracker
    assert emitter.events[0] == emitter.events[1]
    assert payload.get() == {"e": "pv", "url": "u"}


def test_a_payload_without_an_id_and_a_time_gets_them() -> None:
    """A resend without an id would be another event downstream, and one without a time would happen when it arrives."""
    first, second = RecordingEmitter(), RecordingEmitter()
    tracker = Tracker([first, second])
    for _ in range(2):
        tracker.track(Payload({"e": "pv", "p": "pc", "tv": "py-0.9.0"}))
    assert first.payloads == second.payloads
    assert len({event.eid for event in first.events}) == 2
    assert all(abs(int(event.wire["dtm"]) - time.time() * 1000) < 60_000 for event in first.events)


def test_what_is_written_into_the_trackers_own_fields_reaches_the_next_event() -> None:
    """They are a public attribute on the official tracker."""
    emitter = RecordingEmitter()
    tracker = Tracker("ns", emitter)
    tracker.track(PageView("u"))
    tracker.standard_nv_pairs["aid"] = "shop"
    tracker.track(PageView("u"))
    assert [event.wire.get("aid") for event in emitter.events] == [None, "shop"]


def test_many_threads_can_track_at_once() -> None:
    """Also while the subject changes: every event is whole, and has one of its states."""
    emitter = RecordingEmitter()
    subject = Subject()
    tracker = Tracker("ns", emitter, subject)
    stop = threading.Event()

    def change() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            subject.set_user_id(str(number)).set_lang(str(number))

    def track() -> None:
        for _ in range(500):
            tracker.track(StructuredEvent("c", "a", "l", "p", 1))

    changer = threading.Thread(target=change)
    workers = [threading.Thread(target=track) for _ in range(4)]
    for thread in (changer, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    changer.join()
    assert len({event.eid for event in emitter.events}) == 2000
    assert all(re.fullmatch("[0-9]+", event.wire.get("uid", "0")) for event in emitter.events)


def test_a_signal_handler_may_track_while_track_is_running() -> None:
    """On the same thread, at any point of it; neither event is harmed."""
    emitter = RecordingEmitter()
    tracker = Tracker("ns", emitter, Subject().set_user_id("u"))
    from_handler: list[str] = []

    def handle(*_: object) -> None:
        from_handler.append(tracker.track(PageView("handler")))

    eids = []
    previous = signal.signal(signal.SIGVTALRM, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        while len(from_handler) < 20:
            eids.append(tracker.track(StructuredEvent("c", "a")))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
    assert sorted([*eids, *from_handler]) == sorted(event.eid for event in emitter.events)


def test_data_may_change_while_it_is_tracked() -> None:
    """Another thread's doing; each event is whole and sound, as the data was at some moment."""
    emitter = RecordingEmitter()
    tracker = Tracker("ns", emitter)
    data: dict[str, int] = {}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            data["a"] = data["b"] = 1
            data.clear()

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(3000):
            tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, data)))
    finally:
        stop.set()
        changer.join()
    assert len(emitter.events) == 3000
    assert {frozenset(event.data) for event in emitter.events} <= set(map(frozenset, ["", "a", "ab", "b"]))


def test_importing_the_package_configures_no_logging() -> None:
    """Neither handlers of the root logger nor a level."""
    program = """
import logging
import durable_tracker
assert not logging.getLogger().handlers
assert logging.getLogger("durable_tracker").level == logging.NOTSET
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_signatures_and_representations_show_what_there_is() -> None:
    """In `help`, in an editor, in a traceback."""
    names = "namespace emitters subject app_id encode_base64 json_encoder on_invalid"
    assert list(inspect.signature(Tracker).parameters) == names.split()
    emitter = RecordingEmitter()
    assert repr(Tracker("shop", emitter, app_id="web")) == f"<Tracker 'shop' of 'web' to [{emitter!r}]>"
    assert repr(Tracker("shop", emitter)) == f"<Tracker 'shop' to [{emitter!r}]>"
    assert repr(Subject().set_user_id("u")) == "<Subject {'p': 'pc', 'uid': 'u'}>"
    assert repr(StructuredEvent("a", "b")) == "<StructuredEvent {'e': 'se', 'se_ca': 'a', 'se_ac': 'b'}>"
    content = SelfDescribingJson("iglu:com.acme/x/jsonschema/1-0-0", {"a": 1})
    assert repr(SelfDescribing(content)) == f"<SelfDescribing {content!r}>"
    assert repr(Payload({"e": "pv"})) == "Payload({'e': 'pv'})"
    for made in (Emitter, AsyncEmitter, PageView, PagePing, ScreenView, StructuredEvent, SelfDescribing, Event):
        kinds = {parameter.kind for parameter in inspect.signature(made).parameters.values()}
        assert inspect.Parameter.VAR_POSITIONAL not in kinds
