"""The owner's side: a socket in each queue dir, and a thread that waits at it.

    serve(owner) ──► directory has no listener? ──► bind, listen ──► thread: accept ──► thread: request ──► answer
    withdraw(queue) ──► none left in the directory? ──► close, unlink

The thread that waits costs nothing while nobody asks. A request has a thread of its own, so that one who is slow, or
who waits for a flush, holds up nobody. No request makes this process read or write a path: a queue is named as those
that are open here are, and compared. Whatever fails here is logged once and stops nothing else.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import errno
import os
import socket
import stat
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from durable_tracker.control import address, wire
from durable_tracker.errors import QueueError
from durable_tracker.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from durable_tracker.engines.queue import Queue

REQUEST_S: Final = 2.0
"""How long a client may take for its request, or to take its answer."""
FLUSH_S_MAX: Final = 3600.0
KEYS_MAX: Final = 500
"""In one request. To purge them is one transaction, to requeue them one each: done or not if the process is killed."""
_KEYS_END: Final = 1 << 63  # SQLite has no others
_CLIENTS_MAX: Final = 32
_PAUSE_S: Final = 1.0
_PASSING: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EINTR}
_QUEUED: Final = 128
_CREDENTIALS: Final = struct.Struct("3i")  # of SO_PEERCRED: process, user, group; see unix(7)


class Owner(Protocol):
    """What has a queue open in this process, and delivers it."""

    @property
    def queue(self) -> Queue:
        """The queue."""

    def told(self) -> dict[str, Any]:
        """Return what it is doing, as JSON."""

    def flush(self, timeout_s: float | None) -> bool:
        """Deliver now, and return whether nothing is left."""

    def pause(self) -> None:
        """Deliver nothing until `resume`."""

    def resume(self) -> None:
        """Deliver again."""

    def asked_to_hand_over(self) -> bool:
        """Let go of the queue, and go on in another; return whether there was anything in it."""


class _Listener:
    """A socket that listens, and the process that made it."""

    def __init__(self, listening: socket.socket, path: Path, directory: Path) -> None:
        self.pid = os.getpid()
        self.socket = listening
        self.path = path
        self.directory = directory
        status = os.fstat(listening.fileno())
        self.identity = (status.st_dev, status.st_ino)

    def is_ours(self) -> bool:
        """Return whether it is this process's, and its number was not closed under it, and perhaps given out again."""
        return self.pid == os.getpid() and self._is_there()

    def _is_there(self) -> bool:
        try:
            status = os.fstat(self.socket.fileno())
        except (OSError, ValueError):
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def close(self) -> None:
        """Stop listening."""
        is_own = self.pid == os.getpid()
        if is_own:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        if not self._is_there():
            self.socket.detach()  # else it would close, once it is collected, what has the number now
            return
        if not is_own:
            os.close(self.socket.detach())  # shut down it would be the parent's as well
            return
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # which wakes the thread that waits; a close would not
        self.socket.close()


class _Served(NamedTuple):
    owner: Owner
    directory: Path
    """The queue dir, without links: it may be known by several names, and has one socket."""


_owners: dict[int, _Served] = {}
_listeners: dict[Path, _Listener] = {}
_said: list[str] = []
_making: dict[str, object] = {}
"""Who makes and closes sockets now, under "by". Never waited for: a signal handler may open a queue."""
_clients = threading.Semaphore(_CLIENTS_MAX)
_pid = os.getpid()


def serve(owner: Owner) -> None:
    """Answer questions about a queue from now on. Raises nothing; may be called from a signal handler."""
    if not hasattr(socket, "AF_UNIX") or owner.queue.path is None:
        return
    if _pid != os.getpid():
        _forget()  # a fork that ran no hooks
    directory = Path(os.path.realpath(address.directory_of(owner.queue.path)))
    _owners[id(owner.queue)] = _Served(owner, directory)
    _settle()


