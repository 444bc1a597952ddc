"""An event of a category, an action and details (event code se)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_tracker.events.event import Event, Field
from durable_tracker.protocol.fields import require_text
from durable_tracker.runtime.elsewhere import names_from_elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.self_describing_json import SelfDescribingJson
    from durable_tracker.subject import Subject


class StructuredEvent(Event):
    """An event of a category, an action and up to three details."""

    category = Field[str]("se_ca", "The group that the event belongs to. Not empty.", required=True)
    action = Field[str]("se_ac", "What happened. Not empty.", required=True)
    label = Field["str | None"]("se_la", "What it happened to.")
    property_ = Field["str | None"]("se_pr", "A detail of the action or of the object.")
    value = Field["float | None"]("se_va", "A number; finite.")

    def __init__(
        self,
        category: str,
        action: str,
        label: str | None = None,
        property_: str | None = None,
        value: float | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__(None, event_subject, context, true_timestamp)
        require_text("se_ca", category)
        require_text("se_ac", action)
        # By hand rather than through the properties: this event is the one that is made in loops.
        pairs = self.pairs = {"e": "se", "se_ca": category, "se_ac": action}
        if label is not None:
            pairs["se_la"] = label
        if property_ is not None:
            pairs["se_pr"] = property_
        if value is not None:
            pairs["se_va"] = value


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
