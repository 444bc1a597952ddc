"""The settings: stated once, the same wherever they can be given, and on record with a backlog."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import signal
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import requests
from damage import Lines
from processes import wait_until
from requests.adapters import HTTPAdapter
from settings_readme import README, renewed

from durable_tracker import AsyncEmitter, Emitter, EmitterConfiguration, drain
from durable_tracker.collector import Collector, Fault
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.state import DeliverySettings
from durable_tracker.delivery.transport import Reply
from durable_tracker.engines.addresses import engine_of
from durable_tracker.engines.engine import QueueSettings
from durable_tracker.errors import ConfigurationError, DamagedQueueError, QueueFullError
from durable_tracker.runtime.settings import EmitterSettings
from durable_tracker.settings.record import on_record, sender_of
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from durable_tracker.collector.validation import Request
    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.sqlite.queue import SqliteQueue

ASYNC = {"protocol": "http"}
"""The one default of `AsyncEmitter` that is not `Emitter`'s: the official class has it."""


def defaults(function: Any) -> dict[str, Any]:
    """Return the parameters that have a default, in order."""
    found = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in found if one.default is not inspect.Parameter.empty}


def test_an_emitters_signature_is_the_table() -> None:
    """Each name in its place, with the table's default and type."""
    parameters = inspect.signature(Emitter).parameters
    assert list(parameters) == ["endpoint", *ARGUMENTS]
    assert defaults(Emitter) == {one.name: one.default for one in ARGUMENTS.values()}
    assert {name: parameters[name].annotation for name in ARGUMENTS} == {
        one.name: one.type for one in ARGUMENTS.values()
    }


@pytest.mark.parametrize("made", [AsyncEmitter, EmitterConfiguration])
def test_another_signature_has_the_tables_defaults(made: type) -> None:
    """What it shares with `Emitter`; the rest comes as keywords that go there."""
    named = defaults(made)
    if made is AsyncEmitter:
        assert named.pop("thread_count") == ARGUMENTS["senders"].default
    assert named
    expected = {name: ARGUMENTS[name].default for name in named}
    assert named == expected | (ASYNC if made is AsyncEmitter else {})


@pytest.mark.parametrize("made", [DeliverySettings, QueueSettings])
def test_a_settings_object_has_the_tables_defaults(made: type) -> None:
    """Where None stands for a value, that value."""
    shown = {one.name: getattr(made(), one.name) for one in fields(made)}
    assert shown == {name: ARGUMENTS[name].usual for name in shown}


def test_an_emitters_settings_are_arguments() -> None:
    """They have no defaults of their own."""
    for one in fields(EmitterSettings):
        assert one.name in ARGUMENTS
        assert one.name not in defaults(EmitterSettings)


def entries(docstring: str) -> Mapping[str, str]:
    """Return what a docstring says of each argument."""
    section = inspect.cleandoc(docstring).split("Args:\n")[1].split("\n\n", maxsplit=1)[0]
    found = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(found[::2], found[1::2], strict=True)}


def test_an_emitters_docstring_says_what_the_table_says() -> None:
    """And then more."""
    said = entries(Emitter.__doc__ or "")
    assert list(said) == ["endpoint", *ARGUMENTS]
    for name, one in ARGUMENTS.items():
        assert said[name].startswith(one.help), name


def test_a_configurations_properties_say_what_the_table_says() -> None:
    """Each is checked as `Emitter` checks it."""
    for name in defaults(EmitterConfiguration):
        setting = vars(EmitterConfiguration)[name]
        assert (setting.__doc__, setting.check) == (ARGUMENTS[name].help, ARGUMENTS[name].check)


def test_every_default_passes_its_check() -> None:
    """And each check's message begins with what the user wrote."""
    for one in ARGUMENTS.values():
        assert one.value(one.default) == one.usual
        if one.check is not None:
            with pytest.raises(ConfigurationError, match=r"^--that: "):
                one.check("--that", object())


def test_readme_has_the_table() -> None:
    """If this fails: python tests/settings_readme.py."""
    text = README.read_text(encoding="utf-8")
    assert text == renewed(text)