def withdraw(queue: Queue) -> None:
    """Answer no more about a queue; it is about to be closed. Raises nothing."""
    if _owners.pop(id(queue), None) is not None:
        _settle()


def _settle() -> None:
    """Have a listener in each directory that has owners, and in no other."""
    token = object()
    # Whoever is at it looks once more when it is done, so that none is forgotten.
    while (directory := _unsettled()) is not None:
        try:
            if _making.setdefault("by", token) is not token:
                return
            if _owners_in(directory):
                _listen(directory)
            else:
                _drop(directory)
        except Exception as exc:  # noqa: BLE001 - also a lack of memory: an event is being tracked
            for one in _owners_in(directory):
                _owners.pop(id(one.queue), None)
            if not _said:
                _said.append(str(exc))
                fate = "events are taken and delivered as ever; commands cannot ask this process"
                extra = {"queue": str(directory), "error": f"{type(exc).__name__}: {exc}", "fate": fate}
                logger.warning("control.no_socket", extra=extra)
        finally:
            # Not a lock, and no call: as one returns, a signal handler may raise.
            if _making and _making["by"] is token:
                del _making["by"]


def _owners_in(directory: Path) -> list[Owner]:
    return [one.owner for one in list(_owners.values()) if one.directory == directory]


def _unsettled() -> Path | None:
    wanted = {one.directory for one in list(_owners.values())}
    for directory in wanted:
        listener = _listeners.get(directory)
        if listener is None or not listener.is_ours():
            return directory
    return next((directory for directory in list(_listeners) if directory not in wanted), None)


def _drop(directory: Path) -> None:
    listener = _listeners.pop(directory, None)
    if listener is not None:
        listener.close()


def _listen(directory: Path) -> None:
    _drop(directory)  # one whose number was closed under it
    for path in address.sockets(directory):
        address.remove_if_stale(path)
    path = address.own_socket(directory)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener = _Listener(listening, path, directory)
    try:
        listening.settimeout(None)  # an application may have set another for all its sockets
        with contextlib.suppress(OSError):
            os.fchmod(listening.fileno(), stat.S_IRUSR | stat.S_IWUSR)  # before the bind, which gives it to the file
        path.unlink(missing_ok=True)  # of an earlier emitter of this process, that was interrupted
        with address.short(path) as name:
            listening.bind(name)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listening.listen(_QUEUED)
        _listeners[directory] = listener
        _thread.start_new_thread(_accept, (listener,))
    except BaseException:
        _listeners.pop(directory, None)
        listener.close()
        raise


# ── the threads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _accept(listener: _Listener) -> None:
    while listener.is_ours():
        try:
            connection, _ = listener.socket.accept()
        except OSError as exc:
            if exc.errno not in _PASSING:
                return  # it was closed
            time.sleep(_PAUSE_S)
            continue
        if not _clients.acquire(blocking=False):
            connection.close()
            continue
        try:
            _thread.start_new_thread(_answer, (connection, _clients, listener.directory))
        except (RuntimeError, MemoryError):
            _clients.release()
            connection.close()


def _answer(connection: socket.socket, clients: threading.Semaphore, directory: Path) -> None:
    try:
        with connection:
            try:
                request = wire.receive(connection, wire.REQUEST_SIZE_MAX, time.monotonic() + REQUEST_S)
                answer = {"result": _result(request, connection, directory)}
            except (wire.WireError, _RefusedError, QueueError) as exc:
                answer = {"error": str(exc)}
            wire.send(connection, answer, time.monotonic() + REQUEST_S)
    except OSError:
        pass  # the client is gone, or too slow: nothing here depends on it
    except Exception as exc:  # noqa: BLE001 - a defect; the process goes on
        logger.error("control.failed", extra={"error": f"{type(exc).__name__}: {exc}", "fate": "said to nobody"})
    finally:
        clients.release()


class _RefusedError(Exception):
    """A request that is not done; the text says why."""


