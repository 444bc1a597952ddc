"""Which column of a Snowplow event a key of the protocol fills, and by which conversion.

The conversions and the limits are those of Snowplow Enrich 6.10 with its default `atomicFieldsLimits`. An
event that one of them refuses is a failed event there; it is never cut short.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DEPTH_MAX: Final = 40
"""Levels of containers, envelope and the innermost scalar included, that Micro reads (`maxJsonDepth`)."""
EVENT_TYPES: Final = {
    "pv": "page_view",
    "pp": "page_ping",
    "se": "struct",
    "ev": "struct",
    "tr": "transaction",
    "ti": "transaction_item",
    "ad": "ad_impression",
    "ue": "unstruct",
}
"""What a code in `e` is called in the column `event`."""
_PLATFORMS: Final = {"web", "mob", "pc", "srv", "app", "tv", "cnsl", "iot", "headset"}
_INT32: Final = range(-(2**31), 2**31)
_MILLISECONDS: Final = range(-62_167_219_200_000, 253_402_300_800_000)  # the years 0 to 9999
UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
"""The canonical form, in either case; to be matched in full."""


def read_json(text: str) -> Any:
    """Read JSON as Enrich does: no NaN, no infinities, at most `DEPTH_MAX` levels, scalars included.

    Raises:
        ValueError: the text is something else.
    """
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH_MAX}") from None
    except ValueError as exc:
        raise ValueError(f"not JSON: {exc}") from None
    level = [document]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return document
    raise ValueError(f"nested deeper than {DEPTH_MAX}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def decode_base64(text: str) -> str:
    """Decode base64 of either alphabet, padded or not, to UTF-8 text.

    Raises:
        ValueError: it is neither.
    """
    plain = text.rstrip("=").translate({ord("+"): "-", ord("/"): "_"})
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"not base64 of UTF-8 text: {exc}") from None


def _text(limit: int) -> Callable[[str], str]:
    def convert(value: str) -> str:
        # Java counts UTF-16 units, so one character may count twice.
        if len(value) * 2 > limit and len(value.encode("utf-16-le", "surrogatepass")) // 2 > limit:
            raise ValueError(f"longer than {limit} characters")
        return value

    return convert


def _code(table: Iterable[str]) -> Callable[[str], str]:
    codes = frozenset(table)

    def convert(value: str) -> str:
        if value not in codes:
            raise ValueError(f"{value!r} is not one of {', '.join(sorted(codes))}")
        return value

    return convert


def _integer(span: range, what: str) -> Callable[[str], int]:
    pattern = re.compile(r"[+-]?[0-9]{1,19}")

    def convert(value: str) -> int:
        if not pattern.fullmatch(value) or int(value) not in span:
            raise ValueError(f"{value!r} is not {what}")
        return int(value)

    return convert


_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,10})?")
_PAIR: Final = re.compile(r"([0-9]{1,10})x([0-9]{1,10})")


def _decimal(value: str) -> float:
    if not _DECIMAL.fullmatch(value):
        raise ValueError(f"{value!r} is not a decimal number")
    return float(value)


def _flag(value: str) -> bool:
    if value not in {"0", "1"}:
        raise ValueError(f"{value!r} is neither 0 nor 1")
    return value == "1"


def _canonical_uuid(value: str) -> str:
    if not UUID.fullmatch(value):
        raise ValueError(f"{value!r} is not a canonical UUID")
    return str(uuid.UUID(value))


def _pair(value: str) -> tuple[int, int]:
    match = _PAIR.fullmatch(value)
    if match is None or int(match[1]) not in _INT32 or int(match[2]) not in _INT32:
        raise ValueError(f"{value!r} is not of the form 1024x768")
    return int(match[1]), int(match[2])


def _address(value: str) -> str:
    return _text(128)(re.split(r"[,| ]", value, maxsplit=1)[0])


class Column(NamedTuple):
    """Where a key of the protocol goes: the columns of the event, and the conversion with its rule."""

    names: tuple[str, ...]
    convert: Callable[[str], Any]


def _columns() -> dict[str, Column]:
    int32 = _integer(_INT32, "a 32-bit integer")
    milliseconds = _integer(_MILLISECONDS, "milliseconds since 1970 in the years 0 to 9999")
    table: dict[str, Column] = {
        "e": Column(("event",), _code(EVENT_TYPES)),
        "p": Column(("platform",), _code(_PLATFORMS)),
        "eid": Column(("event_id",), _canonical_uuid),
        "sid": Column(("domain_sessionid",), _canonical_uuid),
        "ip": Column(("user_ipaddress",), _address),
        "res": Column(("dvce_screenwidth", "dvce_screenheight"), _pair),
        "vp": Column(("br_viewwidth", "br_viewheight"), _pair),
        "ds": Column(("doc_width", "doc_height"), _pair),
        "cookie": Column(("br_cookies",), _flag),
        "dtm": Column(("dvce_created_tstamp",), milliseconds),
        "stm": Column(("dvce_sent_tstamp",), milliseconds),
        "ttm": Column(("true_tstamp",), milliseconds),
        "tid": Column(("txn_id",), int32),
        "vid": Column(("domain_sessionidx",), int32),
        "ti_qu": Column(("ti_quantity",), int32),
        "pp_mix": Column(("pp_xoffset_min",), int32),
        "pp_max": Column(("pp_xoffset_max",), int32),
        "pp_miy": Column(("pp_yoffset_min",), int32),
        "pp_may": Column(("pp_yoffset_max",), int32),
        "se_va": Column(("se_value",), _decimal),
        "tr_tt": Column(("tr_total",), _decimal),
        "tr_tx": Column(("tr_tax",), _decimal),
        "tr_sh": Column(("tr_shipping",), _decimal),
        "ti_pr": Column(("ti_price",), _decimal),
    }
    plugins = {"f_qt": "quicktime", "f_realp": "realplayer", "f_wma": "windowsmedia", "f_dir": "director"}
    plugins |= {"f_fla": "flash", "f_java": "java", "f_gears": "gears", "f_ag": "silverlight", "f_pdf": "pdf"}
    table |= {key: Column((f"br_features_{name}",), _flag) for key, name in plugins.items()}
    texts = """
        tna name_tracker 128, aid app_id 255, tv v_tracker 100, tz os_timezone 255, uid user_id
        255, duid domain_userid 128, nuid network_userid 128, tnuid network_userid 128, ua
        useragent 1000, lang br_lang 255, cd br_colordepth 12, cs doc_charset 128, fp
        user_fingerprint 128, url page_url 10000, page page_title 2000, refr page_referrer 10000,
        se_ca se_category 1000, se_ac se_action 1000, se_la se_label 4096, se_pr se_property 1000,
        tr_id tr_orderid 255, tr_af tr_affiliation 255, tr_ci tr_city 255, tr_st tr_state 255,
        tr_co tr_country 255, tr_cu tr_currency 3, ti_id ti_orderid 255, ti_sk ti_sku 255, ti_nm
        ti_name 255, ti_na ti_name 255, ti_ca ti_category 255, ti_cu ti_currency 3
    """
    for entry in texts.split(","):
        key, name, limit = entry.split()
        table[key] = Column((name,), _text(int(limit)))
    return table


COLUMNS: Final = _columns()
"""The conversion of each key; a key without one is taken as it is."""


def columns_of(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return a good event's columns: the converted values, and the JSON of its event and its contexts."""
    columns: dict[str, Any] = {}
    for key, value in parameters.items():
        column = COLUMNS.get(key)
        if column is not None:
            converted = column.convert(value)
            columns.update(zip(column.names, converted if isinstance(converted, tuple) else (converted,), strict=True))
    if "event" in columns:
        columns["event"] = EVENT_TYPES[columns["event"]]
    for name, encoded, plain in (("unstruct_event", "ue_px", "ue_pr"), ("contexts", "cx", "co")):
        if encoded in parameters:
            columns[name] = read_json(decode_base64(parameters[encoded]))
        elif plain in parameters:
            columns[name] = read_json(parameters[plain])
    return columns
