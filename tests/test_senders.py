"""Requests in flight: what is done between making one and sending it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from durable_tracker.delivery.senders import Senders
from durable_tracker.delivery.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Parcel:
    """Notes when its events are made."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def events(self) -> Sequence[bytes]:
        self.notes.append("made")
        return [b"{}"]


class Plain:
    """Notes when it sends."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def send(self, _events: Sequence[bytes]) -> Reply:
        self.notes.append("sent")
        return Reply(status=200)

    def close(self) -> None:
        pass


class Overlapping(Plain):
    """As HTTP, which can tell when a request is out."""

    def send_and(self, events: Sequence[bytes], meanwhile: Callable[[], object]) -> Reply:
        reply = self.send(events)
        meanwhile()
        return reply


@pytest.mark.parametrize("kind", [Plain, Overlapping])
def test_there_is_a_rest_between_making_a_request_and_sending_it(kind: type[Plain]) -> None:
    """Making a large one takes some milliseconds of the core, which are not to be followed by those of sending."""
    notes: list[str] = []
    pipeline: Senders[Parcel] = Senders(kind(notes), 1, lambda: notes.append("rested"))
    pipeline.submit(Parcel(notes))
    pipeline.collect(lambda: notes.append("meanwhile"))
    assert notes[:3] == ["made", "rested", "sent"]
    assert notes[3:] == (["meanwhile"] if kind is Overlapping else [])
