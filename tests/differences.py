"""What differs from the official tracker 1.1.0: one table, which the tests use and the document MOVING.md repeats.

Each entry is shown on both trackers, so that one that has gone fails a test. `python tests/differences.py` writes the
list into the document.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import snowplow_tracker
from faulty_server import FaultyServer, answer

import durable_tracker
from durable_tracker import contracts
from durable_tracker.collector import Collector
from durable_tracker.testing import MemoryEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from strategies import Case

    Wire = dict[str, str]

official: Any = snowplow_tracker
ours: Any = durable_tracker
DOCUMENT = Path(durable_tracker.__file__).parent / "MOVING.md"
BEGIN, END = "<!-- differences: written by tests/differences.py -->", "<!-- end of differences -->"
SCHEMA = "iglu:com.acme/thing/jsonschema/1-0-0"
PAGE: dict[str, Any] = {"e": "pv", "p": "pc", "tv": "x"}


class Recorder:
    """An emitter of the user's own, as both trackers take them."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []

    def input(self, payload: dict[str, Any]) -> None:
        self.wires.append({field: str(value) for field, value in payload.items()})


def tracked(call: Callable[[Any, Any], object]) -> Callable[[Any], Any]:
    """Return what an emitter gets of a call, and in place of an event that is refused its rule."""

    def observe(lib: Any) -> Any:
        recorder = Recorder()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                call(lib, lib.Tracker("ns", recorder))
            except (ValueError, TypeError) as error:
                return f"{type(error).__name__}: {error}"
        return recorder.wires

    return observe


def fields(*names: str, of: Callable[[Any, Any], object]) -> Callable[[Any], Any]:
    """Return some fields of all events of a call, or the kind of the error."""

    def observe(lib: Any) -> Any:
        found = tracked(of)(lib)
        return (
            found.split(":")[0]
            if isinstance(found, str)
            else [tuple(wire.get(name) for name in names) for wire in found]
        )

    return observe


def emitted(lib: Any, **settings: Any) -> Any:
    """Return an emitter that keeps its events in memory, whichever library's it is."""
    if lib is ours:
        settings = {"queue": MemoryEngine("n"), "linger": 0.0, "max_retry_delay_seconds": 0.05, **settings}
    return lib.Emitter("http://127.0.0.1:9", **settings)


def requested(use: Callable[[Any, Any], object], **settings: Any) -> Callable[[Any], list[Any]]:
    """Return what a collector received from an emitter."""

    def observe(lib: Any) -> list[Any]:
        made = {name: make() if name == "session" else make for name, make in settings.items()}
        if lib is ours:
            made |= {"queue": MemoryEngine("n"), "linger": 0.0}
        with Collector() as collector:
            emitter = lib.Emitter(collector.url, **made)
            use(lib, emitter)
            emitter.flush()
            if lib is ours:
                emitter.close(10)
            return [row["rawEvent"] for row in collector.good()]

    return observe


def header(name: str, **settings: Any) -> Callable[[Any], Any]:
    """Return a header of a request."""

    def observe(lib: Any) -> Any:
        (row,) = requested(lambda _, emitter: emitter.input({**PAGE}), **settings)(lib)
        found = [line.partition(": ")[2] for line in row["context"]["headers"] if line.lower().startswith(name)]
        return [re.sub(r"[0-9.]+", "N", text) for text in found]

    return observe


def raised(use: Callable[[Any], object]) -> Callable[[Any], str]:
    """Return the kind of error that a use raises, "" for none."""

    def observe(lib: Any) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                use(lib)
            except Exception as error:
                return type(error).__name__
        return ""

    return observe


def item(**more: Any) -> dict[str, Any]:
    return {"sku": "s", "price": 1, "quantity": 1, **more}


def entities(lib: Any, *names: str) -> list[Any]:
    return [lib.SelfDescribingJson(SCHEMA, {"name": name}) for name in names]


