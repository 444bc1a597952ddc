"""Subclasses that bring their own way to send, sessions, and attributes that are assigned to."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import pytest
import requests
import snowplow_tracker
from fakes import events_in
from faulty_server import FaultyServer, answer
from processes import PROGRAMS, wait_until
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from durable_tracker import (
    AsyncEmitter,
    ConfigurationError,
    Emitter,
    EmitterConfiguration,
    QueueFullError,
    SelfDescribingJson,
    Snowplow,
    Subject,
    Tracker,
)
from durable_tracker.collector.server import Collector
from durable_tracker.delivery import http_transport
from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.overridden import OverriddenTransport
from durable_tracker.delivery.transport import Reply
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

official_tracker: Any = snowplow_tracker
EVENT = b'{"e":"pv","p":"web","tv":"t","eid":"a2a39b1c-6b0f-4f0e-8a53-3a5d3f7c2a11"}'
FAST = {"linger": 0.0, "max_retry_delay_seconds": 0.01}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Plain:
    """A transport that is handed what an override hands on."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.closed = 0

    def send(self, events: Sequence[bytes]) -> Reply:
        return self.reply

    def send_body(self, body: bytes) -> Reply:
        return self.reply

    def close(self) -> None:
        self.closed += 1


class Status(IntEnum):
    REFUSED = 422


@pytest.mark.parametrize(
    ("returned", "status", "error"),
    [
        (True, 200, None),
        (200, 200, None),
        (204, 204, None),
        (400, 400, "HTTP 400"),
        (Status.REFUSED, 422, "HTTP 422"),
        (503, 503, "HTTP 503"),
        (mock.Mock(status_code=200), 200, None),
        (mock.Mock(status_code=503), 503, "HTTP 503"),
        (mock.Mock(status_code=True), None, "http_post returned a Mock, which is no status"),
        (False, None, "http_post returned False"),
        (None, None, "http_post returned None"),
        (-1, None, "http_post returned -1"),
        (1, None, "http_post returned 1"),
        (0, None, "http_post returned 0"),
        (1000, None, "http_post returned 1000"),
        (200.0, None, "http_post returned a float, which is no status"),
        ("200", None, "http_post returned a str, which is no status"),
    ],
)
def test_what_an_override_returns_is_the_answer(returned: object, status: int | None, error: str | None) -> None:
    """A bool before an int; what is no status accuses nobody."""
    transport = OverriddenTransport(object(), "http_post", lambda _: returned, Plain(Reply(status=200)))
    assert transport.send([EVENT]) == Reply(status=status, error=error)


def test_what_is_no_status_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what follows from it; an exception's text, which may hold a payload, is not."""

    def fail(_: str) -> int:
        raise OSError("payloadpayload")

    transport = OverriddenTransport(object(), "http_post", fail, Plain(Reply(status=200)))
    for _ in range(3):
        assert transport.send([EVENT]) == Reply(status=None, error="http_post raised OSError")
    assert events_in(caplog) == ["delivery.override_gave_no_status"]
    assert "payloadpayload" not in repr([vars(record) for record in caplog.records])


def make(url: str, base: type[Emitter], tmp_path: Path, **settings: Any) -> Any:
    return base(url, queue_dir=tmp_path, **{**FAST, **settings})


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize("base", [Emitter, AsyncEmitter])
def test_a_subclass_is_the_way_to_send(method: str, base: type[Emitter], tmp_path: Path) -> None:
    """Called with what the official emitter would call it with, and `super()` sends."""
    given: list[Any] = []

    class Mine(base):  # type: ignore[misc, valid-type]
        def http_post(self, data: str) -> int:
            given.append(json.loads(data)["data"])
            return int(super().http_post(data))

        def http_get(self, payload: dict[str, Any]) -> int:
            given.append([payload])
            return int(super().http_get(payload))

    with Collector() as collector:
        with make(collector.url, Mine, tmp_path, method=method) as emitter:
            emitter.put(EVENT)
            assert emitter.flush(10)
        assert collector.wait(distinct=1)
        assert len(collector.good()) == 1
    ((event,),) = given
    assert event.keys() == json.loads(EVENT).keys() | {"stm"}
    assert event["stm"].isdigit()


