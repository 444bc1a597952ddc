"""What a development collector received: events in order, how often each came, and Micro's views of it.

Snowplow Micro is the testing pipeline whose endpoints `/micro/good` and `/micro/bad` show these views.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable_tracker.collector.columns import columns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import BinaryIO

    from durable_tracker.collector.validation import BadRow, GoodEvent, Request, Verdict

EIDS_MAX: Final = 2_000_000
"""Event ids that are told apart; later ones are counted, not told apart."""
_ANOMALIES_MAX: Final = 1_000
_STM_AGE_MS: Final = 250


class Anomaly(NamedTuple):
    """Something that a pipeline takes, and that a careful tracker never sends.

    `eid` is the event's id, or None if the whole request is meant.
    """

    eid: str | None
    what: str


class _Seen(NamedTuple):
    times: int
    content: int
    stm: str | None
    received_ms: int


class Received:
    """A bounded record of what arrived, and exact counts of all of it.

    Every method may be called from any thread.

    Args:
        keep: how many events, and how many bad rows, are kept in full: the newest. The rest is only counted.
        out: a binary stream that every good event is written to as one line of JSON, before it is counted.
    """

    def __init__(self, *, keep: int, out: BinaryIO | None = None) -> None:
        self._out = out
        # Guards everything below; notified whenever something arrived.
        self._changed = threading.Condition()
        self._events: deque[dict[str, Any]] = deque(maxlen=keep)
        self._good: deque[GoodEvent] = deque(maxlen=keep)
        self._bad: deque[BadRow] = deque(maxlen=keep)
        self._anomalies: deque[Anomaly] = deque(maxlen=_ANOMALIES_MAX)
        self._eids: dict[str, _Seen] = {}
        self._good_count = 0
        self._bad_count = 0
        self._request_count = 0

    def add_request(self) -> int:
        """Count a request, stored or not, and return its number."""
        with self._changed:
            self._request_count += 1
            self._changed.notify_all()
            return self._request_count

    def add_verdict(self, verdict: Verdict, request: Request, *, record: bool) -> None:
        """Add what became of a judged request; without `record` good events are only counted."""
        events = [event.parameters for event in verdict.good]
        lines = self._lines(events)
        with self._changed:
            self._bad.extend(verdict.bad)
            if record:
                self._good.extend(verdict.good)
                self._note(events, request)
            self._count(len(events), len(verdict.bad), lines)

    def add_unjudged(self, events: list[dict[str, Any]] | None, request: Request) -> None:
        """Add the events of a request that is not judged; None, for an unreadable one, counts as a bad row."""
        lines = self._lines(events or [])
        with self._changed:
            self._note(events or [], request)
            self._count(len(events or []), 0 if events else 1, lines)

    def add_count(self, count: int) -> None:
        """Count good events without keeping anything of them."""
        with self._changed:
            self._count(count, 0, b"")

    def _lines(self, events: Sequence[dict[str, Any]]) -> bytes:
        if self._out is None:
            return b""
        return b"".join(json.dumps(event).encode() + b"\n" for event in events)

    def _count(self, good: int, bad: int, lines: bytes) -> None:
        if self._out is not None and lines:
            self._out.write(lines)
            self._out.flush()
        self._good_count += good
        self._bad_count += bad
        self._changed.notify_all()

    def _note(self, events: Sequence[dict[str, Any]], request: Request) -> None:
        self._note_request(request)
        for event in events:
            self._note_event(event, request.received_ms)
        self._events.extend(events)

    def _note_request(self, request: Request) -> None:
        if "cookie" in request.headers:
            self._anomalies.append(Anomaly(None, f"request {request.number} sent a cookie back"))
        if request.method == "POST":
            try:
                request.body.decode()
            except UnicodeDecodeError:
                self._anomalies.append(Anomaly(None, f"request {request.number} is not UTF-8"))

    def _note_event(self, event: Mapping[str, Any], received_ms: int) -> None:
        eid, stm = event.get("eid"), event.get("stm")
        if not isinstance(eid, str):
            self._anomalies.append(Anomaly(None, "an event without an eid"))
            return
        if stm is None:
            self._anomalies.append(Anomaly(eid, "no stm"))
        elif _before(stm, event.get("dtm")):
            self._anomalies.append(Anomaly(eid, f"stm {stm} is before dtm {event.get('dtm')}"))
        content = hash(frozenset((key, str(value)) for key, value in event.items() if key != "stm"))
        seen = self._eids.get(eid)
        if seen is None:
            if len(self._eids) < EIDS_MAX:
                self._eids[eid] = _Seen(1, content, stm, received_ms)
            return
        if content != seen.content:
            self._anomalies.append(Anomaly(eid, f"sent again with other content{self._difference(event)}"))
        if stm is not None and (
            _before(stm, seen.stm) or (stm == seen.stm and received_ms - seen.received_ms > _STM_AGE_MS)
        ):
            self._anomalies.append(Anomaly(eid, f"sent again without a fresh stm: {seen.stm}, then {stm}"))
        self._eids[eid] = _Seen(seen.times + 1, seen.content, stm, received_ms)

    def _difference(self, event: Mapping[str, Any]) -> str:
        earlier = next((kept for kept in reversed(self._events) if kept.get("eid") == event["eid"]), None)
        if earlier is None:
            return ""
        keys = {key for key in {*event, *earlier} - {"stm"} if event.get(key) != earlier.get(key)}
        return f": {', '.join(sorted(keys))}"

    def reset(self) -> None:
        """Forget everything and count from 0."""
        with self._changed:
            for record in (self._events, self._good, self._bad, self._anomalies, self._eids):
                record.clear()
            self._good_count = self._bad_count = self._request_count = 0
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `predicate` holds, asking after each arrival; return whether it did in `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(predicate, timeout_s)

    @property
    def requests(self) -> int:
        """Requests for events since the start or the last reset, answered or not."""
        with self._changed:
            return self._request_count

    @property
    def events(self) -> list[dict[str, Any]]:
        """The kept good events, oldest first, resends included."""
        with self._changed:
            return list(self._events)

    @property
    def anomalies(self) -> list[Anomaly]:
        """The newest thousand anomalies, oldest first."""
        with self._changed:
            return list(self._anomalies)

    def eids(self) -> Counter[str]:
        """How often each event id arrived in a good event, of the first `EIDS_MAX` ids."""
        with self._changed:
            return Counter({eid: seen.times for eid, seen in self._eids.items()})

    def distinct(self) -> int:
        """How many event ids arrived, at most `EIDS_MAX`, in O(1)."""
        with self._changed:
            return len(self._eids)

    def counts(self) -> dict[str, int]:
        """Return Micro's summary: `total`, `good` and `bad`."""
        with self._changed:
            return {
                "total": self._good_count + self._bad_count,
                "good": self._good_count,
                "bad": self._bad_count,
            }

    def good(
        self,
        *,
        event_type: str | None = None,
        schema: str | None = None,
        contexts: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return the kept good events as Micro does, newest first.

        Args:
            event_type: only those of this column `event`, such as `page_view` or `unstruct`.
            schema: only those of this schema.
            contexts: only those that have all these schemas among their contexts.
            limit: at most so many.
        """
        with self._changed:
            kept = list(self._good)
        chosen = [
            event
            for event in reversed(kept)
            if event_type in {None, event.event_type}
            and schema in {None, event.schema}
            and set(contexts) <= set(event.contexts)
        ]
        return [
            {
                "rawEvent": {**event.envelope, "parameters": event.parameters},
                "eventType": event.event_type,
                "schema": event.schema,
                "contexts": list(event.contexts),
                "event": columns_of(event.parameters),
                "incomplete": False,
            }
            for event in chosen[:limit]
        ]

    def bad(
        self, *, vendor: str | None = None, version: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the kept bad rows as Micro does, newest first; `errors` is a short text and the bad row.

        Args:
            vendor: only those sent to a path with this vendor.
            version: only those sent to a path with this version.
            limit: at most so many.
        """
        with self._changed:
            kept = list(self._bad)
        chosen = [
            row
            for row in reversed(kept)
            if vendor in {None, row.request["api"]["vendor"]} and version in {None, row.request["api"]["version"]}
        ]
        return [
            {
                "collectorPayload": row.request,
                "rawEvent": None if row.parameters is None else {**row.request, "parameters": row.parameters},
                "errors": [f"{row.kind}: {'; '.join(row.messages)}", json.dumps(row.as_json())],
            }
            for row in chosen[:limit]
        ]


def _before(one: Any, other: Any) -> bool:
    try:
        return int(one) < int(other)
    except (TypeError, ValueError):
        return False
