"""A library that is not one's own: it knows the official name alone."""

# mypy looks at the official package, which marks no name as exported:
# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import requests
from snowplow_tracker import Emitter, Subject, Tracker
from snowplow_tracker import logger as sp_logger
from snowplow_tracker.self_describing_json import SelfDescribingJson

sp_logger.setLevel(100)


class Theirs(Emitter):
    def http_post(self, payload: str) -> int:
        headers = {"content-type": "application/json; charset=utf-8"}
        return requests.post(self.endpoint, data=payload, timeout=5, headers=headers).status_code


def run(address: str) -> None:
    tracker = Tracker(namespace="theirs", emitters=Theirs(address), subject=Subject())
    tracker.track_struct_event("c", "a", context=[SelfDescribingJson("iglu:a/b/jsonschema/1-0-0", {})])
    tracker.flush()
