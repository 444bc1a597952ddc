"""The view of a web page (event code pv)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_tracker.events.event import Event, Field
from durable_tracker.runtime.elsewhere import names_from_elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.self_describing_json import SelfDescribingJson
    from durable_tracker.subject import Subject


class PageView(Event):
    """The view of a web page."""

    page_url = Field[str]("url", "The address of the page. Not empty.", required=True)
    page_title = Field["str | None"]("page", "The title of the page.")
    referrer = Field["str | None"]("refr", "The address of the page that led here.")

    def __init__(
        self,
        page_url: str,
        page_title: str | None = None,
        referrer: str | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "pv"}, event_subject, context, true_timestamp)
        self.page_url = page_url
        self.page_title = page_title
        self.referrer = referrer


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