def context_lengths(lib: Any) -> list[int]:
    call = lambda lib, t: t.track_ecommerce_transaction(  # noqa: E731
        "o", 1, items=[item(context=entities(lib, "a", "b"))], context=entities(lib, "c")
    )
    return [len(wire["cx"]) // 100 for wire in tracked(call)(lib)]


def left_in_an_item(lib: Any) -> set[str]:
    given = item()
    tracked(lambda _, t: t.track_ecommerce_transaction("o", 1, items=[given]))(lib)
    return set(given) - set(item())


def form_type_sent(lib: Any) -> str:
    def call(_: Any, tracker: Any) -> None:
        tracker.encode_base64 = False
        tracker.track_form_change("f", "e", "INPUT", "v", "EMAIL")

    (wire,) = tracked(call)(lib)
    return str(json.loads(wire["ue_pr"])["data"]["data"]["type"])


def tracked_twice(lib: Any) -> list[bool]:
    event = lib.PageView("u", event_subject=lib.Subject().set_user_id("u"))

    def call(_: Any, tracker: Any) -> None:
        tracker.track(event)
        event.event_subject = None
        tracker.track(event)

    return ["uid" in wire for wire in tracked(call)(lib)]


def reported(lib: Any) -> int:
    """Return how often `on_failure` is called for an event that is tried again."""
    calls: list[Any] = []
    emitter = emitted(lib, on_failure=lambda *call: calls.append(call), batch_size=1)
    with suppress(Exception):
        emitter.input({**PAGE})
    if lib is ours:
        emitter.flush(5)
        emitter.close(0)
    else:
        emitter._cancel_retry_timer()
    return len(calls)


def sent_unasked(lib: Any) -> bool:
    """Tell whether a single event is sent though nobody flushes."""
    with Collector() as collector:
        settings = {"queue": MemoryEngine("n"), "linger": 0.01} if lib is ours else {}
        emitter = lib.Emitter(collector.url, **settings)
        emitter.input({**PAGE})
        has_come = collector.wait(events=1, timeout_s=10 if lib is ours else 0.3)
        if lib is ours:
            emitter.close()
        return has_come


def answered(status: int, look: Callable[[Any, FaultyServer], Any]) -> Callable[[Any], Any]:
    """Return what is to be seen of an emitter whose collector answers with a status."""

    def observe(lib: Any) -> Any:
        fault = answer(status, headers="Location: /elsewhere\r\n" if status == HTTPStatus.FOUND else "")
        with FaultyServer([fault]) as server:
            settings = {"queue": MemoryEngine("n"), "linger": 0.0} if lib is ours else {}
            emitter = lib.Emitter(server.url.rsplit("/", 2)[0], **settings)
            emitter.input({**PAGE})
            emitter.flush()
            seen = look(emitter, server)
            if lib is ours:
                emitter.close(0)
            else:
                emitter._cancel_retry_timer()
            return seen

    return observe


def followed(_: Any, server: FaultyServer) -> bool:
    return any("/elsewhere" in request.line for request in server.requests)


def kept(emitter: Any, _: FaultyServer) -> int:
    if hasattr(emitter, "stats"):
        ledger = emitter.stats().ledger
        return int(ledger.pending + ledger.dead + ledger.delivered)
    return int(emitter.event_store.size())


class Text(str):
    __slots__ = ()


def called_back(method: str) -> Callable[[Any], bool]:
    """Tell whether an emitter calls a method that a subclass overrides."""

    def observe(lib: Any) -> bool:
        calls: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)

            def overriding(*_: object) -> bool:
                calls.append(method)
                return True

            kind = type("Mine", (lib.Emitter,), {method: overriding, "http_post": lambda *_: 200})
        settings = {"queue": MemoryEngine("n"), "linger": 0.0} if lib is ours else {}
        emitter = kind("c.invalid", **settings)
        emitter.input({**PAGE})
        emitter.flush()
        if lib is ours:
            emitter.close()
        return bool(calls)

    return observe


def sessions_request(lib: Any) -> bool:
    """Tell whether what a session overrides is called."""
    calls: list[str] = []

    class Mine(requests.Session):
        def request(self, *args: Any, **options: Any) -> requests.Response:
            calls.append("")
            return super().request(*args, **options)

    logging.getLogger("durable_tracker").disabled = True
    requested(lambda _, emitter: emitter.input({**PAGE}), session=Mine)(lib)
    logging.getLogger("durable_tracker").disabled = False
    return bool(calls)


def with_cookie() -> requests.Session:
    session = requests.Session()
    session.cookies.set("sp", "mine")
    return session


def switched_off(lib: Any) -> str:
    lib.disable_contracts()
    try:
        return raised(lambda lib: lib.Subject().set_platform("toaster"))(lib)
    finally:
        lib.enable_contracts()
        contracts._said.clear()


