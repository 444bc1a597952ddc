"""What an emitter has in one process once it was used: a queue, a worker, and a transport."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from durable_tracker.control import server
from durable_tracker.engines.queue import Evicting
from durable_tracker.errors import QueueError
from durable_tracker.log import logger
from durable_tracker.runtime.stats import left_s

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from durable_tracker.delivery.transport import Transport
    from durable_tracker.engines.queue import Queue
    from durable_tracker.runtime.worker import Worker


@dataclass(slots=True, eq=False)
class Opened:
    """A queue that this process owns, and who delivers it. Belongs to the process that made it."""

    queue: Queue
    worker: Worker
    transport: Transport
    emitter: str
    """The emitter's name."""
    max_queue_bytes: int
    """The bound of the queue."""
    retiring: weakref.finalize[..., Any]
    """Retires the worker when the emitter is gone."""
    give: weakref.WeakMethod[Callable[[], bool]]
    """The emitter's way to hand the queue over: nothing here keeps the emitter from being collected."""
    evicting: Evicting | None = field(init=False)
    """The queue, if it can make room by removing its oldest events."""

    def __post_init__(self) -> None:
        queue: object = self.queue
        self.evicting = queue if isinstance(queue, Evicting) else None

    @property
    def state(self) -> str:
        """What it is doing, in a word; see `EmitterStats`."""
        worker = self.worker
        return "stopped" if worker.why_stopped else "paused" if worker.is_paused else worker.state.state

    def told(self) -> dict[str, Any]:
        """Return what it is doing, for whoever asks this process; see `durable_tracker.control.server`."""
        state = self.worker.state
        return {
            "emitter": self.emitter,
            "state": self.state,
            "since_s": round(time.monotonic() - state.since, 3),
            "last_error": self.worker.why_stopped or state.last_error,
            "next_attempt_s": left_s(state.next_attempt_at),
            "requests": state.requests,
            "delivered": state.delivered,
            "consecutive_troubles": state.consecutive_troubles,
            "suspects": state.suspects,
            "parked": state.parked,
            "answers": [asdict(answer) for answer in self.worker.answers],
            "ledger": asdict(self.queue.ledger()),
            "used_bytes": self.queue.used_bytes(),
            "max_queue_bytes": self.max_queue_bytes,
        }

    def pause(self) -> None:
        """Deliver nothing for now; see `Worker.pause`."""
        self.worker.pause()

    def resume(self) -> None:
        """Deliver again."""
        if self.worker.drains:
            self.worker.start()
        self.worker.resume()

    def asked_to_hand_over(self) -> bool:
        """Have the emitter let go of the queue, and go on in another; return whether there was anything in it."""
        give = self.give()
        return give is not None and give()

    def hand_over(self, *, keeps_transport: bool) -> None:
        """Close the queue, so that somebody else can deliver it."""
        server.withdraw(self.queue)
        self._stop()
        self.queue.close()
        if not keeps_transport:
            self.transport.close()

    def _stop(self) -> None:
        self.worker.stop()
        self.retiring.detach()  # which keeps the worker for as long as the emitter lasts

    def announce(self) -> None:
        """Wake the worker if enough was put for that."""
        if self.queue.puts >= self.worker.wake_at:
            self.worker.wake()

    def flush(self, timeout_s: float | None) -> bool:
        """Deliver now; see `Worker.flush`. Where a drain delivers: only look."""
        if self.queue.is_empty():
            return True
        if not self.worker.drains:
            return False
        self.worker.start()
        return self.worker.flush(timeout_s)

    def close(self, timeout_s: float, *, drains: bool) -> bool:
        """Deliver what the collector takes at once, and close everything. Return whether the queue is empty.

        Args:
            timeout_s: seconds to wait at most; an outage is not waited for.
            drains: whether there is anything to deliver by.
        """
        deadline = time.monotonic() + timeout_s
        server.withdraw(self.queue)
        worker, queue = self.worker, self.queue
        with contextlib.suppress(QueueError):
            if drains and not queue.is_empty():
                worker.start()  # which it is, unless the queue was opened after the exit handler
            if worker.has_started and worker.state.state in ("idle", "sending"):
                worker.flush(timeout_s)
        self._stop()
        worker.join(deadline - time.monotonic())
        is_empty = False
        with contextlib.suppress(QueueError):
            is_empty = queue.is_empty()
        queue.close()
        try:
            self.transport.close()
        except Exception as exc:  # noqa: BLE001 - a transport of the user's own; at exit the other emitters come next
            logger.warning("emitter.transport_not_closed", extra={"queue": queue.name, "error": type(exc).__name__})
        return is_empty

    def leave(self) -> None:
        """Give up a queue that was closed under this process, with the transport's sockets."""
        server.withdraw(self.queue)
        self._stop()
        self.queue.leave()
        forget = getattr(self.transport, "forget", None)
        if forget is not None:
            forget()
