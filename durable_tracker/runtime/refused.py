"""Names of the official tracker that have no meaning here. Using one says what to use instead."""

from __future__ import annotations

from typing import Any

from durable_tracker.errors import ConfigurationError


class _Refused:
    instead = ""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise ConfigurationError(f"{type(self).__name__}: {self.instead}")


class RedisEmitter(_Refused):
    """Refused: every emitter is a durable queue."""

    instead = "every Emitter stores its events on disk; use Emitter, with drain=False to leave sending to a drain"


class RedisWorker(_Refused):
    """Refused: `python -m durable_tracker.drain` is the worker."""

    instead = "an Emitter sends by itself; `python -m durable_tracker.drain` sends what others left"


class CeleryEmitter(_Refused):
    """Refused: every emitter sends in the background."""

    instead = "every Emitter sends in the background and survives crashes; use Emitter"
