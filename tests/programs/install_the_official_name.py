"""Put the package in the official one's place, and import it in every way that a library does."""

# mypy looks at the official package, which marks no name as exported:
# mypy: disable-error-code="attr-defined,comparison-overlap"
from __future__ import annotations

import durable_tracker
import durable_tracker.compat

durable_tracker.compat.install()
durable_tracker.compat.install()

import snowplow_tracker  # noqa: E402 (what was installed)
import snowplow_tracker.events.page_view as page_view  # noqa: E402, PLR0402 (one of the ways)
from snowplow_tracker import Emitter, SelfDescribingJson, Subject, Tracker, logger  # noqa: E402, F401 (as above)
from snowplow_tracker.emitters import AsyncEmitter  # noqa: E402 (as above)
from snowplow_tracker.tracker import Tracker as Same  # noqa: E402 (as above)
from snowplow_tracker.typing import PayloadDict  # noqa: E402, F401 (as above)

import durable_tracker.events.page_view  # noqa: E402 (by its own name, too)

assert Same is Tracker is durable_tracker.Tracker
assert issubclass(AsyncEmitter, Emitter)
assert page_view.PageView is durable_tracker.PageView
assert snowplow_tracker.__version__ == durable_tracker.__version__
assert snowplow_tracker.emitters.Emitter is Emitter


class Mine(Emitter):
    """A subclass, as that of a library."""

    def http_post(self, data: str) -> int:
        return 200


print("good")