def _result(request: Mapping[str, Any], connection: socket.socket, directory: Path) -> Any:
    user = _user_of(connection)
    if user is not None and user != os.geteuid():
        raise _RefusedError(f"refused: this process belongs to user {os.geteuid()}, and the request came from {user}")
    command = request.get("command")
    if command == "stats" and "queue" not in request:
        return [_told(owner) for owner in _owners_in(directory)]
    act = _COMMANDS.get(command) if isinstance(command, str) else None
    if act is None:
        raise _RefusedError(f"command: {command!r:.80} is not known; known are {', '.join(_COMMANDS)}")
    for owner in _owners_in(directory):  # in another one a queue may be called the same
        if owner.queue.path is not None and address.queue_id(owner.queue.path) == request.get("queue"):
            return act(owner, request)
    raise _RefusedError(wire.NOT_HERE)


def _user_of(connection: socket.socket) -> int | None:
    """Return the user at the other end; None where the system does not tell: its mode keeps others out."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return int(user)


def _told(owner: Owner) -> dict[str, Any]:
    assert owner.queue.path is not None  # noqa: S101 (else it is not served)
    return {"queue": address.queue_id(owner.queue.path), "pid": os.getpid(), **owner.told()}


def _flush(owner: Owner, request: Mapping[str, Any]) -> bool:
    timeout_s = request.get("timeout_s")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 <= timeout_s <= FLUSH_S_MAX:
        raise _RefusedError(f"timeout_s: must be a number of seconds from 0 to {FLUSH_S_MAX:.0f}")
    return owner.flush(timeout_s)


def _pause(owner: Owner, request: Mapping[str, Any]) -> bool:
    del request
    owner.pause()
    return True


def _resume(owner: Owner, request: Mapping[str, Any]) -> bool:
    del request
    owner.resume()
    return True


def _is_key(value: object) -> bool:
    return type(value) is int and -_KEYS_END <= value < _KEYS_END


def _keys(request: Mapping[str, Any]) -> list[int]:
    keys = request.get("keys")
    if not isinstance(keys, list) or len(keys) > KEYS_MAX or not all(map(_is_key, keys)):
        raise _RefusedError(f"keys: must be a list of at most {KEYS_MAX} whole numbers of 64 bits")
    return keys


def _edited(request: Mapping[str, Any]) -> dict[int, bytes]:
    edited = request.get("edited", {})
    if not isinstance(edited, dict) or not all(isinstance(text, str) for text in edited.values()):
        raise _RefusedError("edited: must be an object of texts by their keys")
    try:
        return {int(key): text.encode() for key, text in edited.items()}
    except ValueError:
        raise _RefusedError("edited: must be an object of texts by their keys") from None


_COMMANDS: Final[dict[str, Callable[[Owner, Mapping[str, Any]], Any]]] = {
    "stats": lambda owner, _: _told(owner),
    "flush": _flush,
    "pause": _pause,
    "resume": _resume,
    "hand_over": lambda owner, _: owner.asked_to_hand_over(),
    "requeue": lambda owner, request: owner.queue.requeue(_keys(request), _edited(request)),
    "purge": lambda owner, request: owner.queue.purge(_keys(request)),
    "purge_dead_letters": lambda owner, request: owner.queue.purge_dead_letters(_keys(request)),
}


# ── forks and the exit ───────────────────────────────────────────────────────────────────────────────────────────────


def _forget() -> None:
    """In a child: close what it inherited, which would keep clients waiting after the parent is gone."""
    global _clients, _pid
    for listener in list(_listeners.values()):
        listener.close()
    _listeners.clear()
    _owners.clear()
    _making.clear()
    _clients, _pid = threading.Semaphore(_CLIENTS_MAX), os.getpid()


def _close_all() -> None:
    for listener in list(_listeners.values()):
        if listener.pid == os.getpid():
            listener.close()
    _listeners.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget)
