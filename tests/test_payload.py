"""Payloads, and JSON made strict."""

from __future__ import annotations

import base64
import enum
import json
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from hypothesis import given
from strategies import Exotic, encode_exotic, json_values

from durable_tracker.errors import InvalidEventError
from durable_tracker.payload import Payload
from durable_tracker.protocol.encoder import json_text


@given(json_values(exotic=False))
def test_json_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    """Byte for byte, not escaped to ASCII."""
    assert json.dumps(value, ensure_ascii=False) == json_text(value, "data", None)


@given(json_values(exotic=True))
def test_a_custom_encoder_is_asked_as_the_standard_library_asks_it(value: Any) -> None:
    """Wherever something has no form in JSON."""
    expected = json.dumps(value, ensure_ascii=False, default=encode_exotic)
    assert json_text(value, "data", encode_exotic) == expected


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped one is what this is about


class Fraction(float):
    def __repr__(self) -> str:
        return "nonsense"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, '"red"'),
        ({Colour.RED: Level.HIGH}, '{"red": 3}'),
        (Point(1, 2), "[1, 2]"),
        (OrderedDict(b=1, a=2), '{"b": 1, "a": 2}'),
        (Fraction(1.5), "1.5"),
        (True, "true"),
    ],
)
def test_subclasses_of_the_json_types_are_written_as_those(value: Any, expected: str) -> None:
    """Whatever they do to their text forms."""
    assert json_text(value, "data", None) == expected


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (float("nan"), "finite"),
        ({(1, 2): 2}, "text or a number as keys"),
        ("\ud800", "surrogate"),
        (object(), "keeps returning"),
    ],
)
def test_what_a_custom_encoder_returns_is_checked_likewise(answer: object, rule: str) -> None:
    """It must not let in what is refused elsewhere."""
    with pytest.raises(InvalidEventError, match=rule):
        json_text({"a": Exotic()}, "data", lambda _: answer)


def test_a_custom_encoder_that_refuses_makes_the_event_invalid() -> None:
    """TypeError is how it says so; the reason is kept."""
    with pytest.raises(InvalidEventError, match="the json_encoder refused it: unknown") as caught:
        json_text({"a": [object()]}, "data", encode_exotic)
    assert caught.value.field == "data.a[0]"
    assert isinstance(caught.value.__cause__, TypeError)


def test_what_else_a_custom_encoder_raises_is_not_hidden() -> None:
    """A bug in it is the caller's to see."""

    def broken(_: object) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        json_text(object(), "data", broken)


def test_values_are_added_unless_they_are_unset() -> None:
    """`add` and `add_dict` skip None and empty text, and nothing else."""
    payload = Payload({"a": ""})
    payload.add("b", None)
    payload.add("c", "")
    payload.add("d", 0)
    payload.add_dict({"e": "x", "f": None})
    assert {"a": "", "d": 0, "e": "x"} == payload.get() == payload.nv_pairs


def test_a_payload_does_not_share_the_dict_that_it_is_made_from() -> None:
    """The caller's dict stays the caller's."""
    pairs = {"a": 1}
    Payload(pairs).add("b", 2)
    assert pairs == {"a": 1}


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_json_is_added_for_nothing(nothing: dict[str, Any] | None) -> None:
    """As the official one does."""
    payload = Payload()
    payload.add_json(nothing, True, "x", "y")
    assert payload.get() == {}


def test_json_is_added_plain_or_in_the_url_safe_alphabet() -> None:
    """Under one of two names."""
    payload = Payload()
    payload.add_json({"a": "\u00ff\u00fe?>"}, True, "x", "y")
    payload.add_json({"a": Exotic()}, False, "x", "y", encode_exotic)
    assert payload.get() == (
        {"x": base64.urlsafe_b64encode('{"a": "ÿþ?>"}'.encode()).decode(), "y": '{"a": {"exotic": [1, "é"]}}'}
    )
