"""The seam between delivery and the wire: what a transport promises."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAYLOAD_DATA_HEAD = b'{"schema":"iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4","data":['
"""What a POST body has before its events, which are joined by one comma each."""

PAYLOAD_DATA_TAIL = b"]}"
"""What a POST body has after its events."""

ENVELOPE_SIZE = len(PAYLOAD_DATA_HEAD) + len(PAYLOAD_DATA_TAIL)
"""Bytes of a body that are not events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of one request.

    Attributes:
        status: the HTTP status, or None if no complete answer came in time.
        retry_after_s: the answer's Retry-After in seconds from now, or None. Not yet capped.
        error: for the log, what went wrong; holds no payload and no credential.
        is_unsent: whether it failed while the request was still going out: a smaller one may get through.
    """

    status: int | None
    retry_after_s: float | None = None
    error: str | None = None
    is_unsent: bool = False


def qualified_name(kind: type) -> str:
    """Return the name by which another process knows a class, also one of the program that was started."""
    module = kind.__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = module if spec is None else spec.name
    return f"{module}.{kind.__qualname__}"


class Transport(Protocol):
    """Carries finished events to a collector.

    `send` may be called by several threads at once. It never raises for a failure of the network or of the
    collector: that is a Reply. It returns within a deadline of its own, and does not retry.
    """

    def send(self, events: Sequence[bytes]) -> Reply:
        """Send events, each one JSON object as UTF-8 with `stm` in it, in one request."""

    def close(self) -> None:
        """Give connections back. May be called twice, and while another thread is in `send`."""


@runtime_checkable
class OverlappingTransport(Transport, Protocol):
    """One that can say when a request is out, so that the time until its answer can be used."""

    def send_and(self, events: Sequence[bytes], meanwhile: Callable[[], object]) -> Reply:
        """As `send`; call `meanwhile` at most once, after the last byte has left and before the answer is read."""
