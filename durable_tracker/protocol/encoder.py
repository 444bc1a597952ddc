"""The one way from an event to its bytes: strict JSON text, the fields around it, and the finished payload.

    pairs ──────────────► wire_members ──┐
    content, context ───► encoded_fields ┼─► _to_bytes ─► bytes      `encode`: an event of a tracker
    subject, tracker ───► Shared ────────┘             ▲
    raw payload ────────────────────────► wire_members ┘           `finished`: a payload that is complete

What the built-in JSON encoder lets through is refused where the pipeline would choke on it.

The text is the same as that of the official tracker, byte for byte: not escaped to ASCII, separated by ", " and ": ",
in the order of insertion. Everything here is safe to call from any thread and from a signal handler, and never changes
what it is given.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
from collections.abc import Iterable, Iterator
from os import urandom
from typing import TYPE_CHECKING, Any

from durable_tracker.errors import InvalidEventError
from durable_tracker.log import logger
from durable_tracker.protocol.fields import (
    CONTEXTS_SCHEMA,
    DEFAULT_PLATFORM,
    EVENT_CODES,
    EVENT_JSON_FIELDS,
    EVENT_SIZE_MAX,
    JSON_FIELDS,
    NESTING_EVERYWHERE,
    NESTING_MAX,
    REQUIRED_FIELDS,
    TEXT_SIZE_SURE,
    TRACKER_VERSION,
    UNSTRUCT_EVENT_SCHEMA,
    check_schema,
    shown,
    timestamp_value,
    wire_map,
    wire_value,
)
from durable_tracker.self_describing_json import SelfDescribingJson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    JsonEncoder = Callable[[Any], Any]
    """Called with a value that JSON has no form for. Returns one that it has, or raises TypeError."""

_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})
_LISTS = (list, tuple)  # asked first: an abstract class takes a microsecond to tell
_STAMPED_FIELDS = JSON_FIELDS | {"eid", "dtm", "ttm"}
_ASCII_FIELDS = frozenset({"ue_px", "cx", "ttm"})
_ENVELOPE_LEVELS = {"ue": 2, "cx": 3}
_said: list[str] = []
_MARGIN = NESTING_MAX - NESTING_EVERYWHERE + 1  # the scalar counts; beyond it the copy decides, and warns
_CONVERSIONS_MAX = 40
_INTEGER_BITS_MAX = 4096
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _make_encoder() -> Callable[[Any], str]:
    """Return a function from plain data to JSON text.

    `json.JSONEncoder.encode` makes a new C encoder for each call; keeping one halves the cost of a small value.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode
    chunks = make(None, _refuse, json.encoder.encode_basestring, None, ": ", ", ", False, False, False)
    return lambda value: "".join(chunks(value, 0))


encode_plain = _make_encoder()
quote: Callable[[str], str] = json.encoder.encode_basestring
"""Turns text into a JSON string, not escaped to ASCII."""