def drain_options() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser()
    drain.add_arguments(parser)
    return {action.dest: action for action in parser._actions}


def test_the_drains_options_are_the_table() -> None:
    """Each that mirrors an argument has its name and meaning, and says where its value comes from."""
    options = drain_options()
    assert {one.name for one in fields(DeliverySettings)} == {*drain.MIRRORED, "report_retries"}
    for name in drain.MIRRORED:
        one, option = ARGUMENTS[name], options[name]
        assert option.option_strings == [f"--{name.replace('_', '-')}"]
        assert option.help is not None
        assert option.help.startswith(one.help)
        assert option.help.endswith(f"{one.in_words(one.usual)})")
        assert ("on record" in option.help) is one.is_backlogs


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--byte-limit", "1000", 1000),
        ("--senders", "2", 2),
        ("--max-age", "1.5", 1.5),
        ("--max-age", "none", None),
        ("--max-retry-delay-seconds", "5", 5),
        ("--custom-retry-codes", "404=true,503=false", {404: True, 503: False}),
        ("--byte-limit", "0", "byte-limit: 0 is not a positive integer"),
        ("--byte-limit", "none", "byte-limit: 'none' is not a positive integer"),
        ("--batch-size", "1.5", "batch-size: 1.5 is not a positive integer"),
        ("--senders", "x", "senders: 'x' is not a positive integer"),
        ("--max-age", "nan", "max-age: nan is not a number of seconds above 0"),
        ("--custom-retry-codes", "404", "custom-retry-codes: 404: '' does not map an HTTP status"),
        ("--custom-retry-codes", "200=true", "custom-retry-codes: 200: True does not map an HTTP status"),
        ("--custom-retry-codes", "x=true", "custom-retry-codes: 'x': True does not map an HTTP status"),
    ],
)
def test_the_drains_options_are_checked_as_arguments_are(
    option: str, text: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same words, with the name that the user wrote."""
    parser = argparse.ArgumentParser()
    drain.add_arguments(parser)
    if isinstance(value, str):
        with pytest.raises(SystemExit):
            parser.parse_args([option, text])
        assert f"--{value}" in capsys.readouterr().err
    else:
        assert getattr(parser.parse_args([option, text]), option[2:].replace("-", "_")) == value
        assert not hasattr(parser.parse_args([]), option[2:].replace("-", "_"))


# ── on record ────────────────────────────────────────────────────────────────────────────────────────────────────────

NOBODY = "http://127.0.0.1:9"
TOLD: dict[str, Any] = {
    "max_age": 3600.5, "custom_retry_codes": {404: True, 503: False}, "max_retry_delay_seconds": 7, "byte_limit": 2000,
}  # fmt: skip
ON_RECORD = {**TOLD, "custom_retry_codes": {"404": True, "503": False}}


def event(number: int, *, dtm: int = 0) -> bytes:
    fields_ = {"e": "pv", "p": "srv", "tv": "t", "eid": eid(number), "url": "http://x.example/"}
    return json.dumps(fields_ | ({"dtm": str(dtm)} if dtm else {})).encode()


def eid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


class Wire:
    """A transport of the user's own, which takes everything."""

    def __init__(self) -> None:
        self.eids: list[str] = []
        self.requests = 0

    def send(self, events: Sequence[bytes]) -> Reply:
        self.requests += 1
        self.eids += [json.loads(one)["eid"] for one in events]
        return Reply(status=200)

    def close(self) -> None:
        pass


class OtherWire(Wire):
    """Another way."""


class Overriding(Emitter):
    """A subclass that sends."""

    def http_post(self, data: str) -> int:
        return super().http_post(data)


class Inheriting(Overriding):
    """The same way, under another name."""


class Adapter(HTTPAdapter):
    """An adapter that is not of requests' own class."""


def leave(endpoint: str, engine: dict[str, Any], first: int, count: int, **told: Any) -> None:
    """Let an emitter leave events in its queue."""
    with Emitter(endpoint, name="shop", drain=False, **engine, **told) as emitter:
        emitter.put_many([event(number) for number in range(first, first + count)])


def place_of(engine: dict[str, Any], index: int = 0) -> Place:
    """Return where the events were left."""
    return sorted(engine_of(**engine).places(["shop"]), key=lambda place: place.name)[index]


def where(engine: dict[str, Any]) -> str:
    return str(engine.get("queue_dir", engine.get("queue")))


@pytest.fixture
def run(engine: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run the drain in this process: exit code, and what it printed."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run_(*arguments: str) -> tuple[int, str]:
        code = drain.main([where(engine), "--quiet", *arguments])
        return code, capsys.readouterr().out

    yield run_
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_what_belongs_to_a_backlog_goes_on_record(engine: dict[str, Any]) -> None:
    """Written when an emitter opens the queue, anew when it was told otherwise, and not when nothing has changed."""
    leave(NOBODY, engine, 0, 1, **TOLD, headers={"Authorization": "secret"})
    with place_of(engine).take() as queue:
        assert queue.settings == ON_RECORD
        assert on_record(queue.settings, queue.name) == TOLD
        assert "secret" not in json.dumps(queue.settings)
    leave(NOBODY, engine, 1, 1, max_age=5)
    with place_of(engine).take() as queue:
        assert queue.settings == {
            "byte_limit": 150_000, "max_retry_delay_seconds": 60, "custom_retry_codes": {}, "max_age": 5,
        }  # fmt: skip


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("content", "usable"),
    [
        (b"\xff", {}),
        (b"[[1, 2]]", {}),
        (b"[" * 100_000, {}),
        (b'{"max_age": "x", "byte_limit": 99, "sender": 5, "color": 1}', {"byte_limit": 99}),
        (b'{"custom_retry_codes": {"1' + b"0" * 5000 + b'": true}}', {}),
        (b'{"custom_retry_codes": [404], "max_retry_delay_seconds": -1, "max_age": 1e999}', {}),
    ],
)
def test_a_record_that_is_damaged_is_ignored(
    content: bytes, usable: dict[str, Any], open_queue: Callable[..., SqliteQueue], caplog: pytest.LogCaptureFixture
) -> None:
    """With a line in the log; whatever is sound in it counts."""
    queue = open_queue()
    queue._books.set_meta("settings", content)
    assert on_record(queue.settings, queue.name) == usable
    assert sender_of(queue.settings) is None
    said = {record.__dict__["event"] for record in caplog.records}
    assert said
    assert said <= {"queue.record_ignored", "queue.setting_ignored"}


@pytest.mark.sqlite
def test_a_record_outlives_the_files_damage(open_queue: Callable[..., SqliteQueue]) -> None:
    """It is taken over into the new file, as the address is."""
    queue = open_queue()
    queue.set_settings(ON_RECORD)
    queue.set_origin({"url": NOBODY})
    queue.put(event(1))
    queue._file.mend(queue._file.mends, DamagedQueueError("on purpose"))
    queue.take_over_all()
    assert (queue.settings, queue.origin, queue.pending()) == (ON_RECORD, {"url": NOBODY}, 1)


def test_a_queue_whose_settings_cannot_be_recorded_is_drained_but_for_another_way(
    engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: an event must not be put under a way to send that is not on record."""
    leave(NOBODY, engine, 0, 1)
    with place_of(engine).take() as queue:
        kind = type(queue)

    def full(*_args: object) -> None:
        raise QueueFullError("the disk is full")

    monkeypatch.setattr(kind, "set_settings", full)
    leave(NOBODY, engine, 1, 1, max_age=5)
    with pytest.raises(QueueFullError):
        leave(NOBODY, engine, 2, 1, transport=Wire())


def test_the_drain_keeps_to_what_is_on_record(engine: dict[str, Any], run: Callable[..., tuple[int, str]]) -> None:
    """A limit on a request, a status that is tried again, an age; the output says where each comes from."""
    sizes: list[int] = []

    def answer(request: Request) -> Fault | None:
        sizes.append(len(request.body))
        return Fault(status=400) if len(sizes) in (3, 5) else None

    with Collector(script=answer) as collector:
        leave(
            collector.url, engine, 0, 20, byte_limit=500, custom_retry_codes={400: True}, max_retry_delay_seconds=0.05
        )
        code, out = run()
        assert code == Exit.EMPTY
        assert "byte_limit 500 (on record), max_retry_delay_seconds 0.05 s (on record)," in out
        assert "custom_retry_codes {400: True} (on record)" in out
        assert set(collector.eids()) == {eid(number) for number in range(20)}
        assert max(sizes) <= 500


def test_an_option_wins_over_the_record(engine: dict[str, Any], run: Callable[..., tuple[int, str]]) -> None:
    """And one that equals the default is not worth a word."""
    with Collector() as collector:
        leave(collector.url, engine, 0, 20, byte_limit=500, max_age=0.001)
        code, out = run("--json", "--byte-limit", "150000", "--max-age", "none", "--senders", "2")
        report = json.loads(out)
        assert (code, report["delivered"]) == (Exit.EMPTY, 20)
        assert report["details"][0]["settings"] == {"senders": {"value": 2, "from": "--senders"}}


@pytest.mark.sqlite
def test_an_age_on_record_expires_in_a_drain(engine: dict[str, Any], run: Callable[..., tuple[int, str]]) -> None:
    """As it would have in the emitter."""
    with Collector() as collector:
        leave(collector.url, engine, 0, 3, max_age=0.05)
        time.sleep(0.2)
        code, out = run()
        assert code == Exit.EMPTY
        assert "delivered 0, remaining 0, expired 3, max_age 0.05 s (on record)" in out


@pytest.mark.sqlite
@pytest.mark.parametrize(("theirs", "mine", "count"), [(0.05, None, 0), (None, 0.05, 3), (3600, 0.05, 3)])
def test_an_orphan_is_delivered_as_its_own_emitter_was_told(
    theirs: float | None, mine: float | None, count: int, tmp_path: Path
) -> None:
    """Its age is on record with it; the adopter's own is for its own events."""
    with Collector() as collector:
        engine: dict[str, Any] = {"queue_dir": tmp_path}
        with Emitter(collector.url, name="shop", drain=False, **engine) as first:
            first.put(event(9))  # which holds the first slot meanwhile
            leave(collector.url, engine, 0, 3, max_age=theirs)
        time.sleep(0.2)
        with Emitter(collector.url, name="shop", linger=0, max_age=mine, **engine) as emitter:
            emitter.flush(10)
            emitter.put(event(10))
            wait_until(lambda: emitter._open().worker._next_adoption > time.monotonic())  # every orphan was looked at
        assert sum(one in collector.eids() for one in map(eid, range(3))) == count
        with place_of(engine, 1).take() as queue:
            assert queue.is_empty()


def senders() -> list[tuple[str, Callable[..., Emitter], str]]:
    """Return ways of the user's own: how an emitter gets them, and their name on record."""

    def adapted(endpoint: str, **told: Any) -> Emitter:
        session = requests.Session()
        session.mount("http://", Adapter())
        return Emitter(endpoint, session=session, **told)

    return [
        ("transport", lambda url, **told: Emitter(url, transport=Wire(), **told), f"{__name__}.Wire"),
        ("adapter", adapted, f"{__name__}.Adapter"),
        ("subclass", Overriding, f"{__name__}.Overriding"),
        ("its subclass", Inheriting, f"{__name__}.Overriding"),
        ("plain transport", lambda url, **told: Emitter(url, transport=HttpTransport(url), **told), ""),
        ("plain session", lambda url, **told: Emitter(url, session=requests.Session(), **told), ""),
        ("plain", Emitter, ""),
    ]


@pytest.mark.parametrize(("make", "name"), [one[1:] for one in senders()], ids=[one[0] for one in senders()])
def test_a_way_of_the_users_own_is_on_record(make: Callable[..., Emitter], name: str, engine: dict[str, Any]) -> None:
    """By its qualified name: of the class that brings it. Plain HTTP has none."""
    with make(NOBODY, name="shop", drain=False, **engine) as emitter:
        emitter.put(event(1))
    with place_of(engine).take() as queue:
        assert (sender_of(queue.settings) or "") == name


def test_events_that_were_sent_in_another_way_are_not_adopted(engine: dict[str, Any]) -> None:
    """Neither by plain HTTP nor by a third way; what waits is told, with what sends it."""
    with Collector() as collector:
        leave(collector.url, engine, 0, 3, transport=Wire())
        with Lines() as lines, Emitter(collector.url, name="shop", linger=0, **engine) as plain:
            plain.put(event(10))
            assert plain.flush(10)
            assert dict(plain.stats().elsewhere) == {f"{collector.url} by {__name__}.Wire": 3}
        if "queue_dir" in engine:
            assert set(lines.lines) == {"emitter.events_elsewhere"}
        other = OtherWire()
        with Emitter(collector.url, name="shop", linger=0, transport=other, **engine) as third:
            third.put(event(11))
            assert third.flush(10)
        same = Wire()
        with Emitter(collector.url, name="shop", linger=0, transport=same, **engine) as own:
            own.put(event(12))
            assert own.flush(10)
            wait_until(lambda: len(same.eids) == 4)
            assert dict(own.stats().elsewhere) == {}
        assert (list(collector.eids()), other.eids) == ([eid(10)], [eid(11)])
        assert sorted(same.eids) == [eid(0), eid(1), eid(2), eid(12)]


def test_a_way_of_ones_own_takes_over_what_was_to_go_by_http(engine: dict[str, Any]) -> None:
    """A release that recorded nothing, or an application that changes over: nobody else would send it."""
    leave(NOBODY, engine, 0, 3)
    wire = Wire()
    with Emitter(NOBODY, name="shop", linger=0, transport=wire, **engine) as emitter:
        emitter.put(event(5))
        wait_until(lambda: len(wire.eids) == 4)


def test_the_drain_leaves_what_was_sent_in_another_way(
    engine: dict[str, Any], run: Callable[..., tuple[int, str]]
) -> None:
    """It says by what, and sends it by HTTP only if it is told to."""
    with Collector() as collector:
        leave(collector.url, engine, 0, 3, transport=Wire())
        code, out = run()
        assert (code, collector.requests) == (Exit.BACKLOG, 0)
        assert f"delivered 0, remaining 3 (to be sent by {__name__}.Wire: left to an emitter" in out
        assert run("--to", collector.url)[0] == Exit.BACKLOG
        assert run("--as-http")[0] == Exit.EMPTY
        assert len(collector.eids()) == 3
        assert run()[0] == Exit.EMPTY


# ── attributes ───────────────────────────────────────────────────────────────────────────────────────────────────────

OTHER: dict[str, Any] = {
    "batch_size": 3, "buffer_size": 4, "on_success": print, "on_failure": print, "request_timeout": 5,
    "max_retry_delay_seconds": 1.5, "buffer_capacity": 7, "custom_retry_codes": {404: True}, "linger": 1.5,
    "senders": 2, "on_full": "drop_newest", "max_age": 60, "headers": {"X-A": "b"}, "drain": False,
    "shutdown_timeout": 1.5, "report_retries": True, "thread_count": 3,
}  # fmt: skip
"""A value for each attribute that may be assigned to."""

FIXED = {
    "byte_limit", "control", "directory", "durability", "endpoint", "event_store", "max_queue_bytes", "method", "name",
    "port", "protocol", "queue", "queue_dir", "replaces", "request_method", "session", "transport",
}  # fmt: skip
"""Attributes that are read-only."""


def attributes(emitter: Emitter) -> set[str]:
    """Return the names of all that is no method, and of each argument."""
    values = {name for name in dir(emitter) if not name.startswith("_") and not callable(getattr(emitter, name))}
    return values | set(ARGUMENTS) | {"endpoint"}


@pytest.mark.parametrize("kind", [Emitter, AsyncEmitter])
def test_each_attribute_takes_effect_or_is_read_only(kind: type[Emitter], engine: dict[str, Any]) -> None:
    """And none is both: what was assigned is read again, and is a setting; an error names the attribute."""
    with kind(NOBODY, name="shop", **engine) as emitter:
        names = attributes(emitter)
        assert names == FIXED | OTHER.keys() - ({"thread_count"} if kind is Emitter else set())
        for name in sorted(names):
            if name in FIXED:
                before = getattr(emitter, name)
                with pytest.raises(ConfigurationError, match=f"^{name}: "):
                    setattr(emitter, name, "other")
                assert getattr(emitter, name) == before
                continue
            setattr(emitter, name, OTHER[name])
            assert getattr(emitter, name) == OTHER[name]
            if name not in ("on_success", "on_failure"):
                field = {"buffer_size": "batch_size", "thread_count": "senders"}.get(name, name)
                assert getattr(emitter._settings, field) == OTHER[name]


def test_each_assignment_is_checked_and_refused_once_it_is_in_use(engine: dict[str, Any]) -> None:
    """By the name that was written; the number of pending events may be bounded at any time."""
    with AsyncEmitter(NOBODY, name="shop", **engine) as emitter:
        for name in OTHER:
            before = getattr(emitter, name)
            with pytest.raises(ConfigurationError, match=f"^{name}: "):
                setattr(emitter, name, object())
            assert getattr(emitter, name) == before
        emitter.put(event(1))
        for name, value in OTHER.items():
            if name != "buffer_capacity":
                with pytest.raises(ConfigurationError, match=f"^{name}: is in use"):
                    setattr(emitter, name, value)
        emitter.buffer_capacity = 5
    for name, value in OTHER.items():
        with pytest.raises(ConfigurationError, match=f"^{name}: the emitter is closed"):
            setattr(emitter, name, value)


def test_what_is_assigned_takes_effect(engine: dict[str, Any]) -> None:
    """What a full queue does, how long events wait, what is sent with them, who sends, and what is on record."""
    with Collector() as collector, Emitter(collector.url, name="shop", linger=60, **engine) as emitter:
        emitter.headers = {"X-Key": "of the test"}
        emitter.linger = 0
        emitter.max_age = 3600
        emitter.buffer_capacity = 1
        emitter.on_full = "drop_newest"
        emitter.put_many([event(1), event(2)])
        assert collector.wait(distinct=1)
        assert emitter.flush(10)
        assert emitter.stats().dropped == 1
        assert emitter._open().queue.settings["max_age"] == 3600
        with pytest.raises(TypeError):
            emitter.headers["X-Other"] = "too late"
    with Emitter(NOBODY, name="shop", **engine) as later:
        later.drain = False
        later.put(event(3))
        assert not later._open().worker.has_started


def test_what_contradicts_another_setting_is_refused(engine: dict[str, Any]) -> None:
    """As in the constructor; nothing has changed then."""
    with Emitter(NOBODY, name="shop", drain=False, **engine) as emitter:
        with pytest.raises(ConfigurationError, match="on_full: 'block' with drain=False"):
            emitter.on_full = "block"
        assert emitter.on_full == "raise"
    with Overriding(NOBODY, name="shop", **engine) as overriding:
        with pytest.raises(ConfigurationError, match=r"senders .or thread_count.: http_post is overridden"):
            overriding.senders = 2
        assert overriding.senders == 1


class Older(Overriding):
    """A subclass that knows nothing of our arguments, and has attributes of its own."""

    def __init__(self, *args: Any, **told: Any) -> None:
        self.session = self.queue = ["mine"]
        super().__init__(*args, **told)
        self.name = "mine"


def test_a_subclass_has_its_own_attributes(engine: dict[str, Any]) -> None:
    """Of names that the official emitter does not have; no setting of ours is among them."""
    told = {("queue_dir" if "queue_dir" in engine else "queue"): next(iter(engine.values()))}
    with Older(NOBODY, name="shop", drain=False, **told) as emitter:
        assert (emitter.session, emitter.queue, emitter.name) == (["mine"], ["mine"], "mine")
        emitter.put(event(1))
        assert emitter.stats().name == "shop"
        with pytest.raises(ConfigurationError, match=r"^queue_dir: is an argument of the constructor"):
            emitter.queue_dir = "elsewhere"

    class Early(Emitter):
        def __init__(self, *args: Any, **settings: Any) -> None:
            self.linger = 0.0
            super().__init__(*args, **settings)

    with pytest.raises(ConfigurationError, match=r"^linger: give it to the constructor"):
        Early(NOBODY, **engine)
