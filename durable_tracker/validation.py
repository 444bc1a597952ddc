"""What a Snowplow pipeline makes of one request: which events pass, which become bad rows, and why.

    request ─┬─ not readable as a request ────────────► collector_payload_format_violation ─┐
             ├─ no adapter for /<vendor>/<version> ───► adapter_failures                    ├ one bad row
             ├─ batch breaks payload_data ────────────► tracker_protocol_violations         ┘ per request
             └─ events, each by itself ─┬─ a value, an envelope or a schema ► schema_violations ─┐ one bad row
                                        ├─ not an event at all ────────────► enrichment_failures ┘ per event
                                        └─ good

The order and the names of the bad rows are those of Snowplow Enrich 6.10. The checks share no code with those that the
tracker makes before it queues an event, so that a mistake in one is seen by the other. Nothing here keeps state but
compiled schemas; every function may be called from any thread.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SNOWPLOW: Final = "com.snowplowanalytics.snowplow"
DEPTH_MAX: Final = 40
"""Containers inside one another, envelope included, that Enrich reads (`maxJsonDepth`)."""
SINK_PAYLOAD_MAX: Final = 1_048_576
"""Bytes above which a collector with a bounded sink drops a request as a whole (`maxPayloadSize`)."""
_BODY_KEPT_MAX: Final = 65_536
_INT32: Final = range(-(2**31), 2**31)
_MILLISECONDS: Final = range(-62_167_219_200_000, 253_402_300_800_000)  # the years 0 to 9999
_IGLU: Final = re.compile(r"iglu:([\w.-]+)/([\w-]+)/([\w-]+)/([0-9]+-[0-9]+-[0-9]+)", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_SCHEMA_DIR: Final = Path(__file__).parent / "schemas"
_DRAFT_4: Final = "http://json-schema.org/draft-04/schema#"
_CONTENT_TYPES: Final = {"application/json", "application/json; charset=utf-8"}
_BAD_ROW_VERSIONS: Final = {
    "adapter_failures": "1-0-0",
    "collector_payload_format_violation": "1-0-0",
    "enrichment_failures": "2-0-1",
    "schema_violations": "2-0-1",
    "size_violation": "1-0-0",
    "tracker_protocol_violations": "1-0-1",
}
# What later versions of payload_data added to the one before.
_PAYLOAD_DATA_ADDED: Final = {
    "1-0-1": {"ua"},
    "1-0-2": {"tnuid"},
    "1-0-3": {"stm", "sid"},
    "1-0-4": {"ttm"},
}
_EVENT_TYPES: Final = {
    "pv": ("page_view", f"iglu:{SNOWPLOW}/page_view/jsonschema/1-0-0"),
    "pp": ("page_ping", f"iglu:{SNOWPLOW}/page_ping/jsonschema/1-0-0"),
    "se": ("struct", "iglu:com.google.analytics/event/jsonschema/1-0-0"),
    "ev": ("struct", "iglu:com.google.analytics/event/jsonschema/1-0-0"),
    "tr": ("transaction", f"iglu:{SNOWPLOW}/transaction/jsonschema/1-0-0"),
    "ti": ("transaction_item", f"iglu:{SNOWPLOW}/transaction_item/jsonschema/1-0-0"),
    "ad": ("ad_impression", f"iglu:{SNOWPLOW}/ad_impression/jsonschema/1-0-0"),
    "ue": ("unstruct", ""),
}
_PLATFORMS: Final = {"web", "mob", "pc", "srv", "app", "tv", "cnsl", "iot", "headset"}


class Request:
    """One HTTP request for events, as far as it was read.

    Attributes:
        number: counts the requests for events since the collector started, from 1.
        method: as sent, upper case.
        path: without the query.
        query: without the question mark, still percent-encoded.
        headers: by lower-case name; repeated ones joined with a comma.
        header_lines: as sent.
        peer: the sender's IP address.
        received_ms: when the head had been read, in milliseconds since 1970.
        network_user_id: from the cookie, or invented.
    """

    def __init__(
        self,
        *,
        number: int,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        header_lines: tuple[str, ...],
        peer: str,
        received_ms: int,
        network_user_id: str,
        read_body: Callable[[], bytes],
    ) -> None:
        self.number = number
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.header_lines = header_lines
        self.peer = peer
        self.received_ms = received_ms
        self.network_user_id = network_user_id
        self._read_body = read_body

    @cached_property
    def body(self) -> bytes:
        """The body. The first use reads it from the connection; a request reset before that was never read."""
        return self._read_body()

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The wire maps in the request, unjudged; none if it cannot be read."""
        return read_events(self) or []

    @property
    def api(self) -> tuple[str, str]:
        """Vendor and version: those in the path, else those of the pixel."""
        vendor, _, version = self.path.strip("/").partition("/")
        return (vendor, version) if version else (SNOWPLOW, "tp1")

    def envelope(self) -> dict[str, Any]:
        """Return what Snowplow Micro says of a request beside its parameters, ready for JSON."""
        vendor, version = self.api
        return {
            "api": {"vendor": vendor, "version": version},
            "contentType": self.headers.get("content-type"),
            "source": {"name": "durable_tracker.collector", "encoding": "UTF-8", "hostname": None},
            "context": {
                "timestamp": self.received_ms,
                "ipAddress": self.peer,
                "useragent": self.headers.get("user-agent"),
                "refererUri": self.headers.get("referer"),
                "headers": list(self.header_lines),
                "userId": self.network_user_id,
            },
        }

    def collector_payload(self) -> dict[str, Any]:
        """Return the whole request, its body cut to 64 KiB, ready for JSON."""
        pairs = parse_qsl(self.query, keep_blank_values=True, errors="replace")
        return {
            **self.envelope(),
            "querystring": [{"name": name, "value": value} for name, value in pairs],
            "body": self.body[:_BODY_KEPT_MAX].decode(errors="replace") or None,
        }