def announced(lib: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lib.Tracker("ns", Recorder()).track_page_view("u")
    return [one.category.__name__ for one in caught]


def suppress_errors(call: Callable[..., object], *arguments: Any, **named: Any) -> None:
    with suppress(Exception):
        call(*arguments, **named)


def overriding_tracker(lib: Any) -> str:
    """Return the id of an event if it is the tracker's own."""
    own = "11111111-2222-4333-8444-555555555555"
    recorder = Recorder()
    kind = type("Mine", (lib.Tracker,), {"get_uuid": lambda *_: own})
    kind("ns", recorder).track(lib.PageView("u"))
    (wire,) = recorder.wires
    return own if wire["eid"] == own else ""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as on the official tracker.

    Attributes:
        group: the heading under which it is told.
        text: what is so here, and why or what instead; for users.
        shown: what to look at, on either library.
        theirs: what it is there.
        ours: what it is here.
        mend: of a call that the test drew at random: what the official tracker's events would be here.
    """

    group: str
    text: str
    shown: Callable[[Any], Any]
    theirs: Any
    ours: Any
    mend: Callable[[Case, list[Wire]], list[Wire]] | None = None


def keep_platform(case: Case, wires: list[Wire]) -> list[Wire]:
    if case.event_subject is None or "set_platform" in case.event_subject:
        return wires
    return [{**wire, "p": case.subject.get("set_platform", ("pc",))[0]} for wire in wires]


def leave_out_time(case: Case, wires: list[Wire]) -> list[Wire]:
    if case.method != "track_ecommerce_transaction" or case.tstamp is not None:
        return wires
    return [{field: text for field, text in wire.items() if field != "ttm"} for wire in wires]


def lower_types(case: Case, wires: list[Wire]) -> list[Wire]:
    if case.method != "track_form_change" or case.arguments["type_"] is None:
        return wires
    (wire,) = wires
    wire, kind = dict(wire), case.arguments["type_"]
    field = "ue_px" if case.encode_base64 else "ue_pr"
    text = base64.urlsafe_b64decode(wire[field]).decode() if case.encode_base64 else wire[field]
    head, _, tail = text.rpartition(f'"type": "{kind}"')
    text = f'{head}"type": "{kind.lower()}"{tail}'
    wire[field] = base64.urlsafe_b64encode(text.encode()).decode() if case.encode_base64 else text
    return [wire]


def keep_currency(case: Case, wires: list[Wire]) -> list[Wire]:
    if case.method != "track_ecommerce_transaction" or case.arguments["currency"] is not None:
        return wires
    currencies = [None, *(one.get("currency") for one in case.arguments["items"] or [])]
    return [{**wire, **({"ti_cu": code} if code else {})} for wire, code in zip(wires, currencies, strict=True)]


_EVENTS = "What is sent"
_REFUSED = "What is refused"
_EMITTER = "Sending"
_CODE = "For code that calls or extends it"

DIFFERENCES: list[Difference] = [
    Difference(
        _EVENTS,
        "`tv` names this tracker.",
        fields("tv", of=lambda _, t: t.track_page_view("u")),
        [(f"py-{official.__version__}",)],
        [(ours.tracker.VERSION,)],
    ),
    Difference(
        _EVENTS,
        "`stm` is in milliseconds, not in whole seconds.",
        lambda lib: (
            sum(
                not row["parameters"]["stm"].endswith("000")
                for row in requested(lambda _, e: [e.input({**PAGE}) for _ in range(2)])(lib)
            )
            > 0
        ),
        False,
        True,
    ),
    Difference(
        _EVENTS,
        "An event's subject changes only what was set on it. There it resets the platform to `pc`.",
        fields(
            "p",
            of=lambda lib, t: (
                t.subject.set_platform("mob"),
                t.track_page_view("u", event_subject=lib.Subject().set_user_id("u")),
            ),
        ),
        [("pc",)],
        [("mob",)],
        keep_platform,
    ),
    Difference(
        _EVENTS,
        "An item of a transaction keeps its own context. There it gets the transaction's in its place.",
        context_lengths,
        [2, 2],
        [2, 3],
    ),
    Difference(
        _EVENTS,
        "An item keeps its own currency if the transaction has none.",
        fields("ti_cu", of=lambda _, t: t.track_ecommerce_transaction("o", 1, items=[item(currency="EUR")])),
        [(None,), (None,)],
        [(None,), ("EUR",)],
        keep_currency,
    ),
    Difference(
        _EVENTS,
        "Items have a true timestamp only if the transaction has one.",
        lambda lib: [
            "ttm" in wire for wire in tracked(lambda _, t: t.track_ecommerce_transaction("o", 1, items=[item()]))(lib)
        ],
        [False, True],
        [False, False],
        leave_out_time,
    ),
    Difference(
        _EVENTS,
        "The dicts of the items are left as they are. There they are written into.",
        left_in_an_item,
        {"order_id", "currency", "tstamp", "event_subject", "context"},
        set(),
    ),
    Difference(
        _EVENTS,
        "An event object that is tracked twice leaves nothing of the first time in the second.",
        tracked_twice,
        [True, True],
        [True, False],
    ),
    Difference(
        _EVENTS,
        "The type of a form's element is sent in lower case, the only one that its schema takes.",
        form_type_sent,
        "EMAIL",
        "email",
        lower_types,
    ),
    Difference(
        _EVENTS,
        "Integral numbers in integer fields are sent as integers: 7.0 as 7. There as 7.0, which fails.",
        fields("pp_mix", of=lambda _, t: t.track_page_ping("u", min_x=7.0)),
        [("7.0",)],
        [("7",)],
    ),
    Difference(
        _EVENTS,
        "The platform `headset` works.",
        fields("p", of=lambda lib, t: t.track_page_view("u", event_subject=lib.Subject().set_platform("headset"))),
        "ValueError",
        [("headset",)],
    ),
    Difference(
        _EVENTS,
        "A raw event (`Emitter.input`) gets an `eid` and a `dtm` if it has none; fields that are None or empty are "
        "left out.",
        lambda lib: [
            sorted(set(row["parameters"]) - {"stm", "p", "tv", "e"})
            for row in requested(lambda _, e: e.input({**PAGE, "uid": None, "page": ""}))(lib)
        ],
        [["page", "uid"]],
        [["dtm", "eid"]],
    ),
    Difference(
        _REFUSED,
        "NaN and the infinities in JSON, which no decoder downstream takes.",
        fields("e", of=lambda lib, t: t.track_unstruct_event(lib.SelfDescribingJson(SCHEMA, {"a": float("nan")}))),
        [("ue",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "Two keys of an object that become the same text.",
        fields("e", of=lambda lib, t: t.track_unstruct_event(lib.SelfDescribingJson(SCHEMA, {1: "a", "1": "b"}))),
        [("ue",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "Text with a lone surrogate, which has no UTF-8.",
        fields("e", of=lambda _, t: t.track_page_view("u", "\ud800")),
        [("pv",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "JSON that nests deeper than 50 levels, its envelope included.",
        fields(
            "e",
            of=lambda lib, t: t.track_unstruct_event(lib.SelfDescribingJson(SCHEMA, json.loads("[" * 60 + "]" * 60))),
        ),
        [("ue",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "A schema that is no `iglu:` address, or whose version is no SchemaVer, such as 0-1-0.",
        raised(lambda lib: lib.SelfDescribingJson("iglu:com.acme/thing/jsonschema/0-1-0", {})),
        "",
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "Numbers that are none: NaN, booleans, text that does not parse, in `value`, prices, offsets, quantities.",
        fields("se_va", of=lambda _, t: t.track_struct_event("c", "a", value=True)),
        [("True",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "A timestamp that is no number. There it is left out without a word.",
        fields("ttm", of=lambda _, t: t.track_page_view("u", tstamp="2001-01-01")),
        [(None,)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "A session id (`sid`) or an event id that is no UUID; a currency of more than three characters.",
        fields("sid", of=lambda lib, t: t.track_page_view("u", event_subject=lib.Subject().set_domain_session_id("5"))),
        [("5",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "Unknown fields, and event codes that always fail, such as `ad`.",
        fields("e", of=lambda lib, t: t.track(lib.Event({"e": "ad"}))),
        [("ad",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "What the schemas of the built-in events do not take: a cart without a quantity, a search without terms "
        "that are text, a screen view with neither name nor id, ...",
        fields("e", of=lambda _, t: t.track_screen_view()),
        [("ue",)],
        "InvalidEventError",
    ),
    Difference(
        _REFUSED,
        "A transaction of which one item is refused, as a whole. There the events before it are sent.",
        lambda lib: len(
            tracked(lambda _, t: suppress_errors(t.track_ecommerce_transaction, "o", 1, items=[item(), {"sku": "s"}]))(
                lib
            )
        ),
        2,
        0,
    ),
    Difference(
        _REFUSED,
        "All of it also after `disable_contracts()`, which changes nothing and logs so once.",
        switched_off,
        "",
        "InvalidEventError",
    ),
    Difference(
        _EMITTER,
        "`User-Agent` is `durable-tracker`; set it by `headers=` or by the session's headers.",
        header("user-agent"),
        ["python-requests/N"],
        ["durable-tracker"],
    ),
    Difference(
        _EMITTER,
        "A single event is sent after `linger` seconds. There it waits for `batch_size` events, or for a flush.",
        sent_unasked,
        False,
        True,
    ),
    Difference(
        _EMITTER,
        "No redirect is followed: the queue keeps the events, and the state is `blocked`.",
        answered(302, followed),
        True,
        False,
    ),
    Difference(
        _EMITTER,
        "An event that is answered by 400, 401, 403, 410 or 422 is kept, at last as a dead letter. There it is gone.",
        answered(400, kept),
        0,
        1,
    ),
    Difference(
        _EMITTER,
        "No cookie is sent, a session's neither, and none is kept.",
        header("cookie", session=with_cookie),
        ["sp=mine"],
        [],
    ),
    Difference(
        _EMITTER,
        "Of a session its headers, auth, proxies, certificates and mounted adapters are used. It is not sent with: "
        "its hooks, and what a subclass of `Session` overrides, are not called.",
        sessions_request,
        True,
        False,
    ),
    Difference(
        _EMITTER,
        "`on_failure` is not called for events that stay queued and are sent again, unless `report_retries=True`.",
        reported,
        1,
        0,
    ),
    Difference(
        _EMITTER,
        "`reached_limit`, overridden, is never called, which a warning says: `linger=` and `batch_size=` say when "
        "events are sent.",
        called_back("reached_limit"),
        True,
        False,
    ),
    Difference(
        _CODE,
        "Where text is required, a subclass of `str` is text.",
        raised(lambda lib: lib.PageView(Text("u"))),
        "ValueError",
        "",
    ),
    Difference(
        _CODE,
        "Two `SelfDescribingJson` of the same schema and data are equal.",
        lambda lib: lib.SelfDescribingJson(SCHEMA, {}) == lib.SelfDescribingJson(SCHEMA, {}),
        False,
        True,
    ),
    Difference(
        _CODE,
        "No `DeprecationWarning`: the `track_*` methods stay.",
        announced,
        ["DeprecationWarning"],
        [],
    ),
    Difference(
        _CODE,
        "`event_store=` is refused: the queue on disk is the store. `queue_dir=` and `max_queue_bytes=` say where and "
        "how much.",
        raised(lambda lib: emitted(lib, event_store=lib.event_store.InMemoryEventStore(logging.getLogger("x")))),
        "",
        "ConfigurationError",
    ),
    Difference(
        _CODE,
        "Assigning to an emitter's `endpoint`, `method` or `request_method` raises: a queue belongs to an address.",
        raised(lambda lib: setattr(emitted(lib), "endpoint", "d.invalid")),
        "",
        "ConfigurationError",
    ),
    Difference(
        _CODE,
        "`get_uuid` and `get_timestamp` that a subclass of `Tracker` overrides are used for every event.",
        overriding_tracker,
        "",
        "11111111-2222-4333-8444-555555555555",
    ),
    Difference(
        _CODE,
        "What a tracker's constructor cannot use is refused there. There it fails at the first event, or never.",
        raised(lambda lib: lib.Tracker("ns", 5)),
        "",
        "ConfigurationError",
    ),
]


def generated() -> str:
    """Return the list as the document has it."""
    lines: list[str] = []
    for group in dict.fromkeys(one.group for one in DIFFERENCES):
        lines += [f"**{group}**", "", *(f"- {one.text}" for one in DIFFERENCES if one.group == group), ""]
    return "\n".join(lines).rstrip()


def parts(text: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the two marks of the document."""
    before, _, rest = text.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between.strip(), after


if __name__ == "__main__":
    before, _, after = parts(DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{generated()}\n\n{END}{after}", encoding="utf-8")