def _is_plain(value: object, levels: int) -> bool:
    """Tell whether `value` is of JSON's own types alone, with text as keys, in at most `levels` containers."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if levels <= 0 or kind not in _CONTAINERS:
        return False
    items: Any = value
    if kind is dict:
        for key in items:
            if type(key) is not str:
                return False
        items = items.values()
    for item in items:  # noqa: SIM110 - a generator would take twice as long
        if type(item) not in _SCALARS and not _is_plain(item, levels - 1):
            return False
    return True


def _plain(value: Any, levels: int, place: str, json_encoder: JsonEncoder | None) -> Any:
    """Return a plain copy of `value`, with subclasses made plain and `json_encoder` applied.

    Raises:
        InvalidEventError: something in it has no place in JSON; the message says where it is.
    """
    for _ in range(_CONVERSIONS_MAX):
        known = value is None or isinstance(value, (bool, str, int, float, dict, list, tuple))
        if known and levels <= 0:
            raise InvalidEventError(place, f"must not be nested deeper than {NESTING_MAX} levels, envelope included")
        if known and levels <= NESTING_MAX - NESTING_EVERYWHERE:
            _warn_of_nesting(place)
        if isinstance(value, dict):
            return _plain_dict(value, levels, place, json_encoder)
        if isinstance(value, (list, tuple)):
            return [_plain(item, levels - 1, f"{place}[{i}]", json_encoder) for i, item in enumerate(value)]
        if known:
            return _plain_scalar(value, place)
        if json_encoder is None:
            rule = f"must be JSON, but is of type {type(value).__name__}; a json_encoder can give it a form"
            raise InvalidEventError(place, rule)
        try:
            value = json_encoder(value)
        except TypeError as error:
            raise InvalidEventError(place, f"must be JSON, and the json_encoder refused it: {error}") from error
    raise InvalidEventError(place, "must be JSON, and the json_encoder keeps returning values that are not")


def _plain_dict(value: dict[Any, Any], levels: int, place: str, json_encoder: JsonEncoder | None) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for raw_key, item in list(value.items()):
        key = _plain_key(raw_key, place)
        if key in plain:
            raise InvalidEventError(place, f"must not have two keys that are {shown(key)} in JSON")
        plain[key] = _plain(item, levels - 1, f"{place}.{key:.40}", json_encoder)
    return plain


def _warn_of_nesting(place: str) -> None:
    if not _said:
        _said.append(place)
        extra = {"field": place[:80], "levels_max": NESTING_EVERYWHERE, "outcome": "sent; said once"}
        logger.warning("event.nested_deeply", extra=extra)


def _plain_scalar(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = str.__str__(value)
        check_text(text, place)
        return text
    if isinstance(value, int):
        if value.bit_length() > _INTEGER_BITS_MAX:
            raise InvalidEventError(place, f"must be a number of at most {_INTEGER_BITS_MAX} bits")
        return int.__index__(value)
    if not math.isfinite(value):
        raise InvalidEventError(place, f"must be a finite number, but is {value!r}, which JSON has no form for")
    return float.__float__(value)


def _plain_key(key: Any, place: str) -> str:
    """Return a key as `json.dumps` writes it."""
    if key is None or isinstance(key, (bool, int, float)):
        return encode_plain(_plain_scalar(key, place))
    if not isinstance(key, str):
        rule = f"must have text or a number as keys, but has {shown(key)} of type {type(key).__name__}"
        raise InvalidEventError(place, rule)
    check_text(key, place)
    return str.__str__(key)


def check_text(text: str, place: str) -> None:
    """Refuse text that UTF-8 has no form for.

    Raises:
        InvalidEventError: `text` holds a lone surrogate; the message says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rule = f"must be Unicode text, but holds the lone surrogate {text[error.start]!a} at {error.start}"
        raise InvalidEventError(place, rule) from None


def json_text(value: Any, field: str, json_encoder: JsonEncoder | None, levels: int = NESTING_MAX) -> str:
    """Return `value` as strict JSON text.

    Args:
        value: any JSON; of other types only what `json_encoder` gives a form.
        field: names the value in an error.
        json_encoder: called with each value that JSON has no form for; what it returns is checked likewise.
        levels: how deeply objects and arrays may nest, the scalar included; a warning is logged once beyond
            NESTING_EVERYWHERE.

    Raises:
        InvalidEventError: a value is not JSON, a key is neither text nor a number or is there twice, a number is not
            finite, text has a lone surrogate, or the nesting is too deep.
    """
    try:
        if _is_plain(value, levels - _MARGIN):
            text = encode_plain(value)
            text.encode()
            return text
    except (ValueError, TypeError, RuntimeError):
        pass  # a number or text is not sound, or another thread changed the value: the copy below says where
    return encode_plain(_plain(value, levels, field, json_encoder))