class GoodEvent(NamedTuple):
    """An event that the pipeline would load.

    `parameters` is the wire map; `event_type`, `schema` and `contexts` are what Snowplow reports of it.
    """

    envelope: dict[str, Any]
    parameters: dict[str, str]
    event_type: str
    schema: str
    contexts: tuple[str, ...]


class BadRow(NamedTuple):
    """What the pipeline would set aside: one event, or a whole request if `parameters` is None."""

    request: dict[str, Any]
    parameters: dict[str, str] | None
    kind: str
    messages: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the self-describing bad row."""
        version = _BAD_ROW_VERSIONS[self.kind]
        return {
            "schema": f"iglu:{SNOWPLOW}.badrows/{self.kind}/jsonschema/{version}",
            "data": {
                "processor": {"artifact": "durable_tracker.collector", "version": "1"},
                "failure": {"messages": list(self.messages)},
                "payload": {"raw": self.parameters, **self.request},
            },
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one request."""

    good: tuple[GoodEvent, ...] = ()
    bad: tuple[BadRow, ...] = ()


class Registry:
    """The schemas by which self-describing data is judged: those of this package, and the user's.

    Data under a well-formed `iglu:` address that no schema is known for is accepted, since the schema may well be in a
    registry that this process cannot see; with `strict` it is refused, as Snowplow refuses what it cannot resolve.

    Args:
        strict: refuse data whose schema is unknown.
        directories: searched, with all below them, for self-describing JSON Schemas of any file name.

    Raises:
        ConfigurationError: a directory is missing, or a `.json` file in it is not a self-describing JSON Schema.
    """

    def __init__(self, *, strict: bool = False, directories: Iterable[Path] = ()) -> None:
        self._strict = strict
        self._own: dict[str, dict[str, Any]] = {}
        self._checks: dict[str, Callable[[Any], Any]] = {}
        for directory in directories:
            if not directory.is_dir():
                raise ConfigurationError(f"schemas: {directory} is not a directory")
            for file in sorted(path for path in directory.rglob("*") if path.is_file()):
                self._load(file)

    def _load(self, file: Path) -> None:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            block = document["self"]
            uri = f"iglu:{block['vendor']}/{block['name']}/{block['format']}/{block['version']}"
        except (ValueError, LookupError, TypeError) as exc:
            if file.suffix != ".json":
                return
            raise ConfigurationError(
                f"schemas: {file} is not a self-describing JSON Schema: {exc!r}"
            ) from None
        self._own[uri] = document

    def document(self, uri: str) -> dict[str, Any] | None:
        """Return the schema at an `iglu:` address, or None if there is none."""
        return self._own.get(uri) or _shipped(uri)

    def check(self, uri: str, data: Any) -> str | None:
        """Return what is wrong with `data` under the schema at `uri`, or None if nothing is."""
        check = self._checks.get(uri)
        if check is None:
            document = self._own.get(uri)
            found = _compile(document) if document else _shipped_check(uri)
            if found is None:
                return f"{uri}: no such schema" if self._strict else None
            check = self._checks[uri] = found
        try:
            check(data)
        except ValueError as exc:  # fastjsonschema's own error is one
            return f"{uri}: {exc}"
        except RecursionError:
            return f"{uri}: nested too deeply"
        return None


