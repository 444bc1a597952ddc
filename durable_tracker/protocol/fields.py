"""The rules of the Snowplow tracker protocol that an event has to keep.

The collector answers 200 to anything, and one malformed event fails every event of its request downstream. So each
rule is checked here, before an event is queued. Three public documents are the source of them all, and are named
where a rule is stated:

- `payload_data`: iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4, the schema of a POST body: which
  fields there are, that all are strings, that `tv`, `p` and `e` are required;
- "Enrich: conversions": how Enrich parses a field; an event with one that it cannot parse is a failed event;
- "Enrich: atomic field limits": the longest text that a column takes, by default; configurable downstream, hence
  logged rather than refused.

Everything here is safe to call from any thread and from a signal handler.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
import types
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from durable_tracker._version import __version__
from durable_tracker.errors import InvalidEventError
from durable_tracker.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

TRACKER_VERSION: Final = f"durable-py-{__version__}"
"""The value of `tv`. Events say who made them, so the prefix is this library's own."""

UNSTRUCT_EVENT_SCHEMA: Final = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
CONTEXTS_SCHEMA: Final = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
PAYLOAD_DATA_SCHEMA: Final = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"

DEFAULT_PLATFORM: Final = "pc"
PLATFORMS: Final = frozenset({"web", "mob", "pc", "srv", "app", "tv", "cnsl", "iot", "headset"})
EVENT_CODES: Final = frozenset({"pv", "pp", "se", "ue", "tr", "ti", "ev"})
"""The kinds of event that pass. `ad` is left out: Enrich has no schema for it, so it always fails."""
REQUIRED_FIELDS: Final = ("tv", "p", "e")

EVENT_SIZE_MAX: Final = 980_000
"""Bytes of one encoded event. Collectors drop a request whose record exceeds 1,000,000 bytes, and answer 200."""
GET_QUERY_SIZE_MAX: Final = 20_000
"""Bytes of the querystring of a GET. Collectors refuse a request line above 20,480 bytes; path and `stm` take some."""
NESTING_MAX: Final = 50
"""Levels of a JSON field, its envelope and the innermost scalar included (Enrich: `maxJsonDepth`)."""
NESTING_EVERYWHERE: Final = 40
"""Levels that every pipeline takes, Micro's too; beyond them there is a warning."""

INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1
_MS_MIN: Final = -62_167_219_200_000  # the years 0 to 9999, all that a timestamp column holds
_MS_MAX: Final = 253_402_300_799_999
_CURRENCY_SIZE_MAX: Final = 3
_SHOWN_SIZE_MAX: Final = 80
_EXPONENT_MAX: Final = 400
_INT32_DIGITS: Final = 10
_LOGGED_MAX: Final = 1000
_BOOLEANS: Final = ("bool", "bool_")  # numpy's have a __float__