def encoded_values(values: dict[str, Any], json_encoder: JsonEncoder | None) -> dict[str, Any]:
    """Return values by their names, each as it will stand in the JSON, if there is an encoder that may change it.

    Raises:
        InvalidEventError: as `json_text`.
    """
    if json_encoder is None:
        return values
    return {name: _plain(value, NESTING_MAX, name, json_encoder) for name, value in values.items()}


def _schema_and_data(entity: object, field: str, json_encoder: JsonEncoder | None) -> tuple[str, Any]:
    if type(entity) is SelfDescribingJson:
        return entity.schema, entity.data
    to_json = getattr(entity, "to_json", None)
    pair = to_json() if callable(to_json) else None
    if json_encoder is not None and callable(to_json):
        pair = _plain(pair, NESTING_MAX, field, json_encoder)
    if not isinstance(pair, dict) or pair.keys() != {"schema", "data"}:
        raise InvalidEventError(field, f"must be a SelfDescribingJson, but is of type {type(entity).__name__}")
    return check_schema(pair["schema"], field), pair["data"]


def event_text(event_json: object, json_encoder: JsonEncoder | None) -> str:
    """Return a self-describing event in its envelope, as JSON text.

    Raises:
        InvalidEventError: as `json_text`, or it is no SelfDescribingJson.
    """
    schema, data = _schema_and_data(event_json, "event_json", json_encoder)
    text = json_text(data, "data", json_encoder, NESTING_MAX - _ENVELOPE_LEVELS["ue"])
    return f'{{"schema": "{UNSTRUCT_EVENT_SCHEMA}", "data": {{"schema": "{schema}", "data": {text}}}}}'


def contexts_text(context: Iterable[object], json_encoder: JsonEncoder | None) -> str:
    """Return an event's entities in their envelope, as JSON text.

    Raises:
        InvalidEventError: as `json_text`, or it is no iterable of SelfDescribingJson.
    """
    if type(context) not in _LISTS and (isinstance(context, str) or not isinstance(context, Iterable)):
        rule = f"must be a list of SelfDescribingJson, but is of type {type(context).__name__}"
        raise InvalidEventError("context", rule)
    levels = NESTING_MAX - _ENVELOPE_LEVELS["cx"]
    entities = []
    for index, entity in enumerate(context):
        field = f"context[{index}]"
        schema, data = _schema_and_data(entity, field, json_encoder)
        entities.append(f'{{"schema": "{schema}", "data": {json_text(data, field, json_encoder, levels)}}}')
    return f'{{"schema": "{CONTEXTS_SCHEMA}", "data": [{", ".join(entities)}]}}'


def context_list(context: Any) -> Any:
    """Return entities in a form that can be read twice: an iterator as a list, None as an empty one."""
    if context is None:
        return []
    return list(context) if type(context) not in _LISTS and isinstance(context, Iterator) else context


def to_base64(text: str) -> str:
    """Return UTF-8 text in the URL-safe alphabet, padded."""
    return binascii.b2a_base64(text.encode(), newline=False).translate(_URL_SAFE).decode("ascii")


def check_json_field(field: str, text: str) -> None:
    """Check a JSON field that did not come from a SelfDescribingJson: its encoding, envelope and inner schemas.

    Raises:
        InvalidEventError: a decoder in the pipeline would refuse it.
    """
    try:
        decoded = _strict_decode(_from_base64(text) if field in ("ue_px", "cx") else text)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidEventError(field, f"must be JSON{' in base64' * (field in ('ue_px', 'cx'))}: {error}") from None
    if not _is_plain(decoded, NESTING_MAX - 1):
        try:
            _plain(decoded, NESTING_MAX, field, None)
        except InvalidEventError as error:
            raise InvalidEventError(field, error.rule) from None
    name, envelope = ("contexts", list) if field in ("cx", "co") else ("unstruct_event", dict)
    prefix = f"iglu:com.snowplowanalytics.snowplow/{name}/jsonschema/1-0-"
    inner = decoded.get("data") if isinstance(decoded, dict) else None
    schema = decoded.get("schema") if isinstance(decoded, dict) else None
    if not isinstance(inner, envelope) or not isinstance(schema, str) or not schema.startswith(prefix):
        raise InvalidEventError(field, f"must hold the envelope {prefix}0 or a later addition to it")
    for entity in inner if isinstance(inner, list) else [inner]:
        if not isinstance(entity, dict) or entity.keys() != {"schema", "data"}:
            raise InvalidEventError(field, "must hold objects of exactly a schema and data")
        check_schema(entity["schema"], field)