def _compile(document: dict[str, Any]) -> Callable[[Any], Any]:
    # Here, so that importing the module is light: only a request that is judged pays for the library.
    import fastjsonschema  # noqa: PLC0415

    definition = {**document, "$schema": _DRAFT_4}
    check: Callable[[Any], Any] = fastjsonschema.compile(definition, use_default=False)
    return check


@lru_cache(maxsize=256)
def _shipped(uri: str) -> dict[str, Any] | None:
    match = _IGLU.fullmatch(uri)
    if match is None or match[3] != "jsonschema":
        return None
    vendor, name, _, version = match.groups()
    older = name == "payload_data" and version in {"1-0-0", *_PAYLOAD_DATA_ADDED}
    file = _SCHEMA_DIR / f"{vendor}.{name}.{'1-0-4' if older else version}.json"
    if not file.is_file():
        return None
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if older:
        later = {key for added, keys in _PAYLOAD_DATA_ADDED.items() if added > version for key in keys}
        properties = document["items"]["properties"]
        document["items"]["properties"] = {key: properties[key] for key in properties if key not in later}
        document["self"]["version"] = version
    return document


@lru_cache(maxsize=256)
def _shipped_check(uri: str) -> Callable[[Any], Any] | None:
    document = _shipped(uri)
    return _compile(document) if document else None


def read_events(request: Request) -> list[dict[str, Any]] | None:
    """Return a request's wire maps without judging them, or None if it cannot be read."""
    if request.method != "POST":
        return [_parameters(request.query)] if request.query else None
    try:
        batch = json.loads(request.body)["data"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(batch, list) or not all(isinstance(event, dict) for event in batch):
        return None
    return batch


def classify(request: Request, registry: Registry, *, sink_bytes_max: int | None = None) -> Verdict:
    """Judge one request as the pipeline does.

    Args:
        request: which vendor and version it is for is taken from its path.
        registry: the schemas to judge by.
        sink_bytes_max: if given, play a collector in front of a bounded sink (1,000,000 bytes for Kinesis, 192,000
            where SQS is the buffer): a larger body is split into its events, one that is above 1 MiB is lost whole, and
            what is too large by itself becomes a `size_violation`. The answer is 200 all the same.

    Returns:
        the events that pass, and the bad rows, in the order of the request.
    """
    too_large: set[int] = set()
    if sink_bytes_max is not None and len(request.body) >= sink_bytes_max:
        events = request.events
        if not events or len(request.body) > SINK_PAYLOAD_MAX:
            return _refuse(request, "size_violation", f"{len(request.body)} bytes are above the sink's limit")
        too_large = {
            index
            for index, event in enumerate(events)
            if len(json.dumps(event, ensure_ascii=False).encode(errors="replace")) >= sink_bytes_max
        }

    if _BROKEN_ESCAPE.search(request.query):
        return _refuse(request, "collector_payload_format_violation", "querystring: broken percent-encoding")
    query = _parameters(request.query)
    if "nuid" in query and not _UUID.fullmatch(query["nuid"]):
        return _refuse(request, "collector_payload_format_violation", "nuid: not a UUID")

    vendor, version = request.api
    if vendor != SNOWPLOW or version not in {"tp1", "tp2"}:
        return _refuse(
            request, "adapter_failures", f"{vendor}/{version}: no adapter for this vendor and version"
        )
    if version == "tp1":
        if not query:
            return _refuse(request, "adapter_failures", "querystring: empty, so there is no event")
        batch = [query]
    else:
        outcome = _read_tp2(request, query, registry)
        if isinstance(outcome, str):
            return _refuse(request, "tracker_protocol_violations", outcome)
        batch = outcome

    envelope = request.envelope()
    good: list[GoodEvent] = []
    bad: list[BadRow] = []
    payload: dict[str, Any] | None = None
    for index, parameters in enumerate(batch):
        judged = _judge(parameters, registry) if index not in too_large else _Failures(too_large=True)
        if isinstance(judged, _Failures):
            payload = payload or request.collector_payload()
            bad.append(BadRow(payload, parameters, judged.kind, judged.messages))
        else:
            good.append(GoodEvent(envelope, parameters, *judged))
    return Verdict(tuple(good), tuple(bad))


def _refuse(request: Request, kind: str, message: str) -> Verdict:
    return Verdict(bad=(BadRow(request.collector_payload(), None, kind, (message,)),))


def _parameters(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True, errors="replace"))


