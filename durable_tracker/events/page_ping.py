"""A sign that a web page is still being read (event code pp)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_tracker.events.event import Event, Field
from durable_tracker.runtime.elsewhere import names_from_elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.self_describing_json import SelfDescribingJson
    from durable_tracker.subject import Subject


class PagePing(Event):
    """A sign that the user is still reading a web page. The offsets are in pixels since the last ping."""

    page_url = Field[str]("url", "The address of the page. Not empty.", required=True)
    page_title = Field["str | None"]("page", "The title of the page.")
    referrer = Field["str | None"]("refr", "The address of the page that led here.")
    min_x = Field["int | None"]("pp_mix", "The smallest horizontal offset.")
    max_x = Field["int | None"]("pp_max", "The greatest horizontal offset.")
    min_y = Field["int | None"]("pp_miy", "The smallest vertical offset.")
    max_y = Field["int | None"]("pp_may", "The greatest vertical offset.")

    def __init__(
        self,
        page_url: str,
        page_title: str | None = None,
        referrer: str | None = None,
        min_x: int | None = None,
        max_x: int | None = None,
        min_y: int | None = None,
        max_y: int | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "pp"}, event_subject, context, true_timestamp)
        self.page_url = page_url
        self.page_title = page_title
        self.referrer = referrer
        self.min_x = min_x
        self.max_x = max_x
        self.min_y = min_y
        self.max_y = max_y


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
