"""The kinds of events.

An event object may be changed and tracked any number of times: each time it is read as it then is, and becomes an
event of its own, with its own id. Tracking never changes it.

Required text is checked when it is given, everything else when the event is tracked. All raise `InvalidEventError`.
"""

from durable_tracker.events.event import Event
from durable_tracker.events.page_ping import PagePing
from durable_tracker.events.page_view import PageView
from durable_tracker.events.screen_view import ScreenView
from durable_tracker.events.self_describing import SelfDescribing
from durable_tracker.events.structured_event import StructuredEvent

__all__ = ["Event", "PagePing", "PageView", "ScreenView", "SelfDescribing", "StructuredEvent"]
