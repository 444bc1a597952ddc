"""What delivery tells: a snapshot of its state, lines in the log, and the caller's callbacks. It decides nothing.

A change for the worse is logged once, until there is one for the better; what befalls single events is logged the first
time, and counted from then on. What the callbacks raise is logged and goes no further.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from durable_tracker.delivery.state import Answer, DeliveryState, Phase
from durable_tracker.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from durable_tracker.delivery.batches import Batch
    from durable_tracker.delivery.transport import Reply
    from durable_tracker.engines.queue import Row

_SUSPECTED = "suspected"
ANSWERS_MAX = 10


class Reporter:
    """Tells what one delivery does. One thread at a time may call it; `state` is for all.

    Args:
        about: what each line of the log says besides: the emitter, the queue, the collector.
        on_success: see `Delivery`.
        on_failure: see `Delivery`.
    """

    def __init__(
        self,
        about: Mapping[str, str],
        on_success: Callable[[list[dict[str, Any]]], object] | None,
        on_failure: Callable[[int, list[dict[str, Any]]], object] | None,
    ) -> None:
        self._about = about
        self._on_success = on_success
        self._on_failure = on_failure
        self._said: str | None = None  # the trouble that was logged last, so that it is logged once
        self._delivered_unreported = 0
        self.state = DeliveryState()
        self.answers: deque[Answer] = deque(maxlen=ANSWERS_MAX)

    def note(self, **changes: Any) -> None:
        """Change the snapshot."""
        if "state" in changes and changes["state"].is_trouble != self.state.state.is_trouble:
            changes["since"] = time.monotonic()
        self.state = replace(self.state, **changes)

    def answered(self, reply: Reply, *, is_delivered: bool) -> None:
        """Count a request, and keep what came back: what came before as well counts as one."""
        error = None if is_delivered else reply.error
        text = error or ("no answer" if reply.status is None else f"HTTP {reply.status}")
        last = self.answers[-1] if self.answers else None
        now = time.time()
        if last is not None and last.text == text:
            last.count, last.last_at = last.count + 1, now
        else:
            self.answers.append(Answer(text, 1, now, now))
        self.note(requests=self.state.requests + 1, last_error=error or self.state.last_error)

    # ── what becomes of events ───────────────────────────────────────────────────────────────────────────────────

    def accepted(self, batch: Batch) -> None:
        """The collector has taken a batch."""
        self._delivered_unreported += len(batch.rows)
        state = self.state
        self.note(
            state=Phase.SENDING,
            batches=state.batches + 1,
            bytes=state.bytes + batch.size,
            delivered=state.delivered + len(batch.rows),
            consecutive_troubles=0,
            next_attempt_at=None,
        )

    def removed(self, batch: Batch) -> None:
        """A batch that was accepted has left the queue."""
        if self._on_success is not None:
            self._call(self._on_success, [json.loads(event) for event in batch.sent])

    def expired(self, rows: Sequence[Row], max_age_s: float) -> None:
        """Rows were too old to be sent, and are gone."""
        if not self.state.expired:
            fate = "dropped unsent; later ones are counted only"
            self._log(
                logging.WARNING, "delivery.events_expired", {"events": len(rows), "max_age_s": max_age_s, "fate": fate}
            )
        self.note(expired=self.state.expired + len(rows))
        self.failed(rows)

    def refused(self, row: Row, reason: str | None) -> None:
        """A row was moved to the dead letters."""
        if not self.state.dead:
            fate = "kept among the dead letters, since others are accepted; later ones are counted only"
            self._log(logging.WARNING, "delivery.event_refused", {"reason": reason, "fate": fate})
        self.note(dead=self.state.dead + 1)
        self.failed([row])

    def set_aside(self, count: int) -> None:
        """Suspects were moved to the dead letters on request."""
        if count:
            fate = "kept among the dead letters, as was asked for"
            self._log(logging.WARNING, "delivery.suspects_set_aside", {"events": count, "fate": fate})
        self.note(dead=self.state.dead + count)

    def parked(self, reason: str) -> None:
        """There is no room among the dead letters for a row that was refused."""
        if not self.state.parked:
            fate = "kept in the queue and passed by, until dead letters are requeued or purged"
            self._log(logging.ERROR, "delivery.event_parked", {"reason": reason, "fate": fate})

    def failed(self, rows: Sequence[Row]) -> None:
        """Hand rows to `on_failure`: those that will not be tried again, or, if that was asked for, those that will."""
        if self._on_failure is not None:
            delivered, self._delivered_unreported = self._delivered_unreported, 0
            self._call(self._on_failure, delivered, [json.loads(row.payload) for row in rows])

    # ── how the collector does ───────────────────────────────────────────────────────────────────────────────────

    def recovered(self) -> None:
        """The collector takes events; said if something else was said before."""
        if self._said is not None:
            self._said = None
            self._log(logging.INFO, "delivery.recovered", {"fate": "events are being delivered again"})

    def suspected(self, count: int) -> None:
        """Nothing is left but events that were refused without a proof."""
        if self._said is None:
            self._said = _SUSPECTED
            fate = "kept until the collector accepts another event, which tells whose fault the refusal is"
            self._log(logging.WARNING, "delivery.events_suspected", {"events": count, "fate": fate})
        self.note(trouble_count=self.state.trouble_count + 1)

    def troubled(self, phase: Phase, consecutive: int) -> None:
        """An attempt ended in trouble."""
        self.note(state=phase, consecutive_troubles=consecutive, trouble_count=self.state.trouble_count + 1)
        if self._said == phase:
            return
        self._said = phase
        extra = {"reason": self.state.last_error, "fate": "all events are kept, and sending them is tried again"}
        if phase is Phase.BLOCKED:
            extra["remedy"] = "look at the collector's address, the credentials and what stands in between"
            self._log(logging.ERROR, "delivery.collector_blocked", extra)
        else:
            self._log(logging.WARNING, "delivery.interrupted", extra)

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        try:
            callback(*args)
        except KeyboardInterrupt:  # not the callback's
            raise
        except BaseException as exc:  # noqa: BLE001 - the user's code (CancelledError, gevent's Timeout); its text may hold a payload
            frame = exc.__traceback__ and exc.__traceback__.tb_next
            self._log(
                logging.ERROR,
                "delivery.callback_failed",
                {
                    "callback": getattr(callback, "__qualname__", type(callback).__name__),
                    "error": type(exc).__name__,
                    "at": f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else None,
                    "fate": "none of the events' fates depends on it",
                },
            )

    def _log(self, level: int, event: str, extra: Mapping[str, object]) -> None:
        logger.log(level, event, extra={**self._about, **extra})