def test_only_the_method_that_sends_counts(tmp_path: Path) -> None:
    """A GET's override is nothing to an emitter that sends by POST."""

    class Mine(Emitter):
        def http_get(self, payload: Any) -> int:
            raise AssertionError(payload)

    with Collector() as collector, make(collector.url, Mine, tmp_path, senders=2) as emitter:
        emitter.put(EVENT)
        assert emitter.flush(10)


def test_a_method_that_is_patched_counts_as_overridden(tmp_path: Path) -> None:
    """On the class, as tests of the official tracker do, and on the object."""
    with mock.patch.object(Emitter, "http_post", return_value=200) as patched:
        with make("c.invalid", Emitter, tmp_path) as emitter:
            emitter.put(EVENT)
            assert emitter.flush(10)
        assert patched.call_count == 1
    with make("c.invalid", Emitter, tmp_path) as emitter:
        emitter.http_post = mock.Mock(return_value=200)
        emitter.put(EVENT)
        assert emitter.flush(10)
        assert [json.loads(EVENT)["eid"]] == [
            event["eid"] for event in json.loads(emitter.http_post.call_args.args[0])["data"]
        ]


def test_statuses_mean_what_they_mean_from_a_collector(tmp_path: Path) -> None:
    """An outage is waited for; what is refused among others that are accepted is dead-lettered."""
    answers: list[int | Exception] = [503, False, OSError(), -1]

    class Mine(Emitter):
        def http_post(self, data: str) -> int:
            if answers:
                answer = answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return answer
            return 400 if '"poison"' in data else 200

    with make("c.invalid", Mine, tmp_path) as emitter:
        emitter.put_many([EVENT, b'{"e":"pv","page":"poison"}', *[EVENT] * 8])
        wait_until(lambda: not emitter.stats().ledger.pending)
        ledger = emitter.stats().ledger
        assert (ledger.delivered, ledger.dead) == (9, 1)
    assert not answers


def test_an_override_never_has_an_event_dead_lettered_without_a_status(tmp_path: Path) -> None:
    """It holds the queue, and says why."""
    calls: list[str] = []

    class Mine(Emitter):
        def http_post(self, data: str) -> bool:
            calls.append(data)
            return "poison" not in data

    with make("c.invalid", Mine, tmp_path, batch_size=1) as emitter:
        emitter.put_many([EVENT, b'{"e":"pv","page":"poison"}', EVENT])
        wait_until(lambda: len(calls) > 8)
        stats = emitter.stats()
        assert (stats.ledger.delivered, stats.ledger.pending, stats.ledger.dead) == (1, 2, 0)
        assert stats.last_error == "http_post returned False"


def test_one_call_at_a_time(tmp_path: Path) -> None:
    """Several senders would be several calls."""

    class Mine(Emitter):
        def http_post(self, data: str) -> int:
            return 200

    with pytest.raises(ConfigurationError, match=r"senders \(or thread_count\): http_post is overridden"):
        make("c.invalid", Mine, tmp_path, senders=2)
    with pytest.raises(ConfigurationError, match="transport: http_post is overridden"):
        make("c.invalid", Mine, tmp_path, transport=Plain(Reply(status=200)))


def test_a_retry_after_survives_super(tmp_path: Path) -> None:
    """Though the method returns the status alone."""
    with FaultyServer([answer(503, headers="Retry-After: 17\r\n"), answer()]) as server:

        class Mine(Emitter):
            def http_post(self, data: str) -> int:
                return super().http_post(data)

        emitter = make(f"127.0.0.1:{server.port}", Mine, tmp_path, protocol="http", drain=False)
        transport = emitter._make_transport()
        assert transport.send([EVENT]) == Reply(status=503, retry_after_s=17, error="HTTP 503")
        assert transport.send([EVENT]) == Reply(status=200)
        transport.close()
    refused = emitter._make_transport()
    assert refused.send([EVENT]) == Reply(status=None, error="the connection failed: Connection refused")
    emitter.close()


