"""The official tracker's constants, by its names."""

from typing import Final

from durable_tracker.protocol.fields import CONTEXTS_SCHEMA, TRACKER_VERSION, UNSTRUCT_EVENT_SCHEMA
from durable_tracker.self_describing_json import SelfDescribingJson

VERSION: Final = TRACKER_VERSION
DEFAULT_ENCODE_BASE64: Final = True
BASE_SCHEMA_PATH: Final = "iglu:com.snowplowanalytics.snowplow"
MOBILE_SCHEMA_PATH: Final = "iglu:com.snowplowanalytics.mobile"
SCHEMA_TAG: Final = "jsonschema"
CONTEXT_SCHEMA: Final = CONTEXTS_SCHEMA
ContextArray = list[SelfDescribingJson]

__all__ = [
    "BASE_SCHEMA_PATH",
    "CONTEXT_SCHEMA",
    "DEFAULT_ENCODE_BASE64",
    "MOBILE_SCHEMA_PATH",
    "SCHEMA_TAG",
    "UNSTRUCT_EVENT_SCHEMA",
    "VERSION",
    "ContextArray",
]
