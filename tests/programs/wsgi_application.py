"""An application for gunicorn that tracks every request, and its own import."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from prelude import make, track

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

t = make(linger=0.01, shutdown_timeout=2.0)
numbers = itertools.count()
track(t, f"preloaded-{os.getpid()}")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    name = f"request-{os.getpid()}-{next(numbers)}"
    track(t, name)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [name.encode()]
