"""What a Snowplow pipeline makes of one request: which events pass, which become bad rows, and why.

    request ─┬─ not readable as a request ────────────► collector_payload_format_violation ─┐
             ├─ no adapter for /<vendor>/<version> ───► adapter_failures                    ├ one bad row
             ├─ batch breaks payload_data ────────────► tracker_protocol_violations         ┘ per request
             └─ events, each by itself ─┬─ a value, an envelope or a schema ► schema_violations ─┐ one bad row
                                        ├─ not an event at all ────────────► enrichment_failures ┘ per event
                                        └─ good

The order and the names of the bad rows are those of Snowplow Enrich 6.10. The checks share no code with those
that the tracker makes before it queues an event, so that a mistake in one is seen by the other. Webhooks, and
the redirects of the pixel tracker, have no adapter here. Every function may be called from any thread.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from durable_tracker.collector.columns import COLUMNS, EVENT_TYPES, UUID, decode_base64, read_json
from durable_tracker.collector.registry import IGLU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from durable_tracker.collector.registry import Registry

SNOWPLOW: Final = "com.snowplowanalytics.snowplow"
SINK_PAYLOAD_MAX: Final = 1_048_576
"""Bytes above which a collector with a bounded sink drops a request as a whole (`maxPayloadSize`)."""
_BODY_KEPT_MAX: Final = 65_536
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_CONTENT_TYPES: Final = {"application/json", "application/json; charset=utf-8"}
_BAD_ROW_VERSIONS: Final = {
    "adapter_failures": "1-0-0",
    "collector_payload_format_violation": "1-0-0",
    "enrichment_failures": "2-0-1",
    "schema_violations": "2-0-1",
    "size_violation": "1-0-0",
    "tracker_protocol_violations": "1-0-1",
}
_WITHOUT_SCHEMA: Final = "ad"
"""The code that Enrich converts to a type, and has no schema for in the next step: the event always fails."""
_STRUCT_SCHEMA: Final = "iglu:com.google.analytics/event/jsonschema/1-0-0"


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
        """The body; the first use reads it from the connection."""
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


class _RefusedError(Exception):
    """The request as a whole is one bad row."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def classify(request: Request, registry: Registry, *, sink_bytes_max: int | None = None) -> Verdict:
    """Judge one request as the pipeline does.

    Args:
        request: which vendor and version it is for is taken from its path.
        registry: the schemas to judge by.
        sink_bytes_max: if given, play a collector in front of a bounded sink (1,000,000 bytes for Kinesis,
            192,000 where SQS is the buffer): a larger body is split into its events, one above 1 MiB is lost
            whole, and what is too large by itself becomes a `size_violation`. The answer is 200 all the same.

    Returns:
        the events that pass, and the bad rows, in the order of the request.
    """
    try:
        too_large = _oversized(request, sink_bytes_max)
        batch = _read_batch(request, registry)
    except _RefusedError as exc:
        return Verdict(bad=(BadRow(request.collector_payload(), None, exc.kind, (str(exc),)),))
    envelope = request.envelope()
    payload: dict[str, Any] | None = None
    good: list[GoodEvent] = []
    bad: list[BadRow] = []
    for index, parameters in enumerate(batch):
        outcome: tuple[str, str, tuple[str, ...]] | _Faulty
        outcome = _TOO_LARGE if index in too_large else _judge(parameters, registry)
        if isinstance(outcome, _Faulty):
            payload = payload or request.collector_payload()
            bad.append(BadRow(payload, parameters, outcome.kind, outcome.messages))
        else:
            good.append(GoodEvent(envelope, parameters, *outcome))
    return Verdict(tuple(good), tuple(bad))


def _oversized(request: Request, sink_bytes_max: int | None) -> set[int]:
    """Return the places in the batch of the events that no sink takes."""
    if sink_bytes_max is None or len(request.body) < sink_bytes_max:
        return set()
    if not request.events or len(request.body) > SINK_PAYLOAD_MAX:
        raise _RefusedError("size_violation", f"{len(request.body)} bytes are above the sink's limit")
    texts = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in request.events]
    return {index for index, text in enumerate(texts) if len(text.encode(errors="replace")) >= sink_bytes_max}


def _parameters(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True, errors="replace"))


def _read_batch(request: Request, registry: Registry) -> list[dict[str, str]]:
    if _BROKEN_ESCAPE.search(request.query):
        raise _RefusedError("collector_payload_format_violation", "querystring: broken percent-encoding")
    query = _parameters(request.query)
    if "nuid" in query and not UUID.fullmatch(query["nuid"]):
        raise _RefusedError("collector_payload_format_violation", "nuid: not a UUID")
    vendor, version = request.api
    if vendor == SNOWPLOW and version == "tp2":
        try:
            return _read_tp2(request, query, registry)
        except ValueError as exc:
            raise _RefusedError("tracker_protocol_violations", str(exc)) from None
    if vendor != SNOWPLOW or version != "tp1":
        raise _RefusedError("adapter_failures", f"{vendor}/{version}: no adapter for this vendor and version")
    if not query:
        raise _RefusedError("adapter_failures", "querystring: empty, so there is no event")
    return [query]