def _from_base64(text: str) -> bytes:
    """Decode base64 as the pipeline does: of either alphabet, padded or not."""
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)


def _strict_decode(text: str | bytes) -> Any:
    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse_constant)


def require_fields(wire: Mapping[str, str]) -> None:
    """Refuse finished fields that lack what every event needs.

    Raises:
        InvalidEventError: naming the field.
    """
    for field in REQUIRED_FIELDS:
        if field not in wire:
            raise InvalidEventError(field, "is required in every event (payload_data 1-0-4)")
    if wire["e"] == "ue" and EVENT_JSON_FIELDS.isdisjoint(wire):
        raise InvalidEventError("ue_pr", "is required in a self-describing event, or ue_px is")


def new_uuid() -> str:
    """Return a random UUID, version 4. As `str(uuid.uuid4())`, in a third of the time."""
    digits = urandom(16).hex("-", 6)  # 8, 12 and 12 of them: two of the four hyphens are in place
    return f"{digits[:13]}-4{digits[14:17]}-{_VARIANT[digits[17]]}{digits[18:]}"


def encoded_fields(
    content: object | None,
    context: Iterable[object],
    true_timestamp: object,
    encode_base64: bool,
    json_encoder: JsonEncoder | None,
) -> dict[str, str]:
    """Return the fields that take encoding, as far as there are any.

    Args:
        content: what a self-describing event holds, or None.
        context: the event's entities.
        true_timestamp: milliseconds since 1970 UTC, or None.
        encode_base64: whether JSON goes into the fields for base64.
        json_encoder: as in `json_text`.

    Raises:
        InvalidEventError: one of them cannot be encoded.
    """
    wire: dict[str, str] = {}
    if content is not None:
        text = event_text(content, json_encoder)
        wire["ue_px" if encode_base64 else "ue_pr"] = to_base64(text) if encode_base64 else text
    if context:
        text = contexts_text(context, json_encoder)
        wire["cx" if encode_base64 else "co"] = to_base64(text) if encode_base64 else text
    if true_timestamp is not None:
        wire["ttm"] = timestamp_value("ttm", true_timestamp)
    return wire


class Shared:
    """The finished fields that the events of a tracker have in common. Not changed after it was made.

    Args:
        subject_pairs: the fields of the subject, by their names.
        own_pairs: the fields of the tracker, which win.

    Raises:
        InvalidEventError: a field breaks its rule.
    """

    def __init__(self, subject_pairs: Mapping[str, Any], own_pairs: Mapping[str, Any]) -> None:
        self.subject_pairs = subject_pairs
        self.own_pairs = own_pairs
        self.wire = {"p": DEFAULT_PLATFORM, "tv": TRACKER_VERSION, **wire_map(subject_pairs), **wire_map(own_pairs)}
        self.text = encode_plain(self.wire)[1:-1]
        self.fields = _STAMPED_FIELDS.union(self.wire)