def test_the_methods_can_be_called_by_anybody(tmp_path: Path) -> None:
    """Beside the queue, on an emitter that overrides nothing, and from within another emitter's override."""
    with Collector() as collector:
        made = [
            make(collector.url, Emitter, tmp_path, method=method, drain=False, name=method)
            for method in ("post", "get")
        ]
        post, get = made
        envelope = '{"schema":"iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4","data":[%s]}'
        body = envelope % EVENT.decode()
        assert post.http_post(body) == 200
        assert get.http_get(json.loads(EVENT)) == 200
        with pytest.raises(ConfigurationError, match="http_get: this emitter does not send by GET"):
            post.http_get({})
        with pytest.raises(ConfigurationError, match="http_post: this emitter does not send by POST"):
            get.http_post("")

        class Forwarding(Emitter):
            def http_post(self, data: str) -> int:
                return int(post.http_post(data))

        with make("c.invalid", Forwarding, tmp_path) as emitter:
            emitter.put(EVENT)
            assert emitter.flush(10)
        assert len(collector.good()) == 3
        for one in made:
            one.close()
    assert post.http_post(body) == -1


@pytest.mark.parametrize("how", ["flush", "close"])
def test_flush_and_close_keep_their_deadlines(how: str, tmp_path: Path) -> None:
    """A method that hangs holds up its own thread."""
    is_over = threading.Event()

    class Mine(Emitter):
        def http_post(self, data: str) -> int:
            is_over.wait(30)
            return 200

    emitter = make("c.invalid", Mine, tmp_path)
    emitter.put(EVENT)
    started_at = time.monotonic()
    assert getattr(emitter, how)(0.3) is False
    assert time.monotonic() - started_at < 5
    is_over.set()
    emitter.close()


def test_the_exit_keeps_its_deadline(tmp_path: Path) -> None:
    """With a method that hangs for ever; the event is there for the next process that sends in that way."""
    command = [sys.executable, str(PROGRAMS / "hang_in_an_overridden_method.py"), str(tmp_path), EVENT.decode()]
    started_at = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "called\n", "")
    assert time.monotonic() - started_at < 10
    with make("c.invalid", Emitter, tmp_path, name="n", drain=False) as successor:
        successor.put(EVENT)
        assert dict(successor.stats().elsewhere) == {"https://c.invalid by __main__.Mine": 1}


def test_one_that_is_dropped_unclosed_goes_on(tmp_path: Path) -> None:
    """Its worker needs it: what it has is delivered."""

    class Mine(Emitter):
        made: ClassVar[list[weakref.ref[Emitter]]] = []
        sent: ClassVar[list[str]] = []

        def http_post(self, data: str) -> int:
            may_send.wait(10)
            self.sent.append(data)
            return 200

    may_send = threading.Event()

    def drop() -> None:
        emitter = make("c.invalid", Mine, tmp_path)
        Mine.made.append(weakref.ref(emitter))
        emitter.put(EVENT)

    drop()
    gc.collect()
    may_send.set()
    wait_until(lambda: bool(Mine.sent))
    emitter = Mine.made[0]()
    assert emitter is not None
    assert emitter.close()


