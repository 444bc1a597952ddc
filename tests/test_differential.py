"""The same call gives the same fields, and the same requests, as on the official tracker 1.1.0.

Compared are the fields that an emitter gets, as text, down to the bytes of the JSON in them. Left out are `eid`, `dtm`
and `tv`, which differ by nature, and `stm`, which is stamped on delivery. What else differs stands in one table
(`differences`): each entry is shown on both trackers, and MOVING.md repeats the list.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import differences
import pytest
import requests
import snowplow_tracker
import strategies
from differences import DIFFERENCES, Difference
from faulty_server import FaultyServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Case, cases, raw_payloads

from durable_tracker import events, self_describing_json, subject, tracker
from durable_tracker.testing import MemoryEngine, RecordingEmitter

official: Any = snowplow_tracker
DIFFERENT_BY_NATURE = {"eid", "dtm", "stm", "tv"}


class OfficialRecorder:
    """Takes what the official tracker hands to an emitter, and makes text of it as its POST does."""

    def __init__(self) -> None:
        self.wires: list[dict[str, str]] = []

    def input(self, payload: dict[str, Any]) -> None:
        self.wires.append({field: str(value) for field, value in payload.items()})


def perform(case: Case, library: Any, emitter: Any) -> None:
    """Make the call on the tracker of a library."""

    def make_subject(setters: dict[str, tuple[Any, ...]]) -> Any:
        made = library.Subject()
        for setter, arguments in setters.items():
            getattr(made, setter)(*arguments)
        return made

    arguments = copy.deepcopy(case.arguments)
    if case.method in ("track_self_describing_event", "track_unstruct_event"):
        arguments["event_json"] = library.SelfDescribingJson(*case.event_json)
    if case.context is not None:
        arguments["context"] = [library.SelfDescribingJson(*entity) for entity in case.context]
    if case.event_subject is not None:
        arguments["event_subject"] = make_subject(case.event_subject)
    made = library.Tracker(
        case.namespace,
        emitter,
        make_subject(case.subject),
        case.app_id,
        case.encode_base64,
        strategies.encode_exotic if case.exotic else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        result = getattr(made, case.method)(**arguments, tstamp=case.tstamp)
    assert result is made


class Ours:
    Subject = subject.Subject
    SelfDescribingJson = self_describing_json.SelfDescribingJson
    Tracker = tracker.Tracker
    Event = events.Event


def comparable(wire: dict[str, str]) -> dict[str, str]:
    return {field: text for field, text in wire.items() if field not in DIFFERENT_BY_NATURE}


MENDS = [one.mend for one in DIFFERENCES if one.mend is not None]


def as_here(case: Case, wires: list[dict[str, str]]) -> tuple[list[dict[str, str]], set[str]]:
    """Return what the official tracker's events would be here, and the names of the differences that made it so."""
    occurred: set[str] = set()
    for mend in MENDS:
        mended = mend(case, wires)
        if mended != wires:
            occurred.add(mend.__name__)
        wires = mended
    return wires, occurred


def check_same(case: Case) -> set[str]:
    theirs = OfficialRecorder()
    perform(case, official, theirs)
    recorder = RecordingEmitter()
    perform(case, Ours, recorder)
    expected, occurred = as_here(case, theirs.wires)
    assert [comparable(event.wire) for event in recorder.events] == [comparable(wire) for wire in expected]
    return occurred


PLAIN = Case(
    method="track_page_view", arguments={"page_url": "u"}, namespace="ns", app_id=None, encode_base64=True,
    subject={"set_platform": ("mob",)}, event_subject=None, context=None, event_json=("", None), tstamp=None,
    exotic=False,
)  # fmt: skip
ITEM = {"sku": "s", "price": 1, "quantity": 1, "currency": "EUR"}
SALE = {"order_id": "o", "total_value": 1, "currency": None, "items": [ITEM]}
CHANGE = {"form_id": "f", "element_id": "e", "node_name": "INPUT", "value": "v", "type_": "EMAIL"}
OCCURRING = {
    "keep_platform": replace(PLAIN, event_subject={"set_user_id": ("u",)}),
    "leave_out_time": replace(PLAIN, method="track_ecommerce_transaction", arguments=SALE),
    "keep_currency": replace(PLAIN, method="track_ecommerce_transaction", arguments=SALE, tstamp=5),
    "lower_types": replace(PLAIN, method="track_form_change", arguments=CHANGE),
}
"""A call in which each difference occurs that the random ones are allowed."""


@pytest.mark.parametrize("name", [mend.__name__ for mend in MENDS])
def test_a_difference_that_is_allowed_occurs(name: str) -> None:
    """One that has gone would hide others."""
    assert name in check_same(OCCURRING[name])


@pytest.mark.parametrize("difference", DIFFERENCES, ids=[one.text[:50] for one in DIFFERENCES])
def test_what_the_document_says_to_differ_differs(difference: Difference) -> None:
    """As it stands there, on both."""
    assert difference.theirs != difference.ours
    assert (difference.shown(official), difference.shown(differences.ours)) == (difference.theirs, difference.ours)