def _read_tp2(request: Request, query: dict[str, str], registry: Registry) -> list[dict[str, str]] | str:
    content_type = request.headers.get("content-type")
    if content_type is not None and content_type.lower() not in _CONTENT_TYPES:
        return f"content type: {content_type!r} is not one of application/json[; charset=utf-8]"
    if not request.body:
        if content_type is not None:
            return "body: missing, though a content type was given"
        return [query] if query else "body and querystring: both are empty"
    if content_type is None:
        return "content type: missing, though there is a body"
    try:
        document = read_json(request.body.decode(errors="replace"))
    except ValueError as exc:
        return f"body: {exc}"
    envelope = _open_envelope(document, SNOWPLOW, "payload_data", registry)
    if isinstance(envelope, str):
        return f"body: {envelope}"
    return [{**event, **query} for event in envelope.data] if query else list(envelope.data)


def read_json(text: str) -> Any:
    """Read JSON as Enrich does: no NaN, no infinities, at most `DEPTH_MAX` containers inside one another.

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
    for _ in range(DEPTH_MAX + 1):
        level = [
            child
            for container in level
            if isinstance(container, dict | list)
            for child in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return document
    if not any(isinstance(child, dict | list) for child in level):
        # The level below the last permitted container holds scalars only when no container is left to open.
        return document
    raise ValueError(f"nested deeper than {DEPTH_MAX}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


class _Envelope(NamedTuple):
    uri: str
    data: Any


def _open_envelope(document: Any, vendor: str, name: str, registry: Registry) -> _Envelope | str:
    """Return what a self-describing envelope holds, or what is wrong with it."""
    if not isinstance(document, dict) or set(document) != {"schema", "data"}:
        return "not self-describing: an object of exactly schema and data is wanted"
    uri = document["schema"]
    match = _IGLU.fullmatch(uri) if isinstance(uri, str) else None
    if match is None:
        return f"schema: {uri!r} is not of the form iglu:vendor/name/format/1-0-0"
    if match.group(1, 2, 3) != (vendor, name, "jsonschema") or not match[4].startswith("1-0-"):
        return f"schema: {uri} is not {name} 1-0-x"
    if registry.document(uri) is None:
        return f"{uri}: no such schema"
    error = registry.check(uri, document["data"])
    return error or _Envelope(uri, document["data"])


class _Failures:
    """Why one event was refused. The kind of bad row follows from where it failed."""

    def __init__(self, *, too_large: bool = False) -> None:
        self.too_large = too_large
        self.violations: list[str] = []
        self.failures: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.too_large or self.violations or self.failures)

    @property
    def kind(self) -> str:
        if self.too_large:
            return "size_violation"
        return "schema_violations" if self.violations else "enrichment_failures"

    @property
    def messages(self) -> tuple[str, ...]:
        if self.too_large:
            return ("the event by itself is above the sink's limit",)
        return (*self.violations, *self.failures)


class _Passed(NamedTuple):
    event_type: str
    schema: str
    contexts: tuple[str, ...]


def _judge(parameters: Mapping[str, str], registry: Registry) -> _Passed | _Failures:
    failures = _Failures()
    for key, value in parameters.items():
        column = COLUMNS.get(key)
        if column is not None:
            try:
                column.convert(value)
            except ValueError as exc:
                failures.violations.append(f"{key}: {exc}")

    for key in ("url", "refr"):
        try:
            urlsplit(parameters.get(key, ""))
        except ValueError as exc:
            failures.failures.append(f"{key}: not a URL: {exc}")

    schema = _embedded(parameters, ("ue_px", "ue_pr"), "unstruct_event", registry, failures)
    contexts = _embedded(parameters, ("cx", "co"), "contexts", registry, failures)
    code = parameters.get("e")
    if code is None:
        failures.failures.append("e: missing, so the event has no type")
    event_type, fixed_schema = _EVENT_TYPES.get(code or "", ("", ""))
    if failures:
        return failures
    return _Passed(event_type, fixed_schema or (schema[0] if schema else ""), contexts)


def _embedded(
    parameters: Mapping[str, str], keys: tuple[str, str], name: str, registry: Registry, failures: _Failures
) -> tuple[str, ...]:
    """Judge the JSON in the base64 key or the plain key, and return the schemas inside the envelope."""
    key = keys[0] if keys[0] in parameters else keys[1]
    text = parameters.get(key)
    if text is None:
        return ()
    try:
        document = read_json(decode_base64(text) if key == keys[0] else text)
    except ValueError as exc:
        failures.violations.append(f"{key}: {exc}")
        return ()
    envelope = _open_envelope(document, SNOWPLOW, name, registry)
    if isinstance(envelope, str):
        failures.violations.append(f"{key}: {envelope}")
        return ()
    inner = envelope.data if isinstance(envelope.data, list) else [envelope.data]
    for item in inner:
        error = registry.check(item["schema"], item["data"])
        if error is not None:
            failures.violations.append(f"{key}: {error}")
    return tuple(item["schema"] for item in inner)


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
    if not _UUID.fullmatch(value):
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
        "e": Column(("event",), _code(_EVENT_TYPES)),
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
        tna name_tracker 128, aid app_id 255, tv v_tracker 100, tz os_timezone 255, uid user_id 255,
        duid domain_userid 128, nuid network_userid 128, tnuid network_userid 128, ua useragent 1000, lang br_lang 255,
        cd br_colordepth 12, cs doc_charset 128, fp user_fingerprint 128, url page_url 10000, page page_title 2000,
        refr page_referrer 10000, se_ca se_category 1000, se_ac se_action 1000, se_la se_label 4096,
        se_pr se_property 1000, tr_id tr_orderid 255, tr_af tr_affiliation 255, tr_ci tr_city 255, tr_st tr_state 255,
        tr_co tr_country 255, tr_cu tr_currency 3, ti_id ti_orderid 255, ti_sk ti_sku 255, ti_nm ti_name 255,
        ti_na ti_name 255, ti_ca ti_category 255, ti_cu ti_currency 3
    """
    for entry in texts.split(","):
        key, name, limit = entry.split()
        table[key] = Column((name,), _text(int(limit)))
    return table


COLUMNS: Final = _columns()
"""The conversions of Enrich 6.10 with its default `atomicFieldsLimits`; keys without one are taken as they are."""


def columns_of(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return a good event's columns: the converted values, and the JSON of its event and its contexts."""
    columns: dict[str, Any] = {}
    for key, value in parameters.items():
        column = COLUMNS.get(key)
        if column is not None:
            converted = column.convert(value)
            columns.update(
                zip(column.names, converted if isinstance(converted, tuple) else (converted,), strict=True)
            )
    if "event" in columns:
        columns["event"] = _EVENT_TYPES[columns["event"]][0]
    for keys, name in ((("ue_px", "ue_pr"), "unstruct_event"), (("cx", "co"), "contexts")):
        for key, value in zip(keys, (parameters.get(key) for key in keys), strict=True):
            if value is not None and name not in columns:
                columns[name] = read_json(decode_base64(value) if key == keys[0] else value)
    return columns