def _read_tp2(request: Request, query: dict[str, str], registry: Registry) -> list[dict[str, str]]:
    content_type = request.headers.get("content-type")
    if content_type is not None and content_type.lower() not in _CONTENT_TYPES:
        raise ValueError(f"content type: {content_type!r} is not application/json[; charset=utf-8]")
    if not request.body:
        if content_type is not None:
            raise ValueError("body: missing, though a content type was given")
        if not query:
            raise ValueError("body and querystring: both are empty")
        return [query]
    if content_type is None:
        raise ValueError("content type: missing, though there is a body")
    try:
        batch = _open_envelope(read_json(request.body.decode(errors="replace")), "payload_data", registry)
    except ValueError as exc:
        raise ValueError(f"body: {exc}") from None
    return [{**event, **query} for event in batch] if query else list(batch)


def _open_envelope(document: Any, name: str, registry: Registry) -> Any:
    """Return what a self-describing envelope of the protocol holds.

    Raises:
        ValueError: it is not an envelope of that name, or its data breaks the envelope's schema.
    """
    if not isinstance(document, dict) or set(document) != {"schema", "data"}:
        raise ValueError("not self-describing: an object of exactly schema and data is wanted")
    uri = document["schema"]
    match = IGLU.fullmatch(uri) if isinstance(uri, str) else None
    if match is None:
        raise ValueError(f"schema: {uri!r} is not of the form iglu:vendor/name/jsonschema/1-0-0")
    if match.group(1, 2, 3) != (SNOWPLOW, name, "jsonschema") or not match[4].startswith("1-0-"):
        raise ValueError(f"schema: {uri} is not {name} 1-0-x")
    if registry.document(uri) is None:
        raise ValueError(f"{uri}: no such schema")
    error = registry.check(uri, document["data"])
    if error is not None:
        raise ValueError(error)
    return document["data"]


def _version_error(uri: str) -> str | None:
    """Return what is wrong with the version in a schema's address, which Enrich parses beyond the pattern."""
    match = IGLU.fullmatch(uri)
    if match is None or any(int(part) >= 2**31 for part in match[4].split("-")):
        return f"{uri}: the version is not a SchemaVer such as 1-0-0"
    return None


class _Faulty(NamedTuple):
    """Why one event is refused."""

    kind: str
    messages: tuple[str, ...]


_TOO_LARGE: Final = _Faulty("size_violation", ("the event by itself is above the sink's limit",))


def _judge(parameters: Mapping[str, str], registry: Registry) -> tuple[str, str, tuple[str, ...]] | _Faulty:
    """Return the event's type, its schema and its contexts' schemas, or all that is wrong with it."""
    violations: list[str] = []
    for key, value in parameters.items():
        column = COLUMNS.get(key)
        if column is not None:
            try:
                column.convert(value)
            except ValueError as exc:
                violations.append(f"{key}: {exc}")
    event = _embedded(parameters, "ue_px", "ue_pr", "unstruct_event", registry, violations)
    contexts = _embedded(parameters, "cx", "co", "contexts", registry, violations)

    failures = _failures(parameters)
    code = parameters.get("e")

    if violations:
        return _Faulty("schema_violations", (*violations, *failures))
    if failures or code is None:
        return _Faulty("enrichment_failures", tuple(failures))
    if code == "ue":
        return "unstruct", (event[0] if event else ""), contexts
    event_type = EVENT_TYPES[code]
    schema = _STRUCT_SCHEMA if event_type == "struct" else f"iglu:{SNOWPLOW}/{event_type}/jsonschema/1-0-0"
    return event_type, schema, contexts


def _failures(parameters: Mapping[str, str]) -> list[str]:
    """Return why no event can be made of parameters that are sound one by one."""
    failures: list[str] = []
    for key in ("url", "refr"):
        try:
            urlsplit(parameters.get(key, ""))
        except ValueError as exc:
            failures.append(f"{key}: not a URL: {exc}")
    code = parameters.get("e")
    if code is None:
        failures.append("e: missing, so the event has no type")
    elif code == _WITHOUT_SCHEMA:
        failures.append(f"e: there is no schema for {EVENT_TYPES[code]}")
    return failures


def _embedded(
    parameters: Mapping[str, str],
    encoded: str,
    plain: str,
    name: str,
    registry: Registry,
    violations: list[str],
) -> tuple[str, ...]:
    """Judge the JSON in the base64 key or the plain key; return the schemas inside the envelope."""
    key = encoded if encoded in parameters else plain
    text = parameters.get(key)
    if text is None:
        return ()
    try:
        document = read_json(decode_base64(text) if key == encoded else text)
        data = _open_envelope(document, name, registry)
    except ValueError as exc:
        violations.append(f"{key}: {exc}")
        return ()
    inner = data if isinstance(data, list) else [data]
    errors = [_version_error(item["schema"]) or registry.check(item["schema"], item["data"]) for item in inner]
    violations.extend(f"{key}: {error}" for error in errors if error is not None)
    return tuple(item["schema"] for item in inner)
