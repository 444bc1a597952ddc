"""What a request and its answer are: a JSON object in a line each, of a version and a bounded length, by a deadline.

{"version": 1, "command": "requeue", "queue": "shop/0.sqlite3", "keys": [3, 4]}
{"version": 1, "result": 2}        or       {"version": 1, "error": "..."}
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

VERSION: Final = 1
REQUEST_SIZE_MAX: Final = 4 << 20
ANSWER_SIZE_MAX: Final = 4 << 20
_PIECE: Final = 1 << 16

NOT_HERE: Final = "not_here"
"""The error of a process that does not have the queue open."""


class WireError(Exception):
    """The other side did not keep to this, or is not there any more."""


def send(connection: socket.socket, message: Mapping[str, Any], deadline: float) -> None:
    """Send a message, of this version, before a deadline by the monotonic clock.

    Raises:
        OSError: the other side is gone, or too slow.
    """
    connection.settimeout(max(deadline - time.monotonic(), 0.001))
    connection.sendall(json.dumps({"version": VERSION, **message}).encode() + b"\n")


def receive(connection: socket.socket, size_max: int, deadline: float) -> dict[str, Any]:
    """Return the message that comes before a deadline by the monotonic clock.

    Raises:
        OSError: the other side is too slow.
        WireError: it is gone, or what it sent is no message of this version.
    """
    received = bytearray()
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        piece = connection.recv(_PIECE)
        if not piece:
            raise WireError("it ended before the end of the line")
        received += piece
        if len(received) > size_max:
            raise WireError(f"it takes more than {size_max} bytes")
    try:
        message = json.loads(received)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"it is no JSON: {exc}") from None
    if not isinstance(message, dict) or message.get("version") != VERSION:
        raise WireError(f"it is not of version {VERSION}, the one that this release knows")
    return message