def test_a_child_sends_by_its_own_call(tmp_path: Path) -> None:
    """After a fork."""

    class Mine(Emitter):
        pids: ClassVar[list[int]] = []

        def http_post(self, data: str) -> int:
            self.pids.append(os.getpid())
            return super().http_post(data)

    with Collector() as collector:
        emitter = make(collector.url, Mine, tmp_path)
        emitter.put(EVENT)
        assert emitter.flush(10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            emitter.put(EVENT.replace(b"a2a3", b"a2a4"))
            os._exit(0 if emitter.flush(10) and Mine.pids[-1] == os.getpid() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert collector.wait(distinct=2)
        emitter.close()


@pytest.mark.parametrize("name", ["attach_sent_timestamp", "reached_limit", "is_good_status_code"])
def test_what_is_never_called_is_said_at_definition(name: str) -> None:
    """A warning, with what stands in its place; the class can be used."""
    with pytest.warns(UserWarning, match=f"Mine.{name} is never called: ") as caught:
        type("Mine", (Emitter,), {name: lambda *_: None})
    assert __file__ == caught[0].filename


# ── send_events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize("base", [Emitter, AsyncEmitter])
def test_a_send_events_that_hands_on_is_the_way_to_send(method: str, base: type[Emitter], tmp_path: Path) -> None:
    """It gets the official argument, and returns nothing, as the official one does."""
    given: list[Any] = []

    class Mine(base):  # type: ignore[misc, valid-type]
        def send_events(self, evts: Any) -> None:
            given.extend(evts)
            super().send_events(evts)

    with Collector() as collector:
        with make(collector.url, Mine, tmp_path, method=method) as emitter:
            emitter.put_many([EVENT, EVENT.replace(b"a2a3", b"a2a4")])
            assert emitter.flush(10)
        assert collector.wait(distinct=2)
        assert len(collector.good()) == 2
    assert [event["e"] for event in given] == ["pv", "pv"]


def test_send_events_goes_through_an_overridden_http_post(tmp_path: Path) -> None:
    """As the official one does; the answer is that of the last in the row."""
    answers: list[object] = [503, False, mock.Mock(status_code=200)]
    given: list[int] = []

    class Mine(Emitter):
        def send_events(self, evts: Any) -> None:
            super().send_events(evts)

        def http_post(self, data: str) -> Any:
            given.append(len(json.loads(data)["data"]))
            return answers.pop(0)

    with make("c.invalid", Mine, tmp_path) as emitter:
        emitter.put_many([EVENT] * 3)
        wait_until(lambda: not emitter.stats().ledger.pending)
        assert emitter.stats().ledger.delivered == 3
    assert (answers, given[0]) == ([], 3)


@pytest.mark.parametrize(
    ("returned", "fate"),
    [(True, "delivered"), (204, "delivered"), (None, "pending"), (False, "pending"), ("raise", "pending")],
)
def test_a_send_events_that_does_not_hand_on_answers_for_itself(
    returned: Any, fate: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing leaves the queue for an answer that it did not give."""
    calls: list[int] = []

    class Mine(Emitter):
        def send_events(self, evts: Any) -> Any:
            calls.append(len(evts))
            if returned == "raise":
                raise OSError
            return returned

    with make("c.invalid", Mine, tmp_path) as emitter:
        emitter.put(EVENT)
        wait_until(lambda: bool(calls))
        emitter.flush(5)
        assert getattr(emitter.stats().ledger, fate) == 1
    assert events_in(caplog).count("delivery.override_gave_no_status") == (fate == "pending")


def test_a_send_events_that_hands_on_a_part_has_not_sent_the_rest(tmp_path: Path) -> None:
    """A part that is refused is the answer to all, and what was kept back is no answer."""
    plain = Plain(Reply(status=200))
    emitter = make("c.invalid", Emitter, tmp_path, drain=False)

    def first_alone(evts: Any) -> None:
        Emitter.send_events(emitter, evts[:1])

    def each(evts: Any) -> None:
        for event in evts:
            Emitter.send_events(emitter, [event])
            plain.reply = Reply(status=200)

    with mock.patch.object(emitter, "_make_plain", return_value=plain):
        transport = OverriddenTransport(emitter, "send_events", first_alone, plain)
        assert transport.send([EVENT]) == Reply(status=200)
        assert transport.send([EVENT, EVENT]) == Reply(status=None, error="send_events returned None")
        plain.reply = Reply(status=503, retry_after_s=7, error="HTTP 503")
        transport = OverriddenTransport(emitter, "send_events", each, plain)
        assert transport.send([EVENT, EVENT]) == Reply(status=503, retry_after_s=7, error="HTTP 503")
    emitter.close()


def test_what_the_official_emitter_has_beside_can_be_called(tmp_path: Path) -> None:
    """By a subclass's own code, or a test; nothing here does."""
    events: list[dict[str, Any]] = [{"e": "pv", "p": "web", "tv": "t"}]
    Emitter.attach_sent_timestamp(events)
    assert events[0]["stm"].isdigit()
    with Collector() as collector, make(collector.url, Emitter, tmp_path, linger=60, batch_size=2) as emitter:
        assert not emitter.reached_limit()
        assert emitter.send_events([]) is None
        assert emitter.send_events(events) == 200
        assert len(collector.good()) == 1
        emitter.put(EVENT)
        assert not emitter.reached_limit()
    with make("c.invalid", Emitter, tmp_path, drain=False, batch_size=2) as emitter:
        emitter.put_many([EVENT, EVENT])
        assert emitter.reached_limit()


# ── attributes that are assigned to ──────────────────────────────────────────────────────────────────────────────────


def test_what_an_address_decides_cannot_be_assigned(tmp_path: Path) -> None:
    """A queue belongs to it; the message says what to do."""
    with make("c.invalid", Emitter, tmp_path) as emitter:
        for name, value, named in (
            ("endpoint", "d.invalid", "a queue belongs to the address"),
            ("method", "get", "make another Emitter"),
            ("byte_limit", 1_000_000, "give more to the constructor"),
        ):
            with pytest.raises(ConfigurationError, match=f"{name}: .*{named}"):
                setattr(emitter, name, value)


def test_what_is_assigned_before_the_first_event_takes_effect(tmp_path: Path) -> None:
    """As in a subclass's constructor; later it is an error, and so is what is not usable."""
    delivered: list[int] = []
    with Collector() as collector, make(collector.url, Emitter, tmp_path, linger=60) as emitter:
        emitter.batch_size = 2
        emitter.on_success = lambda events: delivered.append(len(events))
        emitter.request_timeout = 5
        emitter.max_retry_delay_seconds = 1
        emitter.custom_retry_codes = {404: True}
        assert (
            emitter.batch_size, emitter.request_timeout, emitter.max_retry_delay_seconds, emitter.custom_retry_codes
        ) == (2, 5, 1, {404: True})  # fmt: skip
        for name, value in (
            ("batch_size", 0),
            ("on_failure", "log"),
            ("request_timeout", -1),
            ("max_retry_delay_seconds", None),
            ("custom_retry_codes", {200: True}),
        ):
            with pytest.raises(ConfigurationError, match=name):
                setattr(emitter, name, value)
        emitter.put_many([EVENT] * 4)
        wait_until(lambda: sum(delivered) == 4)
        assert delivered == [2, 2]
        with pytest.raises(ConfigurationError, match="batch_size: is in use"):
            emitter.batch_size = 3


def sent_by(emitter: Any, count: int = 4) -> list[int]:
    """Return how many events each request carries that an emitter sends."""
    counts: list[int] = []

    def http_post(data: str) -> int:
        counts.append(len(json.loads(data)["data"]))
        return 200

    emitter.http_post = http_post
    emitter.put_many([EVENT] * count)
    assert emitter.flush(10)
    return counts


def is_full(emitter: Any, count: int) -> bool:
    with pytest.raises(QueueFullError):
        emitter.put_many([EVENT] * count)
    return True


def reports_success(emitter: Any) -> bool:
    count = len(sent_by(emitter))
    wait_until(lambda: len(DELIVERED) == count)
    return True


def failed(emitter: Any, calls: list[Any]) -> bool:
    """Return whether an emitter's callback is called for an outage."""
    emitter.on_failure = lambda *call: calls.append(call)
    emitter.http_post = lambda _: 503
    emitter.put(EVENT)
    wait_until(lambda: emitter.stats().requests > 1)
    return bool(calls)


ASSIGNED: dict[str, tuple[Any, Callable[[Any], object]]] = {
    # Each with a value, and what is True of an emitter that it was assigned to.
    "batch_size": (2, lambda e: sent_by(e) == [2, 2]),
    "buffer_size": (2, lambda e: sent_by(e) == [2, 2]),
    "byte_limit": (1200, lambda e: max(sent_by(e, 20)) < 20),
    "buffer_capacity": (3, lambda e: is_full(e, 4)),
    "request_timeout": (7, lambda e: e._make_plain()._read_timeout_s == 7),
    "max_retry_delay_seconds": (0.01, lambda e: e._delivery_settings().max_retry_delay_seconds == 0.01),
    "custom_retry_codes": ({404: True}, lambda e: e._delivery_settings().custom_retry_codes == {404: True}),
    "on_success": (lambda events: DELIVERED.append(len(events)), reports_success),
    "on_failure": (lambda *_: None, lambda e: e.on_failure is not None),
    "linger": (0.0, lambda e: e._settings.linger == 0.0),
    "senders": (2, lambda e: e._delivery_settings().senders == 2),
    "max_age": (60, lambda e: e._delivery_settings().max_age == 60),
    "shutdown_timeout": (1, lambda e: e.shutdown_timeout == 1),
    "report_retries": (True, lambda e: failed(e, [])),
}
DELIVERED: list[int] = []
REFUSED: dict[str, Any] = {
    "endpoint": "d.invalid", "method": "get", "request_method": None, "durability": "always", "directory": None,
    "max_queue_bytes": 1 << 30, "event_store": None,
}  # fmt: skip


@pytest.mark.parametrize("name", ASSIGNED)
def test_an_attribute_that_is_assigned_takes_effect(name: str, tmp_path: Path) -> None:
    """On an emitter that was made, and in a subclass's constructor; None of it if it is not usable."""
    value, is_so = ASSIGNED[name]
    DELIVERED.clear()

    class Mine(Emitter):
        def __init__(self, **settings: Any) -> None:
            if name in vars(official_tracker.Emitter("c.invalid")):  # ours it would be told to give to the constructor
                setattr(self, name, value)
            super().__init__("http://127.0.0.1:9", queue_dir=tmp_path, max_retry_delay_seconds=0.05, **settings)
            setattr(self, name, value)

    for emitter in (Mine(name="a"), make("http://127.0.0.1:9", Emitter, tmp_path, name="b", max_retry_delay_seconds=1)):
        setattr(emitter, name, value)
        DELIVERED.clear()
        assert is_so(emitter)
        with pytest.raises(ConfigurationError, match=name):
            setattr(emitter, name, object())
        emitter.close(0)


@pytest.mark.parametrize("name", REFUSED)
def test_an_attribute_that_cannot_be_assigned_says_so(name: str, tmp_path: Path) -> None:
    """It is never taken and ignored."""
    with make("c.invalid", Emitter, tmp_path) as emitter:
        before = getattr(emitter, name)
        with pytest.raises((ConfigurationError, AttributeError), match=name):
            setattr(emitter, name, REFUSED[name])
        assert getattr(emitter, name) == before


@pytest.mark.parametrize("how", ["class", "object", "subclass"])
def test_whoever_patches_input_gets_the_dicts(how: str, tmp_path: Path) -> None:
    """As tests of the official tracker do; nothing is stored."""

    class Mine(Emitter):
        pass

    with make("c.invalid", Mine if how == "subclass" else Emitter, tmp_path, drain=False) as emitter:
        tracker = Tracker("ns", emitter)
        target = {"class": Emitter, "object": emitter, "subclass": Mine}[how]
        with mock.patch.object(target, "input") as patched:
            tracker.track_page_view("u").track_ecommerce_transaction("o", 1)
        assert [call.args[0]["e"] for call in patched.call_args_list] == ["pv", "tr"]
        tracker.track_page_view("u")
        assert emitter.stats().ledger.accepted == 1


def test_several_senders_are_refused_beside_an_override_later_too(tmp_path: Path) -> None:
    """By assignment as by the constructor."""

    class Mine(Emitter):
        def http_post(self, data: str) -> int:
            return 200

    with make("c.invalid", Mine, tmp_path) as emitter, pytest.raises(ConfigurationError, match="senders"):
        emitter.senders = 2


def test_a_trackers_attributes_take_effect() -> None:
    """All that the official tracker has."""
    first, second = RecordingEmitter(), RecordingEmitter()
    tracker = Tracker("ns", first)
    assert vars(official_tracker.Tracker("ns", first)).keys() <= vars(tracker).keys()
    tracker.emitters = [second]
    tracker.subject = Subject().set_user_id("u")
    tracker.encode_base64 = False
    tracker.json_encoder = str
    tracker.standard_nv_pairs["aid"] = "app"
    tracker.timer = None
    tracker.track_unstruct_event(SelfDescribingJson("iglu:a/b/jsonschema/1-0-0", {"a": Status}))
    (event,) = second.events
    assert (event.wire["uid"], event.wire["aid"], event.data) == ("u", "app", {"a": str(Status)})
    assert "ue_pr" in event.wire
    assert first.events == []


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def session_with(**settings: Any) -> requests.Session:
    session = requests.Session()
    headers = settings.pop("headers", {})
    session.headers.update(headers)
    for name, value in settings.items():
        setattr(session, name, value)
    return session


def exchanged(session: requests.Session, *faults: Callable[[Any], object], **settings: Any) -> FaultyServer:
    """Send by POST with a session's settings, once for each fault."""
    with FaultyServer([*faults, answer()]) as server:
        transport = HttpTransport(server.url, session=session, **settings)
        for _ in faults or (None,):
            transport.send([EVENT])
        transport.close()
    return server


def test_a_sessions_headers_are_sent() -> None:
    """Those that it was given; ours of the framing, and the content type, stay; `headers` win."""
    session = session_with(
        headers={"X-A": "a", "x-b": b"b", "X-C": "c", "User-Agent": "mine", "Content-Type": "text/plain", "TE": "x"}
    )
    (request,) = exchanged(session, headers={"X-C": "ours"}).requests
    sent = {name: request.headers.get(name) for name in ("x-a", "x-b", "x-c", "user-agent", "te", "content-type")}
    assert sent == {
        "x-a": "a",
        "x-b": "b",
        "x-c": "ours",
        "user-agent": "mine",
        "te": None,
        "content-type": "application/json; charset=utf-8",
    }
    (request,) = exchanged(requests.Session()).requests
    assert request.headers["user-agent"] == "durable-tracker"


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize(
    ("headers", "of_session", "agent"),
    [
        ({}, None, "durable-tracker"),
        ({}, {}, "durable-tracker"),
        ({"user-agent": "mine/1"}, None, "mine/1"),
        ({}, {"User-Agent": "its/2"}, "its/2"),
        ({"User-Agent": "mine/1"}, {"user-agent": "its/2"}, "mine/1"),
    ],
)
def test_the_user_agent_can_be_set(
    method: str, headers: dict[str, str], of_session: dict[str, str] | None, agent: str, tmp_path: Path
) -> None:
    """By `headers`, or by those of a session."""
    session = None if of_session is None else session_with(headers=of_session)
    with Collector() as collector:
        with make(collector.url, Emitter, tmp_path, method=method, headers=headers, session=session) as emitter:
            emitter.put(EVENT)
            assert emitter.flush(10)
        (event,) = collector.good()
    assert event["rawEvent"]["context"]["useragent"] == agent


class Token(AuthBase):
    """Another one for each request."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        self.count += 1
        request.headers["Authorization"] = f"Token {self.count}"
        return request


def test_a_sessions_auth_is_used() -> None:
    """A pair, an object, a function that is called for each request."""
    basic = exchanged(session_with(auth=("user", "pass"))).requests[0].headers["authorization"]
    assert basic == exchanged(session_with(auth=HTTPBasicAuth("user", "pass"))).requests[0].headers["authorization"]
    assert basic.startswith("Basic ")
    server = exchanged(session_with(auth=Token()), answer(), answer())
    assert [request.headers["authorization"] for request in server.requests] == ["Token 1", "Token 2"]


def test_a_digest_is_answered() -> None:
    """By the second request of the same exchange, within its bounds."""
    challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=MD5\r\nSet-Cookie: sp=1\r\n'
    server = exchanged(session_with(auth=HTTPDigestAuth("user", "pass")), answer(401, headers=challenge))
    assert len(server.requests) == 2
    assert server.requests[1].headers["authorization"].startswith("Digest ")
    assert "cookie" not in server.requests[1].headers
    assert server.requests[0].body == server.requests[1].body


def test_an_auth_that_raises_is_no_answer() -> None:
    """Its text goes nowhere."""

    def fail(_: requests.PreparedRequest) -> requests.PreparedRequest:
        raise ValueError("secret")

    transport = HttpTransport("http://127.0.0.1:9/", session=session_with(auth=fail))
    assert transport.send([EVENT]) == Reply(status=None, error="ValueError")


def test_a_sessions_proxies_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the environment counts as well is what `trust_env` says."""
    with FaultyServer() as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        transport = HttpTransport("http://c.invalid/", session=session_with(proxies={"http": address}))
        assert transport.send([EVENT]) == Reply(status=200)
        transport.close()
        monkeypatch.setenv("http_proxy", address)
        transport = HttpTransport("http://c.invalid/", session=session_with(trust_env=False))
        assert transport.send([EVENT]).status is None
        transport.close()
    assert len(proxy.requests) == 1


def test_a_sessions_settings_are_read_once_and_its_cookies_are_not(tmp_path: Path) -> None:
    """What happens to the object later is its owner's business; it is never sent with."""
    session = session_with(headers={"X-A": "before"})
    session.cookies.set("sp", "mine")
    session.hooks["response"].append(mock.Mock(side_effect=AssertionError))
    server = FaultyServer([answer(headers="Set-Cookie: sp=1\r\n"), answer()])
    with server, make(f"127.0.0.1:{server.port}", Emitter, tmp_path, protocol="http", session=session) as emitter:
        session.headers["X-A"] = "after"
        with mock.patch.object(session, "send", side_effect=AssertionError):
            for _ in range(2):
                emitter.put(EVENT)
                assert emitter.flush(10)
    assert [request.headers["x-a"] for request in server.requests] == ["before", "before"]
    assert not any("cookie" in request.headers for request in server.requests)
    assert session.cookies.get_dict() == {"sp": "mine"}


def test_what_a_session_verifies_with_is_used() -> None:
    """And its certificate."""
    transport = HttpTransport("https://c.invalid/", session=session_with(verify=False, cert="/c.pem", trust_env=False))
    assert (transport._verify, transport._cert) == (False, "/c.pem")
    assert HttpTransport("https://c.invalid/")._verify is True


class Signing(HTTPAdapter):
    """One of the user's own."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        request.headers["X-Signed"] = "yes"
        return super().send(request, *args, **options)


@pytest.mark.parametrize("method", ["post", "get"])
def test_an_adapter_of_the_users_own_is_used(
    method: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is; no redirect is followed and no cookie kept; what is not to be had with it is logged once."""
    monkeypatch.setattr(http_transport, "_said", set())
    session = requests.Session()
    session.mount("http://", Signing())
    redirect = answer(302, b"x" * 3_000_000, headers="Location: /elsewhere\r\nSet-Cookie: sp=1\r\n")
    with FaultyServer([redirect, answer()]) as server:
        for _ in range(2):
            transport = HttpTransport(server.url, session=session, method=method)
            assert transport.send([EVENT]).status in (302, 200)
            transport.close()
    session.close()
    assert [request.headers.get("x-signed") for request in server.requests] == ["yes", "yes"]
    assert events_in(caplog) == ["transport.adapter_of_the_session"]
    assert not any("cookie" in request.headers for request in server.requests)
    assert all("eid=" in request.line for request in server.requests) == (method == "get")


def test_a_session_that_sends_in_its_own_way_is_said_not_to(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are used."""
    monkeypatch.setattr(http_transport, "_said", set())

    class Mine(requests.Session):
        def request(self, *_: Any, **__: Any) -> requests.Response:
            raise AssertionError

    (request,) = exchanged(Mine()).requests
    assert request.body
    assert events_in(caplog) == ["transport.session_not_sent_with"]


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (object(), "session: must be a requests.Session"),
        (session_with(headers={"X-A": "a\r\nEvil: 1"}), "session: headers: the value of X-A"),
        (session_with(adapters={}), "session: no adapter is mounted"),
    ],
)
def test_a_session_that_is_not_usable_is_refused(session: Any, message: str, tmp_path: Path) -> None:
    """At construction, by name, and without a value."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        make("http://c.invalid", Emitter, tmp_path, session=session)
    assert "Evil" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="session: has no effect"):
        make("http://c.invalid", Emitter, tmp_path, session=session, transport=Plain(Reply(status=200)))


def test_a_session_in_a_configuration_reaches_the_emitter(tmp_path: Path) -> None:
    """As the official one does."""
    Snowplow.reset()
    with FaultyServer() as server:
        configuration = EmitterConfiguration(session=session_with(headers={"X-A": "a"}), queue_dir=tmp_path, linger=0.0)
        tracker: Tracker = Snowplow.create_tracker("ns", server.url.rsplit("/", 2)[0], emitter_config=configuration)
        tracker.track_page_view("http://x.example")
        assert tracker.flush(timeout=10)
        tracker.close()
    Snowplow.reset()
    assert server.requests[0].headers["x-a"] == "a"