def encode(
    pairs: Mapping[str, object],
    encoded: Mapping[str, str],
    shared: Shared,
    keeps_platform: bool = False,
    eid: str | None = None,
    dtm: str | int | None = None,
) -> tuple[str, bytes]:
    """Return an event's new id and its bytes as an emitter stores them.

    Args:
        pairs: the event's own fields, by their names.
        encoded: what `encoded_fields` returned for it; wins over `pairs`.
        shared: the fields of subject and tracker; win over `pairs`.
        keeps_platform: whether the event's own platform wins over the shared one.
        eid: the id. None: a new one.
        dtm: the time of tracking, in milliseconds. None: now.

    Raises:
        InvalidEventError: the event broke a rule of the protocol.
    """
    if eid is None:
        eid = new_uuid()
    if dtm is None:
        dtm = time.time_ns() // 1_000_000
    if not shared.fields.isdisjoint(pairs):
        own = wire_map(pairs)
        if keeps_platform and "p" in own:
            shared = Shared({**shared.wire, "p": own["p"]}, {})
        pairs = {
            field: value
            for field, value in own.items()
            if field not in encoded and field not in shared.wire and field not in ("eid", "dtm")
        }
        _check_json_fields(pairs)
    members = wire_members(pairs)
    if encoded:
        for field, text in encoded.items():
            members.append(f'"{field}": "{text}"' if field in _ASCII_FIELDS else f'"{field}": {quote(text)}')
    code = pairs.get("e")
    if not code or (code == "ue" and EVENT_JSON_FIELDS.isdisjoint(encoded)):
        require_fields({**shared.wire, **wire_map(pairs), **encoded})
    return eid, _to_bytes(f'{{"eid": "{eid}", "dtm": "{dtm}", {shared.text}, {", ".join(members)}}}')


def finished(pairs: Mapping[str, object], eid: str | None = None, dtm: str | None = None) -> bytes:
    """Return a complete event, given as fields by their names, as an emitter stores it.

    It gets an id and a time if it has none: without the one, duplicates of it cannot be told from others like it, and
    without the other, it would be placed at the time when it arrives.

    Args:
        pairs: the fields.
        eid: the id, if it has none. None: a new one.
        dtm: the time of tracking, if it has none. None: now.

    Raises:
        InvalidEventError: the event broke a rule of the protocol.
    """
    wire = wire_map(pairs)
    require_fields(wire)
    wire.setdefault("eid", eid or new_uuid())
    wire.setdefault("dtm", dtm or str(time.time_ns() // 1_000_000))
    _check_json_fields(wire)
    return _to_bytes(f"{{{', '.join(wire_members(wire))}}}")


def fields_of(payload: bytes) -> dict[str, str]:
    """Return the fields of a finished event, as a new dict."""
    fields: dict[str, str] = json.loads(payload)
    return fields


def wire_members(pairs: Mapping[str, object]) -> list[str]:
    """Return `pairs` as `wire_map` does, each as a member of a JSON object.

    Raises:
        InvalidEventError: a pair breaks a rule.
    """
    members = []
    size_max = TEXT_SIZE_SURE.get
    for field, value in pairs.items():
        if type(value) is str and 0 < len(value) <= size_max(field, 0):
            members.append(f'"{field}": {quote(value)}')
        elif field == "e" and type(value) is str and value in EVENT_CODES:
            members.append(f'"e": "{value}"')
        elif (text := wire_value(field, value)) is not None:
            members.append(f'"{field}": {quote(text)}')
    return members


def _check_json_fields(wire: Mapping[str, Any]) -> None:
    for field in JSON_FIELDS.intersection(wire):
        check_json_field(field, wire[field])


def _to_bytes(text: str) -> bytes:
    """Return the text of a finished event as UTF-8.

    Raises:
        InvalidEventError: a field is not Unicode, or the event is too large for a collector.
    """
    try:
        payload = text.encode()
    except UnicodeEncodeError:
        for field, value in json.loads(text).items():
            check_text(value, field)
        raise
    if len(payload) > EVENT_SIZE_MAX:
        rule = f"takes {len(payload)} bytes; collectors take at most {EVENT_SIZE_MAX}"
        raise InvalidEventError("event", rule)
    return payload
