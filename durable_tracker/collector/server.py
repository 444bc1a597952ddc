"""A development collector: takes events as a Snowplow collector does, and misbehaves as networks do.

In a test:

    with Collector(script=[Fault(status=503), Fault(reset_after_store=True)]) as collector:
        tracker = Tracker("ns", Emitter(collector.url))
        tracker.track(PageView("https://example.com"))
        assert collector.wait(distinct=1)
    assert collector.counts()["bad"] == 0
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.collector.faults import Fault
from durable_tracker.collector.http_server import Connection, Head, Server
from durable_tracker.collector.received import Received
from durable_tracker.collector.registry import Registry, checker
from durable_tracker.collector.validation import Request, classify, read_events

if TYPE_CHECKING:
    import ssl
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import BinaryIO, Self

    from durable_tracker.collector.received import Anomaly

BODY_MAX: Final = 2_097_152
"""Bytes; Snowplow Collector 3.4 answers 413 to a larger body (`dropPayloadSize`)."""
_PIXEL: Final = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,"
    b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
_ANONYMOUS: Final = "00000000-0000-0000-0000-000000000000"
_COOKIE_AGE_S: Final = 365 * 24 * 3600
_PLAIN: Final = {"Content-Type": "text/plain"}
_JSON: Final = {"Content-Type": "application/json"}


class Collector:
    """A collector in this process, on a loopback port, with threads of its own. A context manager.

    Every method may be called from any thread of the process that made it. A forked child has no part in it: its
    copies of the sockets are closed, and `close` does nothing there.

    Args:
        port: 0 takes a free one.
        host: an IP address or name of this machine.
        faults: draws a fault, or None, for each request for events; `Faults` is one.
        script: as the property.
        validate: judge events as a pipeline does. Without it every event that can be read counts as good.
        record: keep events and count their ids. With neither `validate` nor `record` the events of a POST are counted
            by their `eid` keys without reading them, which serves as a sink for measurements.
        keep: how many events and bad rows are kept in full (the newest); the rest is counted.
        body_max: bytes; a larger body is answered with 413.
        sink_bytes_max: as `classify`; None plays a sink without a bound, as Snowplow Micro's.
        registry: the schemas that self-describing data is judged by.
        out: a binary stream that each good event, resends included, is written and flushed to as one line of JSON,
            before its request is answered.
        log: called with one line for each request for events.
        ssl_context: serve https.
        up: accept connections from the start; else `up()` does it.

    Attributes:
        host: the address that is bound.
        port: the port that is bound, also while down.
        url: `http://host:port`, or https.

    Raises:
        ConfigurationError: the port is not one, or with `validate` the extra `collector` is not installed.
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        faults: Callable[[Request], Fault | None] | None = None,
        script: Iterable[Fault | None] | Callable[[Request], Fault | None] | None = None,
        validate: bool = True,
        record: bool = True,
        keep: int = 100_000,
        body_max: int = BODY_MAX,
        sink_bytes_max: int | None = None,
        registry: Registry | None = None,
        out: BinaryIO | None = None,
        log: Callable[[str], None] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        up: bool = True,
    ) -> None:
        if validate:
            checker()  # a missing library is found here, not by the first request
        self._validate = validate
        self._record = record
        self._unread = not validate and not record and out is None
        self._body_max = body_max
        self._sink_bytes_max = sink_bytes_max
        self._registry = registry or Registry()
        self._log = log
        self._received = Received(keep=keep, out=out)
        self._faults = faults
        # Guards the three below.
        self._script_lock = threading.Lock()
        self._script: Callable[[Request], Fault | None] | None = None
        self._script_steps: Iterator[Fault | None] | None = None
        self._outage: Fault | None = None
        self.script = script
        self._server = Server(self._serve, host=host, port=port, ssl_context=ssl_context)
        self.host = self._server.host
        self.port = self._server.port
        scheme = "http" if ssl_context is None else "https"
        self.url = f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
        if up:
            self._server.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop and give the port back. What was received can still be read. May be called twice."""
        self._server.close()

    def down(self) -> None:
        """Refuse connections and reset the open ones, until `up`. The port stays taken."""
        self._server.down()

    def up(self) -> None:
        """Accept connections again."""
        self._server.up()

    @property
    def script(self) -> Iterable[Fault | None] | Callable[[Request], Fault | None] | None:
        """What happens to the next requests for events; may be set at any time.

        An iterable gives one item, a fault or None, to each request, in the order in which their heads were read; when
        it ends, `faults` draws again. A callable is asked for each request, by several threads at once, before the body
        is read (`request.body` and `request.events` read it). What it raises is raised in the connection's thread.
        """
        with self._script_lock:
            return self._script or self._script_steps

    @script.setter
    def script(self, script: Iterable[Fault | None] | Callable[[Request], Fault | None] | None) -> None:
        with self._script_lock:
            self._script = script if callable(script) else None
            self._script_steps = None if script is None or callable(script) else iter(script)

    @property
    def outage(self) -> Fault | None:
        """What happens to every request, before any script, until it is set to None again."""
        with self._script_lock:
            return self._outage

    @outage.setter
    def outage(self, fault: Fault | None) -> None:
        with self._script_lock:
            self._outage = fault

    @property
    def events(self) -> list[dict[str, Any]]:
        """The wire maps of the good events, oldest first, resends included; the newest `keep` of them."""
        return self._received.events

    @property
    def anomalies(self) -> list[Anomaly]:
        """What a pipeline takes and a careful tracker never sends, oldest first; the newest thousand.

        An id sent again with other content than `stm`, a resend without a fresh `stm`, `stm` missing or before `dtm`,
        no `eid`, a cookie sent back, a body that is not UTF-8. Filled while `record` is on.
        """
        return self._received.anomalies

    @property
    def requests(self) -> int:
        """Requests for events whose heads were read, whatever became of them."""
        return self._received.requests

    def eids(self) -> Counter[str]:
        """How often each event id arrived in a good event; the first two million ids."""
        return self._received.eids()

    def counts(self) -> dict[str, int]:
        """Exact numbers of what was stored: `total`, `good` and `bad`."""
        return self._received.counts()

    def good(
        self,
        *,
        event_type: str | None = None,
        schema: str | None = None,
        contexts: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Good events as `/micro/good` gives them, newest first; empty unless `validate` and `record` are on.

        Args:
            event_type: only those of this column `event`, such as `page_view` or `unstruct`.
            schema: only those of this schema.
            contexts: only those that have all these schemas among their contexts.
            limit: at most so many.
        """
        return self._received.good(event_type=event_type, schema=schema, contexts=contexts, limit=limit)

    def bad(
        self, *, vendor: str | None = None, version: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Bad rows as `/micro/bad` gives them, newest first.

        Args:
            vendor: only those sent to a path with this vendor.
            version: only those sent to a path with this version.
            limit: at most so many.
        """
        return self._received.bad(vendor=vendor, version=version, limit=limit)

    def reset(self) -> None:
        """Forget what was received and count from 0. Script and faults go on."""
        self._received.reset()

    def wait(
        self, *, events: int = 0, distinct: int = 0, bad: int = 0, requests: int = 0, timeout_s: float = 10.0
    ) -> bool:
        """Wait until at least so many have arrived of everything; return whether they did within `timeout_s`.

        Args:
            events: good events, resends included.
            distinct: different event ids.
            bad: bad rows.
            requests: requests for events whose heads were read.
            timeout_s: seconds to wait at most.
        """

        def arrived() -> bool:
            counts = self.counts()
            return (
                counts["good"] >= events
                and counts["bad"] >= bad
                and self._received.distinct() >= distinct
                and self._received.requests >= requests
            )

        return self._received.wait_for(arrived, timeout_s)

    def summary(self) -> str:
        """Return one line of counts as `name=number` pairs."""
        counts, distinct = self.counts(), self._received.distinct()
        repeated = sum(self.eids().values()) - distinct
        return (
            f"requests={self.requests} good={counts['good']} bad={counts['bad']} distinct={distinct} "
            f"repeated={repeated} anomalies={len(self.anomalies)}"
        )

    def _serve(self, connection: Connection) -> None:
        while (head := connection.read_head()) is not None:
            if not self._serve_one(connection, head) or not head.keep_alive:
                return

    def _serve_one(self, connection: Connection, head: Head) -> bool:
        """Answer one request; return whether the connection can go on."""
        reading = head.method in {"GET", "HEAD"}
        if head.method != "OPTIONS" and (
            (reading and head.path in {"/i", "/ice.png"})
            or ((reading or head.method == "POST") and _is_adapter(head.path))
        ):
            return self._serve_events(connection, head)
        body = connection.read_body(head, self._body_max)
        status, headers, reply = self._route(head, body)
        connection.answer(
            status,
            {**headers, **_cors(head)},
            reply,
            without_body=head.method == "HEAD",
            close=not head.keep_alive,
        )
        return True

    def _route(self, head: Head, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if head.method == "OPTIONS":
            allowed = {"Access-Control-Allow-Headers": "Content-Type, SP-Anonymous", "Access-Control-Max-Age": "3600"}
            return 200, {**_PLAIN, **allowed}, b""
        if head.path in {"/health", "/sink-health"} and head.method in {"GET", "HEAD"}:
            return 200, dict(_PLAIN), b"ok"
        if head.path.startswith("/micro/") and head.method in {"GET", "HEAD", "POST"}:
            status, document = self._micro(head.path.removeprefix("/micro/"), body)
            return status, dict(_JSON), json.dumps(document).encode()
        return 404, dict(_PLAIN), b"404 not found"

    def _micro(self, name: str, body: bytes) -> tuple[int, Any]:
        if name == "reset":
            self.reset()
        if name in {"all", "reset"}:
            return 200, self.counts()
        if name == "anomalies":
            return 200, [anomaly._asdict() for anomaly in self.anomalies]
        if name.startswith("iglu/"):
            uri = f"iglu:{name.removeprefix('iglu/')}"
            document = self._registry.document(uri)
            return (404, {"error": f"{uri}: no such schema"}) if document is None else (200, document)
        views: dict[str, tuple[Callable[..., list[dict[str, Any]]], set[str]]] = {
            "good": (self.good, {"event_type", "schema", "contexts", "limit"}),
            "bad": (self.bad, {"vendor", "version", "limit"}),
        }
        if name not in views:
            return 404, {"error": f"/micro/{name}: no such endpoint"}
        view, keys = views[name]
        try:
            wanted = json.loads(body or b"{}")
            chosen = {key: value for key, value in wanted.items() if key in keys and value is not None}
            return 200, view(**chosen)
        except (ValueError, TypeError, AttributeError) as exc:
            return 400, {"error": f"the body is not a filter: {exc}"}

    def _serve_events(self, connection: Connection, head: Head) -> bool:
        cookie = None if "sp-anonymous" in head.headers else _network_user_id(head)
        request = Request(
            number=self._received.add_request(),
            method=head.method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            header_lines=head.header_lines,
            peer="unknown" if cookie is None else connection.peer,
            received_ms=time.time_ns() // 1_000_000,
            network_user_id=cookie or _ANONYMOUS,
            read_body=lambda: connection.read_body(head, self._body_max),
        )
        fault = self._fault_for(request)
        if fault is not None and fault.reset_before:
            self._note(request, "reset before reading")
            connection.reset()
            return False
        _ = request.body  # off the wire, whatever comes of it
        if fault is None or fault.stores:
            self._store(request)
        if fault is None:
            fault = _PLAIN_ANSWER
        return self._answer(connection, head, request, fault, cookie)

    def _answer(self, connection: Connection, head: Head, request: Request, fault: Fault, cookie: str | None) -> bool:
        if fault.delay_s > 0 and connection.stopping.wait(fault.delay_s):
            return False
        if fault.hang:
            self._note(request, "no answer")
            connection.wait_for_end()
            return False
        if fault.reset_after_read or fault.reset_after_store:
            self._note(request, "reset after storing" if fault.stores else "reset after reading")
            connection.reset()
            return False
        status = fault.answer_status
        headers, body = dict(_PLAIN), f"{status}".encode()
        if 200 <= status < 300:  # noqa: PLR2004
            if head.method == "POST":
                body = b"ok"
            else:
                headers, body = {"Content-Type": "image/gif", "Cache-Control": "no-cache, no-store"}, _PIXEL
        if cookie is not None:
            headers["Set-Cookie"] = f"sp={cookie}; Max-Age={_COOKIE_AGE_S}; Path=/; Secure; HttpOnly; SameSite=None"
        if fault.redirect is not None:
            headers["Location"] = fault.redirect
        self._note(request, str(status))
        close = fault.truncate or not head.keep_alive
        connection.answer(
            status,
            {**headers, **_cors(head), **fault.headers},
            body if fault.body is None else fault.body,
            without_body=head.method == "HEAD",
            close=close,
            drip_s=fault.drip_s,
            truncate=fault.truncate,
        )
        return not close

    def _fault_for(self, request: Request) -> Fault | None:
        with self._script_lock:
            if self._outage is not None:
                return self._outage
            script = self._script
            if self._script_steps is not None:
                try:
                    return next(self._script_steps)
                except StopIteration:
                    self._script_steps = None
        if script is not None:
            return script(request)
        return self._faults(request) if self._faults is not None else None

    def _store(self, request: Request) -> None:
        if self._validate:
            verdict = classify(request, self._registry, sink_bytes_max=self._sink_bytes_max)
            self._received.add_verdict(verdict, request, record=self._record)
            if self._log is not None:
                for row in verdict.bad:
                    self._log(f"request {request.number} {row.kind}: {'; '.join(row.messages)}")
        elif self._unread:
            self._received.add_count(request.body.count(b'"eid":') if request.method == "POST" else 1)
        else:
            self._received.add_unjudged(read_events(request), request)

    def _note(self, request: Request, outcome: str) -> None:
        if self._log is not None:
            self._log(f"request {request.number} {request.method} {request.path} {outcome}")


_PLAIN_ANSWER: Final = Fault()


def _is_adapter(path: str) -> bool:
    """Return whether a path is of the form /vendor/version, which a collector takes whatever the names are."""
    parts = path.split("/")
    return len(parts) == 3 and not parts[0] and all(parts[1:]) and parts[1] not in {"micro", "r"}  # noqa: PLR2004


def _network_user_id(head: Head) -> str:
    with contextlib.suppress(CookieError):
        morsel = SimpleCookie(head.headers.get("cookie", "")).get("sp")
        if morsel is not None and morsel.value:
            return morsel.value
    return str(uuid.uuid4())


def _cors(head: Head) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": head.headers.get("origin", "*"),
        "Access-Control-Allow-Credentials": "true",
    }