_SCHEMA_URI = re.compile(
    r"iglu:[a-zA-Z0-9_.-]+/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/([1-9][0-9]*)-(0|[1-9][0-9]*)-(0|[1-9][0-9]*)"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_DIMENSIONS = re.compile(r"([0-9]{1,10})x([0-9]{1,10})")

_TEXTLESS = (
    bytes,
    bytearray,
    memoryview,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.CoroutineType,
    types.GeneratorType,
)
_logged_lengths: set[str] = set()
_logged_textless: set[tuple[str, type]] = set()


def shown(value: object) -> str:
    """Return a value as an error message shows it: cut short, and whatever its `repr` does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an event is refused for its own reason, not for a bug in a repr
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_SIZE_MAX else f"{text[:_SHOWN_SIZE_MAX]}..."


def text_value(field: str, value: object) -> str:
    """Return `str(value)`, which any text field can carry. Called once per value, outside locks.

    What has no text of its own, such as a function or bytes, is returned in the form that `str` gives it, and logged
    once per field and type.

    Raises:
        InvalidEventError: `str(value)` raised an error.
    """
    if type(value) is str:
        return value
    try:
        text = str(value)
    except Exception as error:
        rule = f"must have a text, but str() of {shown(value)} of type {type(value).__name__} raised {error!r:.80}"
        raise InvalidEventError(field, rule) from error
    kind = type(value)
    textless = isinstance(value, _TEXTLESS) or (kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__)
    if textless and (field, kind) not in _logged_textless and len(_logged_textless) < _LOGGED_MAX:
        _logged_textless.add((field, kind))
        extra = {"field": field, "type": kind.__name__, "outcome": "sent; said once per field and type"}
        logger.warning("event.field_without_text", extra=extra)
    return str.__str__(text)


def _exact(value: object) -> int | Decimal | None:
    """Return a number that is no boolean as it is: by `__index__`, its own text, or `__float__`. None if it is none."""
    if isinstance(value, (bool, str, bytes)) or type(value).__name__ in _BOOLEANS:
        return None
    with contextlib.suppress(Exception):
        return operator.index(value)  # type: ignore[arg-type]  # whatever has __index__, numpy's integers too
    if not hasattr(value, "__float__"):
        return None
    with contextlib.suppress(Exception):
        text = str(value)
        number = Decimal(text if _DECIMAL.fullmatch(text) else float(value))
        if number.is_finite() and number.adjusted() <= _EXPONENT_MAX:
            return number
    return None


def integer_value(field: str, value: object, lowest: int = INT32_MIN, highest: int = INT32_MAX) -> str:
    """Return the digits of an integer, given as an integral number or as its digits (Enrich: conversions).

    Raises:
        InvalidEventError: `value` is a boolean, is not integral (the text "1.0" is not either), or is out of range.
    """
    number: int | None = None
    if isinstance(value, str):
        if _INTEGER.fullmatch(value) and lowest <= int(value) <= highest:
            return str.__str__(value)
    else:
        exact = _exact(value)
        number = int(exact) if exact is not None and exact == int(exact) else None
    if number is None or not lowest <= number <= highest:
        raise InvalidEventError(field, f"must be an integer from {lowest} to {highest}, but is {shown(value)}")
    return str(number)


def milliseconds_value(field: str, value: object) -> str:
    """Return a point in time as whole milliseconds since 1970 UTC; a fraction is cut off.

    Raises:
        InvalidEventError: `value` is not a finite number, or lies outside the years 0 to 9999.
    """
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return integer_value(field, value, _MS_MIN, _MS_MAX)
    exact = _exact(value)
    if exact is None:
        raise InvalidEventError(field, f"must be a number of milliseconds since 1970 UTC, but is {shown(value)}")
    return integer_value(field, int(exact), _MS_MIN, _MS_MAX)


def timestamp_value(field: str, value: object) -> str:
    """Return a caller's timestamp as `milliseconds_value` does, which has to be a number.

    Raises:
        InvalidEventError: it is not, or is out of range.
    """
    if isinstance(value, str):
        raise InvalidEventError(field, f"must be a number of milliseconds since 1970 UTC, but is {shown(value)}")
    return milliseconds_value(field, value)


def decimal_value(field: str, value: object) -> str:
    """Return a finite decimal number in a form that Java's BigDecimal parses (Enrich: conversions).

    Raises:
        InvalidEventError: `value` is a boolean, is no number, or is beyond the range of a double.
    """
    if type(value) is float and math.isfinite(value):
        return repr(value)
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return str(value)
    if isinstance(value, str) or _exact(value) is not None:
        with contextlib.suppress(Exception):  # text that is no number, an integer of thousands of digits
            for text in _decimal_texts(value):
                if _DECIMAL.fullmatch(text) and math.isfinite(float(text)):
                    return text
    raise InvalidEventError(field, f"must be a finite decimal number, but is {shown(value)}")


def _decimal_texts(value: Any) -> Iterator[str]:
    """Yield the forms of a number: its own text, then those by `__index__` and `__float__`."""
    if isinstance(value, str):
        yield str.__str__(value)
        return
    yield str(value)
    if hasattr(value, "__index__"):
        yield str(operator.index(value))
    yield repr(float(value))


def uuid_value(field: str, value: object) -> str:
    """Return a UUID in its canonical form of 36 characters, given as text or as `uuid.UUID` (Enrich: conversions).

    Raises:
        InvalidEventError: `value` is neither.
    """
    if isinstance(value, UUID):
        return str(value)
    text = str.__str__(value) if isinstance(value, str) else text_value(field, value)
    if _UUID.fullmatch(text):
        return text
    raise InvalidEventError(field, f"must be a UUID such as 8-4-4-4-12 hexadecimal digits, but is {shown(value)}")


def _dimensions_value(field: str, value: object) -> str:
    match = _DIMENSIONS.fullmatch(value) if isinstance(value, str) else None
    if match is None or any(int(side) > INT32_MAX for side in match.groups()):
        raise InvalidEventError(field, f"must be WIDTHxHEIGHT in pixels, such as 1920x1080, but is {shown(value)}")
    return match.group()


def _flag_value(field: str, value: object) -> str:
    with contextlib.suppress(InvalidEventError):
        text = integer_value(field, value, 0, 1)
        if text in ("0", "1"):
            return text
    raise InvalidEventError(field, f"must be 0 or 1, but is {shown(value)}")


def _currency_value(field: str, value: object) -> str:
    text = text_value(field, value)
    if len(text) > _CURRENCY_SIZE_MAX:
        raise InvalidEventError(field, f"must be a currency code of 3 letters, such as EUR, but is {shown(text)}")
    return text


def one_of(field: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value`, which has to be one of `allowed`.

    Raises:
        InvalidEventError: it is not.
    """
    if not isinstance(value, str) or value not in allowed:
        raise InvalidEventError(field, f"must be one of {', '.join(sorted(allowed))}, but is {shown(value)}")
    return str.__str__(value)


def _choice(allowed: frozenset[str]) -> Callable[[str, object], str]:
    def rule(field: str, value: object) -> str:
        return value if type(value) is str and value in allowed else one_of(field, value, allowed)

    return rule


TEXT_SIZE_MAX: Final[Mapping[str, int]] = {
    **dict.fromkeys(("aid", "tz", "uid", "lang"), 255),
    **dict.fromkeys(("tna", "duid", "tnuid", "nuid", "ip", "cs", "fp", "f_realp", "mac"), 128),
    **dict.fromkeys(("tr_id", "tr_af", "tr_ci", "tr_st", "tr_co"), 255),
    **dict.fromkeys(("ti_id", "ti_sk", "ti_na", "ti_nm", "ti_ca"), 255),
    **dict.fromkeys(("ad_ba", "ad_ca", "ad_ad", "ad_uid", "ue_na", "sa", "sn", "st", "sp", "ctype"), 1000),
    **dict.fromkeys(("se_ca", "se_ac", "se_pr", "ua"), 1000),
    "se_la": 4096,
    "page": 2000,
    "url": 10_000,
    "refr": 10_000,
    "tv": 100,
    "cd": 12,
}
"""The text fields, and the most characters that their columns take (Enrich: atomic field limits)."""

_FLAGS = ("cookie", "f_pdf", "f_qt", "f_wma", "f_dir", "f_fla", "f_java", "f_gears", "f_ag")
_RULES: dict[str, Callable[[str, object], str]] = {
    "e": _choice(EVENT_CODES),
    "p": _choice(PLATFORMS),
    "stm": text_value,
    **dict.fromkeys(("eid", "sid"), uuid_value),
    **dict.fromkeys(("dtm", "ttm"), milliseconds_value),
    **dict.fromkeys(("vid", "tid", "ti_qu", "pp_mix", "pp_max", "pp_miy", "pp_may"), integer_value),
    **dict.fromkeys(("se_va", "tr_tt", "tr_tx", "tr_sh", "ti_pr"), decimal_value),
    **dict.fromkeys(("res", "vp", "ds"), _dimensions_value),
    **dict.fromkeys(("tr_cu", "ti_cu"), _currency_value),
    **dict.fromkeys(_FLAGS, _flag_value),
    # Their content is JSON, which `payload` checks.
    **dict.fromkeys(("ue_px", "ue_pr", "cx", "co"), text_value),
}
URL_FIELDS: Final = ("url", "refr")
URL_SIZE_SURE: Final = 255
"""Characters of an address of which no part can be too long for its column."""
_URL_PART_SIZE_MAX: Final = {"scheme": 16, "host": 255, "path": 3000, "query": 6000, "fragment": 3000}

TEXT_SIZE_SURE: Final[Mapping[str, int]] = {**TEXT_SIZE_MAX, **dict.fromkeys(URL_FIELDS, URL_SIZE_SURE)}
"""As many characters of a text field need no look."""

EVENT_JSON_FIELDS: Final = frozenset({"ue_px", "ue_pr"})
JSON_FIELDS: Final = EVENT_JSON_FIELDS | {"cx", "co"}
FIELDS: Final = frozenset(TEXT_SIZE_MAX) | frozenset(_RULES)
"""All fields that an event can have: exactly those of `payload_data`, which allows no others."""


def wire_value(field: str, value: object) -> str | None:
    """Return what `field` carries on the wire, or None if it has to be left out, as None and "" have.

    `stm` is left out too: it is stamped afresh whenever the event is sent.

    Raises:
        InvalidEventError: there is no such field, or `value` breaks its rule.
    """
    if value is None or field == "stm" or (isinstance(value, str) and not value):
        return None
    rule = _RULES.get(field)
    if rule is not None:
        return rule(field, value)
    size_max = TEXT_SIZE_MAX.get(field)
    if size_max is None:
        raise InvalidEventError(str(field), "is not a field of the tracker protocol (payload_data 1-0-4)")
    text = text_value(field, value)
    if not text:
        return None
    if len(text) > size_max:
        _say_too_long(field, len(text), size_max)
    if field in URL_FIELDS and len(text) > URL_SIZE_SURE:
        for part, size in _url_parts(text):
            if size > _URL_PART_SIZE_MAX[part]:
                _say_too_long(f"{field} ({part})", size, _URL_PART_SIZE_MAX[part])
    return text


def _say_too_long(field: str, size: int, size_max: int) -> None:
    """Log once per field that its column takes less by default: the event may become a failed event downstream."""
    if field not in _logged_lengths:
        _logged_lengths.add(field)
        extra = {"field": field, "size_max": size_max, "size": size, "outcome": "sent; said once per field"}
        logger.warning("event.field_too_long", extra=extra)


def _url_parts(text: str) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(ValueError):  # what is no URL has no parts
        parts = urlsplit(text)
        yield "scheme", len(parts.scheme)
        yield "host", len(parts.hostname or "")
        yield "path", len(parts.path)
        yield "query", len(parts.query)
        yield "fragment", len(parts.fragment)


def wire_map(pairs: Mapping[str, object]) -> dict[str, str]:
    """Return `pairs` as they go over the wire: all text, what is unset left out, in the same order.

    Raises:
        InvalidEventError: a pair breaks a rule.
    """
    values = ((field, wire_value(field, value)) for field, value in pairs.items())
    return {field: text for field, text in values if text is not None}


def require_text(field: str, value: object) -> None:
    """Refuse what is not text, or is empty.

    Raises:
        InvalidEventError: naming `field`.
    """
    if not isinstance(value, str) or not value:
        raise InvalidEventError(field, f"must be text that is not empty, but is {shown(value)}")


@lru_cache(maxsize=4096)
def _is_schema_uri(uri: str) -> bool:
    match = _SCHEMA_URI.fullmatch(uri)
    return match is not None and all(len(part) <= _INT32_DIGITS and int(part) <= INT32_MAX for part in match.groups())


def check_schema(uri: object, field: str = "schema") -> str:
    """Return `uri` if both envelope schemas accept it as a schema, and its version parses.

    Raises:
        InvalidEventError: it is not of the form iglu:vendor/name/format/1-0-0.
    """
    if not isinstance(uri, str) or not _is_schema_uri(uri):
        raise InvalidEventError(field, f"must be of the form iglu:vendor/name/jsonschema/1-0-0, but is {shown(uri)}")
    return uri


def check_query(wire: Mapping[str, str]) -> None:
    """Refuse an event that a GET cannot carry.

    Raises:
        InvalidEventError: its querystring would exceed GET_QUERY_SIZE_MAX, or its `nuid` is not a UUID, which a
            collector takes from a querystring as its own network id.
    """
    if "nuid" in wire:
        uuid_value("nuid", wire["nuid"])
    size = len(urlencode(wire))
    if size > GET_QUERY_SIZE_MAX:
        rule = f"takes {size} bytes as a querystring; a GET has room for {GET_QUERY_SIZE_MAX}, so use method='post'"
        raise InvalidEventError("event", rule)
