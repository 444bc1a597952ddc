"""For the tests of those who use this package: trackers without a disk and without a collector.

An emitter that records:

    emitter = RecordingEmitter()
    tracker = Tracker("shop", emitter)
    ...
    assert [event.schema for event in emitter.events] == ["iglu:com.acme/save_game/jsonschema/1-0-0"]

And a pytest fixture, which pytest finds by itself once the package is installed, for code that has made its tracker
already: while a test uses `tracked_events`, every tracker of the process records there and its emitters get nothing.

    def test_saving_is_tracked(tracked_events):
        save_game()
        assert tracked_events[0].data == {"level": 3}

An engine that keeps queues in memory, for what an emitter does beside a collector that is slow, down, or refuses:

    engine = MemoryEngine("shop")
    emitter = Emitter(collector.url, queue=engine)
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from durable_tracker.self_describing_json import SelfDescribingJson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from durable_tracker.engines.memory import MemoryEngine, MemoryQueue

__all__ = ["MemoryEngine", "MemoryQueue", "RecordedEvent", "RecordingEmitter", "TrackedEvents"]

try:
    import pytest
except ImportError:  # the emitter is of use without it
    pytest = None  # type: ignore[assignment]


def __getattr__(name: str) -> Any:
    if name not in ("MemoryEngine", "MemoryQueue"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # pytest loads this module at every start, and needs neither.
    return getattr(import_module("durable_tracker.engines.memory"), name)


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One event as it would be sent.

    Attributes:
        wire: its fields by their names in the protocol, all text, without `stm`.
        schema: the schema of a self-describing event, else None.
        data: the data of a self-describing event, else None.
        contexts: its entities.
    """

    wire: dict[str, str]
    schema: str | None = None
    data: Any = None
    contexts: list[SelfDescribingJson] = field(default_factory=list)

    @property
    def eid(self) -> str:
        """The id of the event, as `track` returned it."""
        return self.wire["eid"]

    @property
    def code(self) -> str:
        """The kind of event: pv, pp, se, ue, tr or ti."""
        return self.wire["e"]

    @classmethod
    def decode(cls, payload: bytes) -> RecordedEvent:
        """Return the event that an emitter was given as `payload`."""
        wire = json.loads(payload)
        event = _decode(wire.get("ue_px"), wire.get("ue_pr")) or {}
        entities = _decode(wire.get("cx"), wire.get("co")) or []
        contexts = [SelfDescribingJson(entity["schema"], entity["data"]) for entity in entities]
        return cls(wire, event.get("schema"), event.get("data"), contexts)


def _decode(encoded: str | None, plain: str | None) -> Any:
    if encoded is not None:
        return json.loads(base64.urlsafe_b64decode(encoded))["data"]
    return None if plain is None else json.loads(plain)["data"]


class RecordingEmitter:
    """Keeps what it is given in memory. A tracker takes it in place of an `Emitter`. Thread-safe.

    Args:
        error: raised in place of recording, to see how code copes with a full disk, for example.

    Attributes:
        payloads: the events so far, as they would be stored.
        invalid: what trackers with `on_invalid="dead_letter"` refused, and why.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.payloads: list[bytes] = []
        self.invalid: list[tuple[bytes, str]] = []
        self.is_closed = False

    @property
    def events(self) -> list[RecordedEvent]:
        """The events so far, oldest first, decoded."""
        return [RecordedEvent.decode(payload) for payload in list(self.payloads)]

    def put(self, payload: bytes) -> None:
        """Record one event."""
        self.put_many((payload,))

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Record events."""
        if self.error is not None:
            raise self.error
        self.payloads.extend(payloads)

    def put_invalid(self, payload: bytes, reason: str) -> None:
        """Record an event that a tracker refused."""
        if self.error is not None:
            raise self.error
        self.invalid.append((payload, reason))

    def clear(self) -> None:
        """Forget the events so far."""
        self.payloads.clear()
        self.invalid.clear()

    def flush(self, timeout: float | None = None) -> bool:
        """Do nothing; nothing is left to send."""
        del timeout
        return True

    def close(self, timeout: float | None = None) -> bool:
        """Note that it was closed; it goes on recording."""
        del timeout
        self.is_closed = True
        return True


class TrackedEvents:
    """What all trackers of the process tracked, as a sequence of `RecordedEvent`, oldest first."""

    def __init__(self, emitter: RecordingEmitter) -> None:
        self._emitter = emitter

    def __len__(self) -> int:
        return len(self._emitter.payloads)

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(self._emitter.events)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordedEvent]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | list[RecordedEvent]:
        if isinstance(index, slice):
            return self._emitter.events[index]
        return RecordedEvent.decode(self._emitter.payloads[index])

    def clear(self) -> None:
        """Forget the events so far."""
        self._emitter.clear()


if pytest is not None:

    @pytest.fixture
    def recording_emitter() -> RecordingEmitter:
        """An emitter that records, for a tracker that the test makes."""
        return RecordingEmitter()

    @pytest.fixture
    def tracked_events(monkeypatch: pytest.MonkeyPatch) -> TrackedEvents:
        """What all trackers of the process track during the test; their emitters get nothing."""
        emitter = RecordingEmitter()
        place = "durable_tracker.tracker"  # by name: pytest loads this module at every start
        monkeypatch.setattr(f"{place}.hand_out", lambda _, payloads: emitter.put_many(payloads))
        monkeypatch.setattr(f"{place}.set_aside", lambda _, payload, reason, __: emitter.put_invalid(payload, reason))
        return TrackedEvents(emitter)
