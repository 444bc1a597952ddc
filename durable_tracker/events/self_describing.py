"""An event that a schema describes (event code ue)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_tracker.events.event import Event
from durable_tracker.runtime.elsewhere import names_from_elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.self_describing_json import SelfDescribingJson
    from durable_tracker.subject import Subject


class SelfDescribing(Event):
    """An event that a schema describes."""

    def __init__(
        self,
        event_json: SelfDescribingJson,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "ue"}, event_subject, context, true_timestamp)
        self.event_json = event_json

    def describe(self) -> SelfDescribingJson:
        """Return the content."""
        return self.event_json


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
