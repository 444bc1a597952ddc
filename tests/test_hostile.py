"""Hostile values: refused at the door by name, or through queue, wire and collector byte for byte. Never in between."""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_tracker import Emitter, InvalidEventError, SelfDescribing, SelfDescribingJson, StructuredEvent, Tracker
from durable_tracker.collector import Collector
from durable_tracker.delivery.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCHEMA = "iglu:com.acme/hostile/jsonschema/1-0-0"


class Recording:
    """A transport that keeps the bytes."""

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def send(self, events: Sequence[bytes]) -> Reply:
        self.events += events
        return Reply(status=200)

    def close(self) -> None:
        pass


def nested(levels: int, *, as_list: bool = False) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value] if as_list else {"down": value}
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


THROUGH: dict[str, Any] = {
    "NUL": {"a\0b": "c\0d"},
    "controls": {"k": "".join(map(chr, range(32))) + "\x7f\x80\x9f"},
    "line ends": {"k": "\r\n\u2028\u2029\x85"},
    "quotes and backslashes": {'"\\': '\\"\\\\u0000\\', "/": "</script>"},
    "beyond the basic plane": {"\U0001f600": "\U0010ffff\U00010000"},
    "non-characters": {"k": "\ufffe\uffff\ufdd0\ufeff"},
    "combining and right to left": {"k": "e\u0301 \u202eabc\u202c \u200d\u200b"},
    "an empty key": {"": "", " ": " ", ".": {"..": "."}},
    "keys of other worlds": {"__proto__": {}, "constructor": 1, "$ref": "#", "stm": "5", "eid": "none", "e": "pv"},
    "what looks like our own": {"k": '","stm":"1"}', "dtm": '"dtm":"0"', "data": [{"data": []}]},
    "large integers": {"k": [2**63, -(2**63) - 1, 2**64, 10**300]},
    "extreme floats": {"k": [1.7976931348623157e308, 5e-324, -0.0, 1e22, 0.1]},
    "depth": nested(30),
    "depth of lists": {"k": nested(30, as_list=True)},
    "many keys": {f"k{n}": n for n in range(5000)},
    "half a megabyte": {"k": "x\u00e9\U0001f600" * 60_000},
    "percent and plus": {"k": "%00%zz+&=;#?"},
    "sql": {"k": "'); DROP TABLE events; --"},
    "nothing": {"k": None, "t": True, "f": False, "l": [], "o": {}},
}

REFUSED: dict[str, tuple[Any, str]] = {
    "a lone surrogate": ({"k": "a\ud800b"}, "data"),
    "a lone surrogate in a key": ({"\udfff": 1}, "data"),
    "a reversed pair": ({"k": "\ude00\ud83d"}, "data"),
    "not a number": ({"k": math.nan}, "data"),
    "infinity": ({"k": [1, -math.inf]}, "data"),
    "a decimal that is none": ({"k": Decimal("NaN")}, "data"),
    "an integer beyond all": ({"k": 10**5000}, "data"),
    "a bottomless well": (nested(100_000), "data"),
    "a bottomless well of lists": ({"k": nested(100_000, as_list=True)}, "data"),
    "deeper than pipelines read": (nested(60), "data"),
    "itself": (cyclic(), "data"),
    "20 MB": ({"k": "x" * 20_000_000}, "bytes"),
    "20 MB in small pieces": ({"k": ["x" * 100] * 200_000}, "bytes"),
    "no JSON": ({"k": object()}, "data"),
    "a type": ({"k": dict}, "data"),
}


@pytest.mark.parametrize("encode_base64", [True, False])
def test_odd_but_lawful_data_arrives_as_it_was(tmp_path: Path, encode_base64: bool) -> None:
    """Stored, delivered and read again: the same values, and the stored bytes but for `stm`."""
    wire = Recording()
    emitter = Emitter("http://127.0.0.1:9", queue_dir=tmp_path / "wire", transport=wire, linger=0)
    with (
        Collector() as collector,
        Tracker(Emitter(collector.url, queue_dir=tmp_path, linger=0), encode_base64=encode_base64) as tracker,
        Tracker(emitter, encode_base64=encode_base64) as wired,
    ):
        by_eid = {tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, data))): data for data in THROUGH.values()}
        for data in THROUGH.values():
            wired.track(SelfDescribing(SelfDescribingJson(SCHEMA, data)))
        assert tracker.flush(timeout=20)
        assert wired.flush(timeout=20)
        assert collector.counts() == {"total": len(THROUGH), "good": len(THROUGH), "bad": 0}
        assert collector.anomalies == []
        for received in collector.events:
            assert _same(by_eid.pop(received["eid"]), data_of(received))
        assert by_eid == {}
    assert len(THROUGH) == len(wire.events)
    for data, sent in zip(THROUGH.values(), wire.events, strict=True):
        assert _same(data, data_of(json.loads(sent)))


