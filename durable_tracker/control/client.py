"""The other side: asks whoever has a queue open. It takes no lock, and writes nothing.

But whoever has an owner act removes a socket of a process that is gone.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.control import address, wire
from durable_tracker.errors import SlotBusyError

if TYPE_CHECKING:
    from pathlib import Path

_AGAIN_S: Final = 0.05
ANSWER_S: Final = 2.0
"""How long an owner may take: one that hangs never answers, nor does a child that kept the socket without knowing."""


class NoAnswerError(SlotBusyError):
    """Whoever has a queue open cannot be asked; the message says why, and what can be done."""


class RefusedError(SlotBusyError):
    """Whoever has a queue open was asked, and did not do it; the message says why."""


def ask(database: Path, command: str, *, answer_s: float = ANSWER_S, owner: int | None = None, **arguments: Any) -> Any:
    """Ask whoever has a queue open, and return the result.

    Args:
        database: the queue's file.
        command: "stats", "flush", "pause", "resume", "hand_over", "requeue", "purge" or
            "purge_dead_letters".
        answer_s: how long the answer may take, in seconds.
        owner: the process that has it open, if that is known: asked before the others.
        arguments: the command's, as JSON.

    Raises:
        NoAnswerError: nobody answers for that queue.
        RefusedError: the owner did not do it.
    """
    directory = address.directory_of(database)
    request = {"command": command, "queue": address.queue_id(database), **arguments}
    paths = sorted(address.sockets(directory), key=lambda path: address.pid_of(path) != owner)
    reasons = []
    for path in paths:
        try:
            answer = _exchange(path, request, answer_s)
        except ConnectionRefusedError:
            if command != "stats":  # who only reads writes nothing
                address.remove_if_stale(path)
        except (OSError, wire.WireError, _AnotherUserError) as exc:
            reasons.append(_reason(path, exc))
        else:
            if "error" not in answer:
                return answer.get("result")
            if answer["error"] != wire.NOT_HERE:
                raise RefusedError(f"{database}: {answer['error']}")
    who = f"process {owner}" if owner else "its owner"
    why = "; ".join(reasons) or f"{who} has no control socket in {directory} (control=False, or an older release)"
    raise NoAnswerError(f"{database}: {why}")


def stats_in(directory: Path) -> tuple[dict[str, dict[str, Any]], dict[int, str]]:
    """Ask all that have sockets in a queue dir what their queues are doing. Removes nothing.

    Returns:
        What they said, by what their queues are called, and by process why some did not answer.
    """
    found: dict[str, dict[str, Any]] = {}
    reasons: dict[int, str] = {}
    for path in address.sockets(directory):
        try:
            answer = _exchange(path, {"command": "stats"}, ANSWER_S)
            if "error" in answer:
                reasons[address.pid_of(path)] = str(answer["error"])
            found |= {str(one["queue"]): one for one in answer.get("result", ())}
        except ConnectionRefusedError:
            continue  # nobody is there any more
        except (OSError, wire.WireError, _AnotherUserError, TypeError, KeyError) as exc:
            reasons[address.pid_of(path)] = _reason(path, exc)
    return found, reasons


class _AnotherUserError(Exception):
    """The socket belongs to somebody else: root may write to it, and would be refused."""


def _exchange(path: Path, request: dict[str, Any], answer_s: float) -> dict[str, Any]:
    if path.stat().st_uid != os.geteuid():
        raise _AnotherUserError
    deadline = time.monotonic() + answer_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, address.short(path) as name:
        connection.settimeout(answer_s)
        _connect(connection, name, deadline)
        wire.send(connection, request, deadline)
        return wire.receive(connection, wire.ANSWER_SIZE_MAX, deadline)


def _connect(connection: socket.socket, name: str, deadline: float) -> None:
    while True:
        try:
            connection.connect(name)
        except BlockingIOError:  # as many wait there as may
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(_AGAIN_S)
        else:
            return


def _reason(path: Path, exc: Exception) -> str:
    pid = address.pid_of(path)
    if isinstance(exc, (PermissionError, _AnotherUserError)):
        user = _user_of(path)
        return f"process {pid} belongs to {user}: ask as that user, with sudo -u {user} durable-tracker ..."
    if isinstance(exc, TimeoutError):
        return f"process {pid} does not answer"
    return f"process {pid}: {exc}"


def _user_of(path: Path) -> str:
    number: int | None = None
    with contextlib.suppress(KeyError, OSError):  # nor may it be seen, or be there any more
        number = path.stat().st_uid
        return pwd.getpwuid(number).pw_name
    return "another user" if number is None else str(number)
