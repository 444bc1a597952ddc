"""Requests in flight, and the use that the policy loop can make of the time that they take.

One request: it goes out in the caller's thread when it is collected, and the transport calls back while it waits for
the answer. Several: each in a thread of its own. The policy loop submits and collects; it is the only user and has one
thread. Replies come in any order.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from durable_tracker.delivery.transport import OverlappingTransport, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_tracker.delivery.transport import Transport


class Parcel(Protocol):
    """What can be sent: it can be asked for its events, with the time of sending in them, when it is its turn."""

    def events(self) -> Sequence[bytes]:
        """Return the events as they go out now."""


P = TypeVar("P", bound=Parcel)


class Senders(Generic[P]):
    """Sends parcels through a transport, at most `senders` at a time.

    Args:
        transport: carries the parcels.
        senders: how many requests are in flight at most. Daemon threads are made when they are first needed, if there
            are several; if one cannot be made (the interpreter is shutting down, or the process has too many), sending
            falls back to the caller's thread.
        pause: called in the caller's thread between making a request's events and sending them.
    """

    def __init__(self, transport: Transport, senders: int, pause: Callable[[], object]) -> None:
        self._transport = transport
        self._overlapping = transport if isinstance(transport, OverlappingTransport) else None
        self._senders = senders
        self._pause = pause
        self._threads = 0
        self._own: deque[P] = deque()
        self._waiting: queue.SimpleQueue[P | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[P, Reply | BaseException]] = queue.SimpleQueue()
        self.in_flight = 0

    def submit(self, parcel: P) -> None:
        """Send a parcel: as soon as a sender is free, or, while it is the only one, when it is collected."""
        self._own.append(parcel)
        self.in_flight += 1
        if self._senders > 1 and self.in_flight > 1:
            while self._threads < min(self._senders, self.in_flight) and self._start_sender():
                pass
            while self._threads and self._own:
                self._waiting.put(self._own.popleft())

    def collect(self, meanwhile: Callable[[], object]) -> tuple[P, Reply]:
        """Wait for a reply to any of the parcels in flight. There has to be one.

        What interrupted a sending (`KeyboardInterrupt`, `SystemExit`) is raised here.

        Args:
            meanwhile: called while there is nothing to do but to wait, unless the transport knows no such moment.
        """
        if self._own:
            self.in_flight -= 1  # first: what interrupts the sending has nothing in flight
            parcel = self._own.popleft()
            return parcel, self._send(parcel, meanwhile)
        meanwhile()
        parcel, reply = self._done.get()
        self.in_flight -= 1
        if isinstance(reply, BaseException):
            raise reply
        return parcel, reply

    def withdraw(self) -> None:
        """Take back what was submitted and not begun to be sent by anybody."""
        self.in_flight -= len(self._own)
        self._own.clear()

    def close(self) -> None:
        """Let the threads end once they have sent what they have. May be called twice."""
        for _ in range(self._threads):
            self._waiting.put(None)
        self._threads = 0

    def _start_sender(self) -> bool:
        thread = threading.Thread(target=self._run, name=f"durable-tracker-sender-{self._threads}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads += 1
        return True

    def _run(self) -> None:
        while (parcel := self._waiting.get()) is not None:
            reply: Reply | BaseException
            try:
                reply = self._send(parcel, None)
            except BaseException as exc:  # noqa: BLE001 - `collect` raises it, where it ends the run
                reply = exc
            self._done.put((parcel, reply))

    def _send(self, parcel: P, meanwhile: Callable[[], object] | None) -> Reply:
        try:
            events = parcel.events()
            if meanwhile is None:
                return self._transport.send(events)
            self._pause()
            if self._overlapping is None:
                return self._transport.send(events)
            return self._overlapping.send_and(events, meanwhile)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - a transport of the user's own may do anything; its text too
            return Reply(status=None, error=f"the transport raised {type(exc).__name__}")