def data_of(received: dict[str, Any]) -> Any:
    """Return the data within a self-describing event's envelope."""
    if "ue_px" in received:
        encoded = received["ue_px"]
        text = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    else:
        text = received["ue_pr"]
    return json.loads(text)["data"]["data"]


def _same(expected: Any, actual: Any) -> bool:
    """Compare as JSON text, which also tells -0.0 from 0, and True from 1."""
    return json.dumps(expected, sort_keys=True) == json.dumps(actual, sort_keys=True)


@pytest.mark.parametrize("encode_base64", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_unlawful_data_is_refused_by_name_and_the_next_event_goes_through(
    tmp_path: Path, case: str, encode_base64: bool
) -> None:
    """A ValueError that names the field; nothing is queued, and the queue is as good as before."""
    data, named = REFUSED[case]
    emitter = Emitter("http://127.0.0.1:9", queue_dir=tmp_path, drain=False)
    with Tracker(emitter, encode_base64=encode_base64) as tracker:
        with pytest.raises(InvalidEventError, match=named) as caught:
            tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, data)))
        assert len(str(caught.value)) < 1000
        assert emitter.stats().ledger.accepted == 0
        tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, {"k": "fine"})))
        assert emitter.stats().ledger.pending == 1


@pytest.mark.parametrize("text", ["\0", "a\0b", "\x1f", "\u2028", "\U0001f600", "x" * 100_000, "'", '"', "\\", "%s{}"])
def test_odd_text_in_plain_fields_arrives_as_it_was(tmp_path: Path, text: str) -> None:
    """Category, action, label and property of a structured event."""
    wire = Recording()
    with Tracker(Emitter("http://127.0.0.1:9", queue_dir=tmp_path, transport=wire, linger=0)) as tracker:
        tracker.track(StructuredEvent(text, text, text, text, 1.5))
        assert tracker.flush(timeout=20)
    (sent,) = map(json.loads, wire.events)
    assert [sent[name] for name in ("se_ca", "se_ac", "se_la", "se_pr")] == [text] * 4


def test_one_bad_event_among_many_is_refused_alone(tmp_path: Path) -> None:
    """The error tells how many stand before it; those are delivered, and can be followed by the rest."""
    wire = Recording()
    emitter = Emitter("http://127.0.0.1:9", queue_dir=tmp_path, transport=wire, linger=0)
    with Tracker(emitter) as tracker:
        events = [StructuredEvent("c", "a", str(n)) for n in range(20)]
        bad = StructuredEvent("c", "a", "\ud800")
        with pytest.raises(InvalidEventError, match="se_la") as caught:
            tracker.track_many([*events[:12], bad, *events[12:]])
        assert "12 events before" in caught.value.__notes__[0]
        tracker.track_many(events[12:])
        assert tracker.flush(timeout=20)
    assert [str(n) for n in range(20)] == [json.loads(one)["se_la"] for one in wire.events]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=30)  # surrogates included
    | st.integers(min_value=10**20, max_value=10**40),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(), max_size=10), inner, max_size=5)
    ),
    max_leaves=20,
)


def is_lawful(value: Any) -> bool:
    """Return whether strict JSON in UTF-8 can say it."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.dictionaries(st.text(st.characters(), max_size=10), VALUES, max_size=6), encode_base64=st.booleans())
def test_any_data_is_refused_or_arrives_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], encode_base64: bool
) -> None:
    """What strict JSON can say goes through, whatever it is; what it cannot say is refused."""
    wire = Recording()
    folder = tmp_path_factory.mktemp("any")
    emitter = Emitter("http://127.0.0.1:9", queue_dir=folder, transport=wire, linger=0)
    with Tracker(emitter, encode_base64=encode_base64) as tracker:
        if not is_lawful(data):
            with pytest.raises(InvalidEventError):
                tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, data)))
            assert emitter.stats().ledger.accepted == 0
            return
        tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, data)))
        assert tracker.flush(timeout=20)
    (sent,) = map(json.loads, wire.events)
    assert _same(data, data_of(sent))


def test_what_the_caller_passed_is_not_changed(tmp_path: Path) -> None:
    """Also when it is refused."""
    data = {"k": ["\ud800", {"when": datetime(2024, 1, 1)}]}  # noqa: DTZ001 (hostile on purpose)
    before = repr(data)
    with (
        Tracker(Emitter("http://127.0.0.1:9", queue_dir=tmp_path, drain=False)) as tracker,
        pytest.raises(InvalidEventError),
    ):
        tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, data)))
    assert repr(data) == before