def test_the_document_has_the_whole_list() -> None:
    """`python tests/differences.py` writes it."""
    before, between, after = differences.parts(differences.DOCUMENT.read_text(encoding="utf-8"))
    assert between == differences.generated()
    assert before
    assert after


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_call_gives_the_same_fields_as_on_the_official_tracker(case: Case) -> None:
    """Whatever the event, the subjects, the contexts, the encoding: the same text in every field."""
    check_same(case)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_many_calls_give_the_same_fields_as_on_the_official_tracker(case: Case) -> None:
    """As above, for long."""
    check_same(case)


# ── raw payloads, subclasses, sessions ───────────────────────────────────────────────────────────────────────────────

HOWS = ("http", "send_events")


def made(lib: Any, address: str, how: str, method: str, seen: list[Any], **settings: Any) -> Any:
    """Return an emitter of a subclass that notes what it is asked to send, and hands it on."""

    class Mine(lib.Emitter):  # type: ignore[misc]
        def http_post(self, data: str) -> Any:
            if how == "http":
                seen.append([{**event, "stm": ""} for event in json.loads(data)["data"]])
            return super().http_post(data)

        def http_get(self, payload: Any) -> Any:
            if how == "http":
                seen.append([{**{field: str(value) for field, value in payload.items()}, "stm": ""}])
            return super().http_get(payload)

    class Whole(Mine):
        def send_events(self, evts: Any) -> None:
            seen.append([{**{field: str(value) for field, value in event.items()}, "stm": ""} for event in evts])
            super().send_events(evts)

    if lib is differences.ours:
        settings |= {"queue": MemoryEngine("n"), "linger": 60.0}
    kind = Whole if how == "send_events" else Mine
    return kind(address, method=method, batch_size=1 if method == "get" else 50, **settings)


def events_of(request: Any) -> list[dict[str, str]]:
    if request.body:
        data: list[dict[str, str]] = json.loads(request.body)["data"]
        return data
    return [dict(parse_qsl(urlsplit(request.line.split(" ")[1]).query))]


def sent(lib: Any, payloads: list[dict[str, Any]], how: str, method: str, **settings: Any) -> Any:
    """Return what a subclass's methods got, and the heads and the events of the requests that arrived.

    Left out are `stm`, and how the events are shared out over requests, which is a matter of time here.
    """
    seen: list[Any] = []
    session = requests.Session()
    session.headers.update(settings)
    session.auth = ("user", "pass")
    with FaultyServer() as server:
        emitter = made(lib, f"http://127.0.0.1:{server.port}", how, method, seen, session=session)
        for payload in payloads:
            emitter.input(dict(payload))
        emitter.flush()
        if lib is differences.ours:
            emitter.close(10)
    session.close()
    wanted = {"content-type", "authorization", *(name.lower() for name in settings)}
    heads = [
        (*request.line.split("?")[0].split(" ")[:2], *sorted((n, t) for n, t in request.headers.items() if n in wanted))
        for request in server.requests
    ]
    arrived = [sorted({**event, "stm": ""}.items()) for request in server.requests for event in events_of(request)]
    return [sorted(event.items()) for events in seen for event in events], set(heads), arrived


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(raw_payloads, min_size=1, max_size=4),
    st.sampled_from(HOWS),
    st.sampled_from(["post", "get"]),
)
def test_raw_payloads_subclasses_and_sessions_give_the_same_requests(
    payloads: list[dict[str, Any]], how: str, method: str
) -> None:
    """Method, path, the session's headers and auth, the fields; a subclass sees what it would see there."""
    complete = [{"dtm": 5, **payload} for payload in payloads]
    theirs, mine = (
        sent(lib, complete, how, method, **{"User-Agent": "own/1", "X-Own": "x"})
        for lib in (official, differences.ours)
    )
    assert mine == theirs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_subclassed_tracker_gives_the_same_fields(case: Case) -> None:
    """One that completes payloads in its own way, and sees every event on its way."""
    theirs, mine = OfficialRecorder(), RecordingEmitter()
    counts = [0, 0]

    def subclassed(lib: Any, place: int) -> Any:
        class Mine(lib.Tracker):  # type: ignore[misc]
            def track(self, event: Any) -> Any:
                counts[place] += 1
                return super().track(event)

            def complete_payload(self, event: Any) -> Any:
                payload = super().complete_payload(event)
                payload.add("lang", "own")
                return payload

        return _Library(lib, Mine)

    perform(case, subclassed(official, 0), theirs)
    perform(case, subclassed(Ours, 1), mine)
    expected, _ = as_here(case, theirs.wires)
    assert [comparable(event.wire) for event in mine.events] == [comparable(wire) for wire in expected]
    assert counts[0] == counts[1] == len(theirs.wires)


class _Library:
    """A library with a tracker of its own."""

    def __init__(self, library: Any, kind: type) -> None:
        self.library = library
        self.Tracker = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)
